"""TTFT, TPOT and throughput of a live service under a closed load: that many requests always in flight."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from ...artefact import Watch
from ...lines import each_line_soon
from ...recipe import Load
from ...trust import trusting

WAIT_S = 600.0  # for one answer: a large model on a small CPU
ROUNDS = 3  # requests each user sends; the first is warm-up
TEXT = "The order was late because a truck broke down near the river and our team had to call. "


@dataclass(frozen=True, slots=True)
class Timing:
    """One request: seconds to the first text, seconds a token after it, tokens, start and end.

    `tpot_s` is None where there is no second token to wait for.
    """

    ttft_s: float
    tpot_s: float | None
    tokens: int
    begun: float
    ended: float


def measure_load(url: str, load: Load | None, key: str | None, watch: Watch) -> dict[str, float]:
    """Medians of `ttft_s`, `tpot_s` and `output_tok_s` under `load` (one user where none is given).

    What cannot be measured is left out and logged: speed is shown beside the prediction, it decides nothing.
    """
    import httpx

    try:
        return figures(asyncio.run(_measure(url, load or Load(), key)))
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        watch.log("serve.not_measured", why=type(error).__name__)
        return {}


def figures(timings: Sequence[Timing]) -> dict[str, float]:
    """Of the requests that answered; without a second token in any of them there is no `tpot_s`."""
    answered = [t for t in timings if t.tokens > 0]
    if not answered:
        return {}
    wall = max(t.ended for t in answered) - min(t.begun for t in answered)
    medians = {
        "ttft_s": median(t.ttft_s for t in answered),
        "output_tok_s": sum(t.tokens for t in answered) / max(wall, 1e-9),
    }
    spaced = [t.tpot_s for t in answered if t.tpot_s is not None]
    return medians | ({"tpot_s": median(spaced)} if spaced else {})


async def _measure(url: str, load: Load, key: str | None) -> list[Timing]:
    import httpx

    headers = {"authorization": f"Bearer {key}"} if key else {}
    limits, trusted = httpx.Limits(max_connections=load.users), trusting(url)
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=WAIT_S, limits=limits, verify=trusted
    ) as client:
        about = (await client.post("/tokenize", json={"prompt": TEXT})).raise_for_status().json()
        fits = min(load.prompt_tokens, about["max_model_len"] - load.output_tokens)
        users = [_user(client, load, about["tokens"], fits, number) for number in range(load.users)]
        return [t for user in await asyncio.gather(*users) for t in user]


async def _user(client: Any, load: Load, ids: list[int], length: int, number: int) -> list[Timing]:
    draw = random.Random(number)
    # Each prompt is drawn anew: a prefix cache must not answer for the load.
    prompts = [draw.choices(ids, k=max(1, length)) for _ in range(ROUNDS)]
    sent = [await _request(client, prompt, load.output_tokens) for prompt in prompts]
    return sent[1:]


async def _request(client: Any, prompt: list[int], output_tokens: int) -> Timing:
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
        async for line in each_line_soon(answer.aiter_bytes()):
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
            if any(choice.get("text") for choice in event.get("choices") or []):
                last = time.perf_counter()
                first = first or last
    spread = (last - first) / (tokens - 1) if tokens > 1 else None
    return Timing((first or time.perf_counter()) - begun, spread, tokens, begun, time.perf_counter())
