"""Seconds to the first token over a fleet of replicas, by router: the live one against four others.

    python bench/router.py REQUESTS.csv [--replicas 8] [--only PACE] [--out bench/results/router.json]

The router is the one that `serve` uses (steelyard.serving.host.replicas.balance), unchanged. The replicas are
simulated: continuous batching with chunked prefill, a prefix cache of 64-token blocks that shares its memory
with the running requests (LRU), first come first served. Times, lengths and answers are the trace's.

Shared beginnings are drawn, since the trace has none: each request belongs to one of GROUPS groups by Zipf's
law (exponent 1, seeded). The beginning of a group is as long as the whole prompt of a request of the trace
drawn at random; a request shares as many whole blocks of it as its own prompt is long, and has at least one
token of its own. The trace's hour is played PACE times as fast, so that the fleet is between half and fully
busy; the table shows several paces, and one other draw of groups.

llm-d's predicted latency is written after its published plugin (gateway-api-inference-extension,
slo_aware_router, its defaults; without SLOs, as its guide uses it): affinity gates at 0.99 and 0.80 with one
in a hundred explored, replicas with nothing to do first, then a draw weighted by 0.8 TTFT and 0.2 TPOT. Its
learnt model is replaced by the replica's true TTFT and TPOT at that moment, which is more than a model can
know. A second row always takes the lowest predicted TTFT in place of the draw. Exit code 4 where p99 is above
0.35 times the best of the other three.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import random
import statistics
import sys
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tables import record, write

from steelyard.serving.host.replicas.balance import BLOCK_TOKENS, Balance, Load

GROUPS = 256
# A replica: an 8-billion model on one accelerator of 350 TFLOP/s and 1.5 TB/s, half of each reached.
STEP_S = 0.012  # weights read once
PREFILL_S = 1 / 11_000  # a token of a prompt
STREAM_S = 0.00005  # a stream in the batch
CONTEXT_S = 1.7e-7  # a token of KV cache read (131,072 bytes)
BUDGET = 2048  # tokens of one step
SEQUENCES = 256
CACHE_TOKENS = 120_000  # of KV cache in all


@dataclass(slots=True)
class Request:
    number: int
    at_s: float
    prompt: int
    output: int
    blocks: list[int]
    unread: int = 0
    load: Load | None = None
    ttft_s: float = 0.0


@dataclass(eq=False)
class Server:
    """One replica, from step to step."""

    balance: Balance
    now: float = 0.0
    waiting: deque[Request] = field(default_factory=deque)
    reading: deque[Request] = field(default_factory=deque)
    decoding: list[tuple[int, int, Request]] = field(default_factory=list)  # (step of its end, number, it)
    steps: int = 0
    held: int = 0  # tokens of running requests
    cache: OrderedDict[int, None] = field(default_factory=OrderedDict)  # blocks
    hits: int = 0
    asked: int = 0

    @property
    def active(self) -> int:
        return len(self.waiting) + len(self.reading) + len(self.decoding)

    def matched(self, request: Request) -> int:
        count = 0
        for block in request.blocks:
            if block not in self.cache:
                break
            count += 1
        return min(count * BLOCK_TOKENS, request.prompt - 1)

    def step_s(self, prefill: int, streams: int) -> float:
        return STEP_S + prefill * PREFILL_S + streams * STREAM_S + self.held * CONTEXT_S

    def add(self, request: Request) -> None:
        self.waiting.append(request)

    def run(self, until: float) -> None:
        """Whole steps that begin before `until`."""
        while self.now < until:
            self._admit()
            if not self.reading and not self.decoding:
                self.now = until
                return
            if self.reading:
                self._step()
            else:
                self._decode(until)

    def _admit(self) -> None:
        while self.waiting and len(self.reading) + len(self.decoding) < SEQUENCES:
            request = self.waiting[0]
            running = bool(self.reading or self.decoding)
            if running and self.held + request.prompt + request.output > CACHE_TOKENS:
                return
            self.waiting.popleft()
            cached = self.matched(request)
            request.unread = request.prompt - cached
            self.hits += cached
            self.asked += request.prompt
            self.held += request.prompt
            self._keep(request.blocks[: cached // BLOCK_TOKENS])
            self.reading.append(request)

    def _step(self) -> None:
        streams = len(self.decoding)
        room = max(BUDGET - streams, 1)
        read = 0
        begun: list[Request] = []
        while self.reading and read < room:
            request = self.reading[0]
            part = min(request.unread, room - read)
            request.unread -= part
            read += part
            if request.unread:
                break
            begun.append(self.reading.popleft())
        self.now += self.step_s(read, streams)
        self._made(1)
        for request in begun:
            request.ttft_s = self.now - request.at_s
            self._keep(request.blocks)
            self.held += 1
            if request.load:
                request.load.progress(request.prompt, 1)
            heapq.heappush(self.decoding, (self.steps + request.output - 1, request.number, request))
        self._end()

    def _decode(self, until: float) -> None:
        """Steps without a prompt, as many at once as are alike."""
        streams = len(self.decoding)
        each = self.step_s(0, streams)
        count = max(1, min(self.decoding[0][0] - self.steps, int((until - self.now) / each) + 1))
        self.now += count * each
        self._made(count)
        self._end()

    def _made(self, count: int) -> None:
        self.steps += count
        self.held += count * len(self.decoding)
        for _, _, request in self.decoding:
            if request.load:
                request.load.progress(0, count)

    def _end(self) -> None:
        while self.decoding and self.decoding[0][0] <= self.steps:
            request = heapq.heappop(self.decoding)[2]
            self.held -= request.prompt + request.output
            if request.load:
                self.balance.ended(request.load)
        self._evict()

    def _keep(self, blocks: list[int]) -> None:
        for block in reversed(blocks):
            self.cache[block] = None
            self.cache.move_to_end(block)
        self._evict()

    def _evict(self) -> None:
        """Blocks of running requests stand in the cache too: they were used last."""
        while len(self.cache) * BLOCK_TOKENS > CACHE_TOKENS:
            self.cache.popitem(last=False)

    # what a predictor would say

    def ttft_s(self, request: Request) -> float:
        """Of `request`, if it came now: prompts before it, its own, in steps beside the streams."""
        queued = sum(other.unread for other in self.reading)
        queued += sum(other.prompt - self.matched(other) for other in self.waiting)
        tokens = queued + request.prompt - self.matched(request)
        streams = len(self.decoding)
        steps = -(-tokens // max(BUDGET - streams, 1))
        behind = max(self.now - request.at_s, 0.0)
        return behind + steps * self.step_s(0, streams) + tokens * PREFILL_S

    def tpot_s(self) -> float:
        return self.step_s(0, len(self.decoding) + len(self.reading) + len(self.waiting) + 1)


Policy = Callable[[list[Server], Request, random.Random], int]


def requests_of(file: Path, pace: float, groups: int, exponent: float, seed: int = 1) -> list[Request]:
    chance = random.Random(seed)
    with file.open() as lines:
        rows = [(float(r["t_s"]), int(r["in_tokens"]), int(r["out_tokens"])) for r in csv.DictReader(lines)]
    lengths = [chance.choice(rows)[1] for _ in range(groups)]
    weights = [1 / (rank + 1) ** exponent for rank in range(groups)]
    drawn = chance.choices(range(groups), weights, k=len(rows))
    requests = []
    for number, ((at_s, prompt, output), group) in enumerate(zip(rows, drawn, strict=True)):
        shared = min(lengths[group], prompt - 1) // BLOCK_TOKENS
        own = prompt // BLOCK_TOKENS - shared
        blocks = [hash((seed, group, i)) for i in range(shared)]
        blocks += [hash((seed, -1 - number, i)) for i in range(own)]
        requests.append(Request(number, at_s / pace, max(prompt, 1), max(output, 1), blocks))
    return requests


def round_robin(servers: list[Server], request: Request, chance: random.Random) -> int:
    return request.number % len(servers)


def least_loaded(servers: list[Server], request: Request, chance: random.Random) -> int:
    return min(range(len(servers)), key=lambda i: (servers[i].active, chance.random()))


def prefix_hash(servers: list[Server], request: Request, chance: random.Random) -> int:
    key = request.blocks[0] if request.blocks else request.number
    return max(range(len(servers)), key=lambda i: hash((key, i)))


def predicted(servers: list[Server], request: Request, chance: random.Random, draw: bool = True) -> int:
    """llm-d's; see the top of this file."""
    shares = [s.matched(request) / max(len(request.blocks) * BLOCK_TOKENS, 1) for s in servers]
    able = _gate(list(range(len(servers))), shares, 0.99, chance)
    able = [i for i in able if not servers[i].active] or able
    able = _gate(able, shares, 0.80, chance)
    ttft = [servers[i].ttft_s(request) for i in able]
    if not draw:
        return able[min(range(len(able)), key=ttft.__getitem__)]
    bad = [
        0.8 * a + 0.2 * b
        for a, b in zip(_unit(ttft), _unit([servers[i].tpot_s() for i in able]), strict=True)
    ]
    return chance.choices(able, [int((1 - value) * 80) + 2 for value in bad])[0]


