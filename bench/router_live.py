"""Seconds to the first token over two live replicas, by router: ours against four others, through HTTP.

    python bench/router_live.py REQUESTS.csv [--seconds 30] [--out bench/results/router_live.json]

Each policy gets a service of its own: `steelyard serve --replicas 2` with a random Llama of 20 M parameters
in bf16, one core each, and every request comes through its front. Only the choice of the replica differs:
the class Balance of steelyard.serving.host.replicas is replaced in that process by one of the policies
below. The same requests come at the same times to each: the trace's arrivals and lengths (prompts by half,
answers by a tenth), with shared beginnings drawn as in bench/router.py, of so many groups that their
beginnings fill more than one replica's cache. Their rate is LOAD of what two replicas can do without a
cache, measured first on one idle replica. The first WARM requests fill caches and teach the predictor, and
are not counted.

llm-d's predicted latency is written after its published plugin as in bench/router.py; its learnt model
(there gradient-boosted trees or a Bayesian ridge) is a ridge over what that plugin's predictor is given:
tokens to read of this prompt, requests and tokens that wait, streams that run; fitted anew every ten
answers. Exit code 4 where a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import random_model
from router import BEST_OF_THREE, PREDICTED
from started import started
from tables import record, write

from steelyard.serving.host.replicas import pool
from steelyard.serving.host.replicas.balance import Balance, Load

SHAPE = {
    "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 10, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 49152,
}  # fmt: skip
PROMPT_SHARE, OUTPUT_SHARE, LONGEST, MOST_NEW = 0.5, 0.1, 3500, 48
GROUPS, EXPONENT = 32, 1.0
LOAD, WARM = 0.9, 40  # of two replicas' capacity without a cache; requests that are not counted
WORDS = ("sea", "ship", "wind", "rope", "sail", "deck", "mast", "wave")


# ------------------------------------------------------------------ policies, inside the front


class RoundRobin(Balance):
    turn = 0

    def choose(self, able: Sequence[int], prompt_tokens: int, blocks: Sequence[int]) -> int:
        self.turn += 1
        return able[self.turn % len(able)]


class Counting(Balance):
    """Knows how many requests each replica has."""

    def __init__(self, replicas: int, capacity_blocks: int) -> None:
        super().__init__(replicas, capacity_blocks)
        self.loads: list[list[Load]] = [[] for _ in range(replicas)]

    def take(self, number: int, prompt_tokens: int, blocks: Sequence[int], most_output: int) -> Load:
        load = super().take(number, prompt_tokens, blocks, most_output)
        self.loads[number].append(load)
        return load

    def active(self, number: int) -> list[Load]:
        """With tokens left to read or to make."""
        self.loads[number] = [load for load in self.loads[number] if load.unread + load.output > 0]
        return self.loads[number]


class LeastLoaded(Counting):
    def choose(self, able: Sequence[int], prompt_tokens: int, blocks: Sequence[int]) -> int:
        return min(able, key=lambda number: (len(self.active(number)), random.random()))


class PrefixHash(Balance):
    def choose(self, able: Sequence[int], prompt_tokens: int, blocks: Sequence[int]) -> int:
        key = blocks[0] if blocks else prompt_tokens
        return max(able, key=lambda number: hash((key, number)))


class Timed(Load):
    """Tells when its first token is there."""

    __slots__ = ("begun", "features", "ttft_s")

    def progress(self, prompt_tokens: int, output_tokens: int) -> None:
        if output_tokens and self.ttft_s is None:
            self.ttft_s = time.monotonic() - self.begun
        super().progress(prompt_tokens, output_tokens)


class Predicted(Counting):
    """llm-d's; see the top of this file. The latest 400 answers teach it."""

    def __init__(self, replicas: int, capacity_blocks: int) -> None:
        super().__init__(replicas, capacity_blocks)
        self.chance = random.Random(7)
        self.seen: list[tuple[list[float], float]] = []
        self.weights: np.ndarray | None = None
        self.features: dict[int, list[float]] = {}

    def choose(self, able: Sequence[int], prompt_tokens: int, blocks: Sequence[int]) -> int:
        cached = {number: self.replicas[number].cached_tokens(blocks) for number in able}
        self.features = {number: self._features(number, prompt_tokens - cached[number]) for number in able}
        shares = {number: cached[number] / max(prompt_tokens, 1) for number in able}
        picked = self._gate(list(able), shares, 0.99)
        picked = [number for number in picked if not self.active(number)] or picked
        picked = self._gate(picked, shares, 0.80)
        ttft = [self._ttft_s(self.features[number]) for number in picked]
        tpot = [float(len(self.active(number))) for number in picked]
        bad = [0.8 * a + 0.2 * b for a, b in zip(_unit(ttft), _unit(tpot), strict=True)]
        return self.chance.choices(picked, [int((1 - value) * 80) + 2 for value in bad])[0]

    def _features(self, number: int, unread: int) -> list[float]:
        active = self.active(number)
        waiting = [load.unread for load in active if load.unread > 0]
        return [1.0, unread / 1e3, sum(waiting) / 1e3, len(waiting), len(active) - len(waiting)]

    def _gate(self, able: list[int], shares: dict[int, float], least: float) -> list[int]:
        sticky = [number for number in able if shares[number] >= least]
        return sticky if sticky and self.chance.random() >= 0.01 else able

    def _ttft_s(self, features: list[float]) -> float:
        return 0.0 if self.weights is None else float(np.dot(self.weights, features))

    def take(self, number: int, prompt_tokens: int, blocks: Sequence[int], most_output: int) -> Load:
        plain = super().take(number, prompt_tokens, blocks, most_output)
        load = Timed(plain.replica, plain.unread, plain.output)
        load.begun, load.features, load.ttft_s = time.monotonic(), self.features[number], None
        self.loads[number][-1] = load
        return load

    def ended(self, load: Load) -> None:
        if isinstance(load, Timed) and load.ttft_s is not None:
            self.seen = [*self.seen[-399:], (load.features, load.ttft_s)]
            if len(self.seen) % 10 == 0:  # at 400 with each answer
                self._learn()
        super().ended(load)

    def _learn(self) -> None:
        x, y = np.array([row[0] for row in self.seen]), np.array([row[1] for row in self.seen])
        self.weights = np.linalg.solve(x.T @ x + 1e-3 * np.eye(x.shape[1]), x.T @ y)


