"""TTFT, TPOT and throughput of a live service under a closed load: that many requests always in flight."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from ..recipe import Load

ROUNDS = 3  # requests each user sends; the first is warm-up
WORDS = ("order", "late", "truck", "river", "team", "call", "stock", "price", "plan", "server", "report")


@dataclass(frozen=True, slots=True)
class Timing:
    """One request: seconds to the first text, seconds a token after it, tokens, start and end."""

    ttft_s: float
    tpot_s: float
    tokens: int
    begun: float
    ended: float


def measure_load(url: str, load: Load | None, key: str | None = None) -> dict[str, float]:
    """Medians of `ttft_s`, `tpot_s` and `output_tok_s` under `load` (one user where none is given)."""
    return asyncio.run(_measure(url, load or Load(), key))


async def _measure(url: str, load: Load, key: str | None) -> dict[str, float]:
    import httpx

    headers = {"authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=load.users)
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=600, limits=limits) as client:
        users = [_user(client, load, number) for number in range(load.users)]
        timings = [t for user in await asyncio.gather(*users) for t in user]
    counted = [t for t in timings if t.tokens > 1]
    wall = max(t.ended for t in counted) - min(t.begun for t in counted)
    return {
        "ttft_s": median(t.ttft_s for t in counted),
        "tpot_s": median(t.tpot_s for t in counted),
        "output_tok_s": sum(t.tokens for t in counted) / wall,
    }


async def _user(client: Any, load: Load, number: int) -> list[Timing]:
    sent = [await _ask(client, load, f"{number} {turn}") for turn in range(ROUNDS)]
    return sent[1:]


async def _ask(client: Any, load: Load, tag: str) -> Timing:
    # Each prompt begins with its own tag: a prefix cache must not answer for the load.
    words = [tag, *(WORDS[i % len(WORDS)] for i in range(max(1, load.prompt_tokens - 30)))]
    body = {
        "model": "default",
        "messages": [{"role": "user", "content": " ".join(words)}],
        "max_tokens": load.output_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    begun, first, last, tokens = time.perf_counter(), 0.0, 0.0, 0
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
            if any((c.get("delta") or {}).get("content") for c in event.get("choices") or []):
                last = time.perf_counter()
                first = first or last
    spread = (last - first) / max(1, tokens - 1)
    return Timing((first or time.perf_counter()) - begun, spread, tokens, begun, time.perf_counter())
