"""TTFT, TPOT and throughput of a live service under a closed load: that many requests always in flight."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from ..recipe import Load

ROUNDS = 3  # requests each user sends; the first is warm-up
TEXT = "The order was late because a truck broke down near the river and our team had to call. "


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
        told = (await client.post("/tokenize", json={"prompt": TEXT})).raise_for_status().json()
        fits = min(load.prompt_tokens, told["max_model_len"] - load.output_tokens)
        users = [_user(client, load, told["tokens"], fits, number) for number in range(load.users)]
        timings = [t for user in await asyncio.gather(*users) for t in user]
    counted = [t for t in timings if t.tokens > 1]
    wall = max(t.ended for t in counted) - min(t.begun for t in counted)
    return {
        "ttft_s": median(t.ttft_s for t in counted),
        "tpot_s": median(t.tpot_s for t in counted),
        "output_tok_s": sum(t.tokens for t in counted) / wall,
    }


async def _user(client: Any, load: Load, known: list[int], length: int, number: int) -> list[Timing]:
    draw = random.Random(number)
    # Each prompt is drawn anew: a prefix cache must not answer for the load.
    prompts = [draw.choices(known, k=max(1, length)) for _ in range(ROUNDS)]
    sent = [await _ask(client, prompt, load.output_tokens) for prompt in prompts]
    return sent[1:]


async def _ask(client: Any, prompt: list[int], output_tokens: int) -> Timing:
    body = {
        "model": "default",
        "prompt": prompt,
        "max_tokens": output_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    begun, first, last, tokens = time.perf_counter(), 0.0, 0.0, 0
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
            if any(choice.get("text") for choice in event.get("choices") or []):
                last = time.perf_counter()
                first = first or last
    spread = (last - first) / max(1, tokens - 1)
    return Timing((first or time.perf_counter()) - begun, spread, tokens, begun, time.perf_counter())