def lowest_predicted(servers: list[Server], request: Request, chance: random.Random) -> int:
    return predicted(servers, request, chance, draw=False)


def _gate(able: list[int], shares: list[float], least: float, chance: random.Random) -> list[int]:
    sticky = [i for i in able if shares[i] >= least]
    return sticky if sticky and chance.random() >= 0.01 else able


def _unit(values: list[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / (high - low + 1e-9) for value in values]


POLICIES: dict[str, Policy | None] = {
    "steelyard": None,
    "least-loaded": least_loaded,
    "prefix hash": prefix_hash,
    "round robin": round_robin,
    "llm-d predicted latency": predicted,
    "llm-d, lowest predicted": lowest_predicted,
}


def simulate(requests: list[Request], replicas: int, policy: Policy | None) -> dict[str, float]:
    """p50 and p99 of TTFT in seconds, and the share of prompt tokens found in a prefix cache."""
    chance = random.Random(7)
    balance = Balance(replicas, CACHE_TOKENS // BLOCK_TOKENS)
    servers = [Server(balance) for _ in range(replicas)]
    able = list(range(replicas))
    for request in requests:
        for server in servers:
            server.run(request.at_s)
        if policy is None:
            chosen = balance.choose(able, request.prompt, request.blocks)
            request.load = balance.take(chosen, request.prompt, request.blocks, 4096)
        else:
            chosen = policy(servers, request, chance)
        servers[chosen].add(request)
    for server in servers:
        server.run(1e9)
    times = sorted(request.ttft_s for request in requests)
    return {
        "p50_s": statistics.median(times),
        "p99_s": times[int(0.99 * len(times))],
        "hits": sum(s.hits for s in servers) / sum(s.asked for s in servers),
    }


CELLS = ((5.5, 256, 1.0), (7.0, 256, 1.0), (7.7, 256, 1.0), (7.0, 1000, 0.8))  # pace, groups, exponent
BEST_OF_THREE, PREDICTED = 0.35, 1.0  # goals, as shares of their p99


def cell(file: Path, replicas: int, pace: float, groups: int, exponent: float) -> list[str]:
    """One row of the table."""
    results = {
        name: simulate(requests_of(file, pace, groups, exponent), replicas, policy)
        for name, policy in POLICIES.items()
    }
    own = results["steelyard"]["p99_s"]
    three = min(results[name]["p99_s"] for name in ("least-loaded", "prefix hash", "round robin"))
    row = [f"{pace:g} times, {groups} groups, exponent {exponent:g}"]
    row += [f"{result['p99_s']:.2f} ({result['hits'] * 100:.0f} %)" for result in results.values()]
    drawn, lowest = (results[name]["p99_s"] for name in list(POLICIES)[-2:])
    return [*row, f"{own / three:.2f}", f"{own / drawn:.2f}, {own / lowest:.2f}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("requests", type=Path)
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--only", type=float, help="one pace, with 256 groups")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cells = CELLS if options.only is None else ((options.only, 256, 1.0),)
    rows = []
    for one in cells:
        rows.append(cell(options.requests, options.replicas, *one))
        print(*rows[-1], sep=" | ", flush=True)
    if options.out:
        columns = ["the trace's hour, played", *(f"{name}: p99 (hits)" for name in POLICIES)]
        columns += ["of the best of three", "of llm-d's, drawn and lowest"]
        command = "python bench/router.py requests-azure-conv.csv"
        title = "Seconds to the first token over 8 simulated replicas, by router"
        write(options.out, record(title, command, (columns, rows), NOTE))
    missed = [row for row in rows if float(row[-2]) > BEST_OF_THREE]
    return 4 if missed else 0


NOTE = (
    "A simulation, with the live router: what the replicas and the shared beginnings are is said in "
    "bench/router.py. In llm-d's policy the learnt model is replaced by the true latencies of that moment."
)


if __name__ == "__main__":
    sys.exit(main())
