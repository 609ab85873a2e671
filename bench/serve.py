"""Output tokens a second, TTFT and TPOT of a service over HTTP, at 1, 8 and 32 users.

    python bench/serve.py [MODEL] [--form bf16] [--runs 3]

Protocol: prompts of 128 random tokens, 64 new ones each, end tokens ignored, 4 requests a user, 2 for
warm-up; then 1,024-token prompts alone. Median of the runs; CPU time of the service and of others beside
it, since a shared machine tells little. One JSON document on standard output.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import httpx
import psutil

from steelyard.hardware import probe
from steelyard.serving import ServeSettings, Service, prepare, start

USERS = (1, 8, 32)
PROMPT_TOKENS, NEW_TOKENS = 128, 64
LONG_PROMPT_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: seconds to the first chunk, to the last, and tokens as `usage` counts them."""

    first_s: float
    whole_s: float
    tokens: int


async def ask(client: httpx.AsyncClient, ids: list[int], new: int) -> Asked:
    body = {
        "prompt": ids, "max_tokens": new, "temperature": 0, "ignore_eos": True, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    began, first, last = time.perf_counter(), None, b""
    async with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        async for data in response.aiter_bytes():
            first = first or time.perf_counter()
            last = (last + data)[-2000:]
    usage = next(json.loads(line[6:])["usage"] for line in last.splitlines()[::-1] if b'"usage":{' in line)
    ended = time.perf_counter()
    return Asked((first or ended) - began, ended - began, usage["completion_tokens"])


async def load(url: str, users: int, requests: int, prompt: int, new: int, seed: str) -> dict[str, float]:
    """`users` requests always in flight until `requests` have been answered."""
    chance = random.Random(seed)  # fresh ids, so that no prefix is cached
    prompts = iter([[chance.randrange(100, 30_000) for _ in range(prompt)] for _ in range(requests)])
    done: list[Asked] = []

    async def user(client: httpx.AsyncClient) -> None:
        for ids in prompts:
            done.append(await ask(client, ids, new))

    async with httpx.AsyncClient(base_url=url, timeout=300) as client:
        began = time.perf_counter()
        await asyncio.gather(*(user(client) for _ in range(users)))
        wall = time.perf_counter() - began
    tokens = sum(a.tokens for a in done)
    gaps = [(a.whole_s - a.first_s) / (a.tokens - 1) for a in done if a.tokens > 1]
    return {
        "output_tok_s": tokens / wall,
        "ttft_s": statistics.median(a.first_s for a in done),
        "tpot_s": statistics.median(gaps) if gaps else 0.0,
        "wall_s": wall,
    }


def watched(service: Service, measure: Any) -> dict[str, float]:
    """`measure()` with the cores that the service and that others used meanwhile."""
    before, others = cpu_s(service), psutil.cpu_times()
    found = measure()
    after, now = cpu_s(service), psutil.cpu_times()
    busy = (now.user + now.system) - (others.user + others.system)
    own = after - before
    return {**found, "own_cores": own / found["wall_s"], "other_cores": (busy - own) / found["wall_s"]}


def cpu_s(service: Service) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in service.pids()]
    return sum(t.user + t.system for t in times)


def rss_bytes(service: Service) -> int:
    return sum(psutil.Process(pid).memory_info().rss for pid in service.pids())


def middle(runs: list[dict[str, float]]) -> dict[str, float]:
    """Medians, and the spread of the rate: (largest - least) / median."""
    found = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    rates = [run["output_tok_s"] for run in runs]
    return {**found, "spread": (max(rates) - min(rates)) / found["output_tok_s"]}


def measured(service: Service, runs: int, per_user: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    asyncio.run(load(service.url, 2, 2, PROMPT_TOKENS, NEW_TOKENS, "warm-up"))
    for users in USERS:

        def one(n: int, users: int = users) -> dict[str, float]:
            seed = f"{users}:{n}"
            return asyncio.run(load(service.url, users, per_user * users, PROMPT_TOKENS, NEW_TOKENS, seed))

        found[f"users_{users}"] = middle([watched(service, lambda n=n: one(n)) for n in range(runs)])  # type: ignore[misc]
    long = asyncio.run(load(service.url, 1, 3, LONG_PROMPT_TOKENS, 1, "long"))
    found["prefill_tok_s"] = LONG_PROMPT_TOKENS / long["ttft_s"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--form", default="bf16")
    parser.add_argument("--mode", default="fast", choices=("fast", "exact"))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--per-user", type=int, default=4, help="requests that each user sends in a run")
    chosen = parser.parse_args()
    ready = prepare(chosen.model, chosen.form)
    began = time.perf_counter()
    service = start(ready.folder, ServeSettings(mode=chosen.mode, fingerprint=ready.fingerprint))
    try:
        start_s = time.perf_counter() - began
        idle = rss_bytes(service)
        figures = measured(service, chosen.runs, chosen.per_user)
        figures |= {"start_s": start_s, "rss_idle_bytes": idle, "rss_bytes": rss_bytes(service)}
    finally:
        service.stop()
    document = {
        "schema": "steelyard.bench.serve/1",
        "protocol": " ".join(__doc__.split("Protocol: ")[1].split()),
        "model": chosen.model,
        "form": chosen.form,
        "mode": chosen.mode,
        "runs": chosen.runs,
        "requests_per_user": chosen.per_user,
        "artefact": ready.fingerprint,
        "machine": asdict(probe()),
        "versions": {name: version(name) for name in ("steelyard", "openvino", "openvino-genai", "uvicorn")},
        "figures": figures,
    }
    print(json.dumps(document, indent=1, default=str))


if __name__ == "__main__":
    main()