def _unit(values: list[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / (high - low + 1e-9) for value in values]


POLICIES: dict[str, type[Balance]] = {
    "steelyard": Balance,
    "least-loaded": LeastLoaded,
    "prefix hash": PrefixHash,
    "round robin": RoundRobin,
    "llm-d predicted latency": Predicted,
}


def serve_with(policy: str, words: list[str]) -> None:
    """In the front's own process."""
    from steelyard.cli import main as command_line

    pool.Balance = POLICIES[policy]  # type: ignore[misc]
    sys.argv = ["steelyard", *words]
    sys.exit(command_line())


@contextmanager
def service(model: Path, policy: str, folder: Path) -> Iterator[str]:
    words = ["serve", str(model), "--replicas", "2", "--form", "bf16", "--port", "0", "--json"]
    words += ["--max-model-len", "4096", "--max-requests-at-once", "4096", "--max-queue-s", "600"]
    command = [sys.executable, __file__, "--front", policy, *words]
    with started(command, folder / "state", folder / "log") as url:
        yield url


# ------------------------------------------------------------------ requests


@dataclass(frozen=True)
class Asked:
    """One request of the trace, smaller."""

    at_s: float
    prompt: tuple[int, ...]
    output: int


def requests_of(file: Path, count: int, seed: int = 1) -> list[Asked]:
    """The trace's first `count`, as many seconds apart as there; token ids in place of words."""
    chance = random.Random(seed)
    with file.open() as lines:
        rows = [(float(r["t_s"]), int(r["in_tokens"]), int(r["out_tokens"])) for r in csv.DictReader(lines)]
    lengths = [int(chance.choice(rows)[1] * PROMPT_SHARE) for _ in range(GROUPS)]
    beginnings = [tuple(chance.choices(range(1000, 40_000), k=min(n, LONGEST))) for n in lengths]
    weights = [1 / (rank + 1) ** EXPONENT for rank in range(GROUPS)]
    made = []
    for at_s, prompt, output in rows[:count]:
        beginning = beginnings[chance.choices(range(GROUPS), weights)[0]]
        length = max(2, min(int(prompt * PROMPT_SHARE), LONGEST))
        shared = beginning[: length - 1]
        own = chance.choices(range(1000, 40_000), k=length - len(shared))
        new = max(1, min(int(output * OUTPUT_SHARE), MOST_NEW))
        made.append(Asked(at_s, (*shared, *own), new))
    return made


async def ask(client: httpx.AsyncClient, asked: Asked) -> float:
    """Seconds to the first piece."""
    body = {"model": "default", "prompt": list(asked.prompt), "max_tokens": asked.output, "stream": True,
            "ignore_eos": True, "temperature": 0}  # fmt: skip
    began, first = time.monotonic(), None
    async with client.stream("POST", "/v1/completions", json=body) as got:
        got.raise_for_status()
        async for line in got.aiter_lines():
            if first is None and line.startswith("data: {"):
                first = time.monotonic() - began
            if '"error"' in line:
                raise SystemExit(line)
    assert first is not None
    return first


async def replay(url: str, requests: list[Asked], rate: float) -> list[float]:
    """Each at its time; TTFT in order of arrival."""
    span = requests[-1].at_s - requests[0].at_s
    pace = len(requests) / rate / span
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        began = time.monotonic()
        tasks = []
        for asked in requests:
            due = began + (asked.at_s - requests[0].at_s) * pace
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.append(asyncio.create_task(ask(client, asked)))
        return list(await asyncio.gather(*tasks))


async def capacity(url: str, requests: list[Asked]) -> float:
    """Requests a second of two replicas that share nothing: 24 with new beginnings, all at once."""
    chance = random.Random(99)
    fresh = [
        Asked(0.0, tuple(chance.choices(range(1000, 40_000), k=len(one.prompt))), one.output)
        for one in requests[:24]
    ]
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        await asyncio.gather(*(ask(client, one) for one in fresh[:2]))
        began = time.monotonic()
        await asyncio.gather(*(ask(client, one) for one in fresh))
        return len(fresh) / (time.monotonic() - began)


def hits(url: str) -> float:
    """Share of prompt tokens that lay in a replica's cache."""
    text = httpx.get(f"{url}/metrics", timeout=60).text
    values = {line.split("{")[0]: float(line.split()[-1]) for line in text.splitlines() if "{" in line}
    queries = values.get("vllm:prefix_cache_queries_total", 0.0)
    return values.get("vllm:prefix_cache_hits_total", 0.0) / max(queries, 1.0)


def measured(file: Path, seconds: float, folder: Path) -> list[dict[str, Any]]:
    random_model.SHAPES["router"] = SHAPE
    model = random_model.make("router", folder / "model")
    rate, rows = 0.0, []
    for policy in POLICIES:
        with service(model, policy, folder) as url:
            if not rate:
                rate = LOAD * asyncio.run(capacity(url, requests_of(file, 200)))
        with service(model, policy, folder) as url:
            requests = requests_of(file, WARM + int(rate * seconds))
            times = sorted(asyncio.run(replay(url, requests, rate))[WARM:])
            rows.append(
                {"policy": policy, "p50_s": statistics.median(times), "hits": hits(url), "rate": rate,
                 "p99_s": times[min(len(times) - 1, int(0.99 * len(times)))], "counted": len(times)}
            )  # fmt: skip
        print({name: round(v, 3) if isinstance(v, float) else v for name, v in rows[-1].items()}, flush=True)
    return rows


def main() -> int:
    if sys.argv[1:2] == ["--front"]:
        serve_with(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("requests", type=Path)
    parser.add_argument("--seconds", type=float, default=30.0, help="of load for each policy")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(options.requests, options.seconds, Path(folder))
    p99 = {row["policy"]: row["p99_s"] for row in rows}
    three = p99["steelyard"] / min(p99[name] for name in ("least-loaded", "prefix hash", "round robin"))
    learnt = p99["steelyard"] / p99["llm-d predicted latency"]
    print(
        f"of the best of three {three:.2f} (goal {BEST_OF_THREE}), of llm-d's {learnt:.2f} (goal {PREDICTED})"
    )
    if options.out:
        shown = [
            [row["policy"], f"{row['p50_s']:.2f}", f"{row['p99_s']:.2f}", f"{row['hits'] * 100:.0f} %"]
            for row in rows
        ]
        shown.append(["steelyard's p99 over the best of the other three", "–", f"{three:.2f}", "–"])
        shown.append(["steelyard's p99 over llm-d's", "–", f"{learnt:.2f}", "–"])
        title = "Seconds to the first token over two live replicas, by router"
        note = f"{rows[0]['counted']} requests each at {rows[0]['rate']:.1f} a second; "
        note += "replicas, front and clients share two cores. See bench/router_live.py."
        command = "python bench/router_live.py requests-azure-conv.csv"
        columns = ["router", "p50, s", "p99, s", "found in a prefix cache"]
        write(options.out, record(title, command, (columns, shown), note))
    return 0 if three <= BEST_OF_THREE and learnt <= PREDICTED else 4


if __name__ == "__main__":
    sys.exit(main())
