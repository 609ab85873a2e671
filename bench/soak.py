"""An hour of hard use: right answers, no leak, nothing lost that could be kept.

    taskset -c 1 python bench/soak.py --minutes 60 --threads 1      # one JSON document; exit 1 on a fault

`steelyard serve` under open-loop load at 80 % of the capacity measured first, with clients that leave in the
middle, slow readers, malformed bodies, 10 kill -9 of the engine (its pid is read from /metrics each time) and
3 of the front, which is started again at once by the same command, as systemd would.

Answers. The greedy answer to each of `--references` prompts is made beforehand on the quiet service. Under
load a batch's shape changes the order of sums, so near ties may fall the other way; from there on the texts
differ though each token is right. So an answer is right if it equals the reference, or if the scoring route,
on the quiet service afterwards, puts each of its tokens within TOLERANCE of the likeliest one. bf16 keeps 8
bits: a logit of 16 to 32 is rounded by up to 0.06, and two roundings and the layers before them make some
0.25 nat; f32 is 65,536 times finer. A token of another request, a lost cache block or a skipped token is off
by nats.

Failures. Allowed: a stream that had begun when an engine or the front was killed. A refusal (429) is asked
again after its Retry-After, and a request whose connection went away with the front before any token came is
asked again, as the official clients do; both are counted apart.

Memory. Fronts and engines live from kill to kill. The front: the median RSS of the first window after the
warm-up against the last window, the worst of its lives. The engine: RSS at the same age (0.8 of the median
life), the first life that began under load against the last one that reached that age.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from peers import free_port

from steelyard.lines import each_line_soon
from steelyard.model import Tokenizer
from steelyard.serving import prepare

TOLERANCE = {"exact": 1e-3, "fast": 0.3}  # nats, see above
USERS = 16  # of the capacity run
LEAVE, SLOW, MALFORMED = 0.05, 0.01, 0.03  # shares of the requests
SAMPLE_S = 2.0
ALIVE_S = 180.0  # a request that takes longer has failed
MARGIN_S = 3.0  # a kill is noticed by a client within so long
START_S = 120.0
DRIFT = 0.03
JSON = {"content-type": "application/json"}
BODIES = (
    b"", b"{", b"[]", b'"text"', b"\xff\xfe{}", b'{"prompt": 1e999}', b'{"prompt": []}', b'{"prompt": [-1]}',
    b'{"prompt": "a", "max_tokens": -5}', b'{"prompt": "a", "temperature": "hot"}', b'{"prompt": {"a": 1}}',
    b'{"prompt": "a", "n": 0}', b'{"prompt": "a", "stop": 3}', b"{" * 10000,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Question:
    ids: list[int]
    tokens: int  # of its answer, exactly: end tokens are ignored
    answer: list[int]


@dataclass(frozen=True, slots=True)
class Gap:
    """An answer unlike its reference."""

    nat: float  # its worst token behind the likeliest
    times: int  # it was given
    question: int
    at: int  # the worst token's place in the answer
    apart: int  # the first place unlike the reference
    answer: list[int]


@dataclass(slots=True)
class Tally:
    """What became of the requests."""

    sent: int = 0
    answered: int = 0
    equal: int = 0
    left: int = 0
    slow: int = 0
    malformed: int = 0
    refused: int = 0
    asked_again: int = 0
    lost_at_kill: int = 0
    failed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    differing: list[tuple[Question, list[int]]] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)


class Server:
    """`steelyard serve` in a process of its own, on one port through all its lives."""

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        threads = ["--threads", str(args.threads)] if args.threads else []
        self.command = [
            sys.executable, "-m", "steelyard", "serve", str(folder), "--port", str(port), "--mode", args.mode,
            "--log-file", str(args.log), *threads,
        ]  # fmt: skip
        self.downs: list[tuple[float, float]] = []  # killed, ready again
        self.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    async def ready(self) -> None:
        """Raises SystemExit where it ends, or does not answer in time."""
        end = time.monotonic() + START_S
        async with httpx.AsyncClient(base_url=self.url) as client:
            while time.monotonic() < end and self.process.poll() is None:
                with suppress(httpx.HTTPError):
                    if (await client.get("/ready")).status_code == 200:
                        return
                await asyncio.sleep(0.1)
        sys.exit(f"the service did not answer: exit {self.process.poll()}")

    async def kill(self) -> None:
        """-9, and the same command again."""
        began = time.monotonic()
        self.downs.append((began, float("inf")))
        self.process.kill()
        self.process.wait()
        self.start()
        await self.ready()
        self.downs[-1] = (began, time.monotonic())

    def was_down(self, since: float) -> bool:
        """Whether it was killed, or not yet back, at some moment since then."""
        return any(back > since for _, back in self.downs)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


class Soak:
    def __init__(self, service: Server, args: argparse.Namespace, vocabulary: int) -> None:
        self.service, self.args = service, args
        self.chance = random.Random(args.seed)
        self.vocabulary = vocabulary
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        self.client = httpx.AsyncClient(base_url=service.url, timeout=ALIVE_S, limits=limits)
        self.tally = Tally()
        self.kills: list[float] = []
        self.lives: list[tuple[int, float]] = []  # pid, when first seen
        self.front_rss: list[tuple[float, int, int]] = []  # when, pid, bytes
        self.engine_rss: list[tuple[float, int, int]] = []  # when, pid, bytes
        self.questions: list[Question] = []

    # ------------------------------------------------------------------ before

    async def references(self) -> None:
        for i in range(self.args.references):
            # Half begin alike, so that the prefix cache is in use.
            head = [token % self.vocabulary for token in range(300, 364)] if i % 2 else []
            ids = head + [self.chance.randrange(self.vocabulary) for _ in range(self.chance.randint(8, 160))]
            asked = Question(ids, self.chance.choice((8, 16, 32, 64)), [])
            told = (await self.client.post("/v1/completions", json=body(asked))).raise_for_status().json()
            self.questions.append(Question(ids, asked.tokens, told["choices"][0]["token_ids"]))

    async def capacity(self) -> float:
        """Requests a second with USERS always in flight."""
        ends = time.monotonic() + self.args.capacity_s
        done = 0

        async def user() -> None:
            nonlocal done
            while time.monotonic() < ends:
                asked = self.chance.choice(self.questions)
                (await self.client.post("/v1/completions", json=body(asked))).raise_for_status()
                done += 1

        began = time.monotonic()
        await asyncio.gather(*(user() for _ in range(USERS)))
        return done / (time.monotonic() - began)

    # ------------------------------------------------------------------ load

    async def load(self, per_s: float) -> None:
        """Poisson arrivals: a slow answer does not keep the next request away."""
        ends = time.monotonic() + self.args.minutes * 60
        running: set[asyncio.Task[None]] = set()
        while time.monotonic() < ends:
            task = asyncio.create_task(self.one())
            running.add(task)
            task.add_done_callback(running.discard)
            await asyncio.sleep(self.chance.expovariate(per_s))
        if running:
            await asyncio.wait(running, timeout=ALIVE_S)

    async def one(self) -> None:
        kind, asked = self.chance.random(), self.chance.choice(self.questions)
        self.tally.sent += 1
        if kind < MALFORMED:
            await self.malformed()
        elif kind < MALFORMED + LEAVE:
            await self.leaves(asked)
        else:
            slow = kind < MALFORMED + LEAVE + SLOW
            await self.asks(asked, stream=slow or self.chance.random() < 0.5, slow=slow)

    async def malformed(self) -> None:
        path = self.chance.choice(("/v1/completions", "/v1/chat/completions", "/v1/nowhere"))
        self.tally.malformed += 1
        began = time.monotonic()
        try:
            answer = await self.client.post(path, content=self.chance.choice(BODIES), headers=JSON)
            if not 400 <= answer.status_code < 500:
                self.tally.failed.append(f"malformed body answered by {answer.status_code}")
        except httpx.HTTPError as e:
            if not self.service.was_down(began):
                self.tally.failed.append(f"malformed body: {e!r}")

    async def leaves(self, asked: Question) -> None:
        """A client that goes in the middle, or before anything came."""
        self.tally.left += 1
        try:
            async with asyncio.timeout(self.chance.uniform(0.0, 2.0)):
                await self.streamed(asked, slow=False, ids=[])
        except (TimeoutError, httpx.HTTPError, Refusal, Broken):
            pass

    async def asks(self, asked: Question, stream: bool, slow: bool) -> None:
        """One request to its end: what a good client sees."""
        began, ids = time.monotonic(), list[int]()
        try:
            for _ in range(20):
                try:
                    ids = await (self.streamed(asked, slow, ids) if stream else self.whole(asked))
                    break
                except Refusal as e:
                    self.tally.refused += 1
                    await asyncio.sleep(e.after_s)
                except httpx.TransportError:
                    if ids or not self.service.was_down(began):
                        raise
                    self.tally.asked_again += 1
                    await asyncio.sleep(1.0)
            else:
                raise Broken("refused 20 times")
        except (httpx.HTTPError, Broken) as e:
            self.fail(e, began, begun=stream and bool(ids))
            return
        self.tally.slow += slow
        self.tally.answered += 1
        self.tally.latencies_s.append(time.monotonic() - began)
        self.judge(asked, ids)

    async def whole(self, asked: Question) -> list[int]:
        answer = await self.client.post("/v1/completions", json=body(asked))
        check(answer)
        return list(answer.json()["choices"][0]["token_ids"])

    async def streamed(self, asked: Question, slow: bool, ids: list[int]) -> list[int]:
        """Fills `ids` as they come, so that a failure knows what was there."""
        request = {**body(asked), "stream": True, "logprobs": 0}  # then each token has its chunk
        async with self.client.stream("POST", "/v1/completions", json=request) as answer:
            if answer.status_code != 200:
                await answer.aread()
                check(answer)
            async for line in each_line_soon(answer.aiter_bytes()):
                if line == b"data: [DONE]":
                    return ids
                if line.startswith(b"data: "):
                    told = json.loads(line[6:])
                    if "error" in told:
                        raise Broken(told["error"]["message"])
                    for choice in told["choices"]:
                        ids += choice.get("token_ids") or []
                    if slow:
                        await asyncio.sleep(0.1)
        raise Broken("the stream ended without [DONE]")

    def fail(self, error: Exception, began: float, begun: bool) -> None:
        now = time.monotonic()
        if begun and any(began - MARGIN_S < kill < now for kill in self.kills):
            self.tally.lost_at_kill += 1
        else:
            self.tally.failed.append(f"{error!r} after {now - began:.1f} s, begun: {begun}")

    def judge(self, asked: Question, ids: list[int]) -> None:
        if ids == asked.answer:
            self.tally.equal += 1
        elif len(ids) != asked.tokens:
            self.tally.wrong.append(f"{len(ids)} tokens for {asked.tokens}")
        else:
            self.tally.differing.append((asked, ids))

    # ------------------------------------------------------------------ beside the load

    async def kill(self) -> None:
        """`--kills` of them, spread over the run, at moments that chance shifts a little."""
        async for i in self.moments(self.args.kills):
            while not (pid := await self.engine_pid()):
                await asyncio.sleep(0.5)
            self.kills.append(time.monotonic())
            os.kill(pid, signal.SIGKILL)
            note(f"kill -9 {pid} ({i + 1} of {self.args.kills})")

    async def kill_front(self) -> None:
        """The same for `--front-kills` of the front."""
        async for i in self.moments(self.args.front_kills):
            self.kills.append(time.monotonic())
            await self.service.kill()
            note(f"kill -9 of the front ({i + 1} of {self.args.front_kills})")

    async def moments(self, count: int) -> AsyncIterator[int]:
        gap = self.args.minutes * 60 / (count + 1)
        began = time.monotonic()
        for i in range(count):
            due = began + gap * (i + 1) + self.chance.uniform(-0.1, 0.1) * gap
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            yield i

    async def engine_pid(self) -> int:
        with suppress(httpx.TransportError):  # while the front starts again
            for line in (await self.client.get("/metrics")).text.splitlines():
                if line.startswith("steelyard:engine_pid{"):
                    return int(float(line.rsplit(" ", 1)[1]))
        return 0

    async def sample(self) -> None:
        began = told = time.monotonic()
        while True:
            now = time.monotonic()
            self.front_rss.append((now, self.service.pid, rss(self.service.pid)))
            pid = await self.engine_pid()
            if pid and (held := rss(pid)):
                if not self.lives or self.lives[-1][0] != pid:
                    self.lives.append((pid, now))
                self.engine_rss.append((now, pid, held))
            if now - told > 10:
                told = now
                t = self.tally
                note(
                    f"{now - began:6.0f} s: {t.answered} answered, {len(t.differing)} differ, "
                    f"{len(t.wrong)} wrong, {t.refused} refused, {t.lost_at_kill} lost at kills, "
                    f"{len(t.failed)} failed, front {self.front_rss[-1][2] / 1e6:.0f} MB"
                )
            await asyncio.sleep(SAMPLE_S)

    # ------------------------------------------------------------------ after

    async def gaps(self) -> list[Gap]:
        """Each answer unlike its reference, once: how far its worst token is from the likeliest."""
        met: dict[tuple[int, ...], list[tuple[Question, list[int]]]] = {}
        for asked, ids in self.tally.differing:
            met.setdefault((*asked.ids, *ids), []).append((asked, ids))
        return [await self.gap(*same[0], len(same)) for same in met.values()]

    async def gap(self, asked: Question, ids: list[int], times: int) -> Gap:
        request = {"prompt": asked.ids + ids, "max_tokens": 0, "echo": True, "logprobs": 1}
        told = (await self.client.post("/v1/completions", json=request)).raise_for_status().json()
        scored = told["choices"][0]["logprobs"]
        pairs = list(zip(scored["token_logprobs"], scored["top_logprobs"], strict=True))[len(asked.ids) :]
        behind = [max(best.values()) - own for own, best in pairs]
        worst = max(range(len(ids)), key=lambda at: behind[at])
        apart = next(at for at in range(len(ids)) if ids[at] != asked.answer[at])
        return Gap(behind[worst], times, self.questions.index(asked), worst, apart, ids)

    def front_drift(self, warm_s: float, window_s: float) -> dict[str, float]:
        """Of the life that changed most."""
        lives = {pid: [(at, held) for at, of, held in self.front_rss if of == pid and held]
                 for pid in dict.fromkeys(pid for _, pid, _ in self.front_rss)}  # fmt: skip
        drifts = [drift_of(life, warm_s, window_s) for life in lives.values() if life]
        return max(drifts, key=lambda d: abs(d["drift"]))

    def engine_drift(self) -> dict[str, Any]:
        """RSS at one age, over the lives that reached it; the first had the capacity run besides."""
        lives = [pid for pid, _ in self.lives[1:]]
        ages = {pid: self.engine_rss_age(pid) for pid in lives}
        full = sorted(ages[pid][-1][0] for pid in lives)
        if len(full) < 2:
            return {"lives": len(self.lives), "drift": 0.0, "age_s": 0.0, "bytes": []}
        age_s = statistics.median(full) * 0.8
        held = []
        for pid in lives:
            near = [b for age, b in ages[pid] if 0.7 * age_s <= age <= age_s]
            if ages[pid][-1][0] >= age_s and near:
                held.append(statistics.median(near))
        drift = held[-1] / held[0] - 1 if held else 0.0
        return {"lives": len(self.lives), "age_s": age_s, "bytes": held, "drift": drift}

    def engine_rss_age(self, pid: int) -> list[tuple[float, int]]:
        first = next(at for known, at in self.lives if known == pid)
        return [(at - first, held) for at, known, held in self.engine_rss if known == pid]


def drift_of(life: list[tuple[float, int]], warm_s: float, window_s: float) -> dict[str, float]:
    """Of (when, bytes): medians of the first window after the warm-up and of the last."""
    start_s, end_s = life[0][0] + warm_s, life[-1][0]
    first = [held for at, held in life if start_s <= at < start_s + window_s] or [life[-1][1]]
    last = [held for at, held in life if at > end_s - window_s]
    before, after = statistics.median(first), statistics.median(last)
    return {"start_bytes": before, "end_bytes": after, "drift": after / before - 1}


class Refusal(Exception):
    def __init__(self, after_s: float) -> None:
        super().__init__(f"come again in {after_s} s")
        self.after_s = after_s


class Broken(Exception):
    pass


def check(answer: httpx.Response) -> None:
    if answer.status_code == 429:
        raise Refusal(float(answer.headers["retry-after"]))
    if answer.status_code != 200:
        raise Broken(f"{answer.status_code} {answer.text[:200]}")


def body(asked: Question) -> dict[str, Any]:
    return {
        "prompt": asked.ids, "max_tokens": asked.tokens, "temperature": 0, "ignore_eos": True,
        "return_token_ids": True,
    }  # fmt: skip


def rss(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def run(service: Server, args: argparse.Namespace, vocabulary: int) -> dict[str, Any]:
    await service.ready()
    soak = Soak(service, args, vocabulary)
    note(f"{args.references} references ...")
    await soak.references()
    capacity = await soak.capacity()
    rate = args.rate or args.load * capacity
    note(f"capacity {capacity:.2f} requests/s; load {rate:.2f}/s for {args.minutes} min")
    beside = [asyncio.create_task(work()) for work in (soak.sample, soak.kill, soak.kill_front)]
    await soak.load(rate)
    for task in beside:
        task.cancel()
    note(f"scoring {len(soak.tally.differing)} answers unlike their reference ...")
    gaps = await soak.gaps()
    fronts = len(service.downs)
    window_s = min(60.0, args.minutes * 6)
    front, engine = soak.front_drift(window_s, window_s), soak.engine_drift()
    t, tolerance = soak.tally, TOLERANCE[args.mode]
    wrong = len(t.wrong) + sum(gap.times for gap in gaps if gap.nat > tolerance)
    leaks = abs(front["drift"]) > DRIFT or abs(engine["drift"]) > DRIFT
    times = sorted(t.latencies_s) or [0.0]
    await soak.client.aclose()
    return {
        "minutes": args.minutes, "mode": args.mode, "threads": args.threads,
        "kills": len(soak.kills) - fronts, "front_kills": fronts,
        "front_down_s": [round(back - killed, 1) for killed, back in service.downs],
        "capacity_per_s": capacity, "load_per_s": rate, "sent": t.sent, "answered": t.answered,
        "equal_to_reference": t.equal, "differing": len(t.differing),
        "gaps": [asdict(gap) for gap in sorted(gaps, key=lambda gap: -gap.nat)[:10]],
        "tolerance_nat": tolerance, "wrong": wrong, "wrong_why": t.wrong[:10], "disconnects": t.left,
        "malformed": t.malformed, "slow_readers": t.slow,
        "refused_429": t.refused, "asked_again": t.asked_again,
        "lost_at_kill": t.lost_at_kill, "failed": len(t.failed), "failed_why": t.failed[:10],
        "latency_s": {"p50": times[len(times) // 2], "p99": times[int(len(times) * 0.99)]},
        "front_rss": front, "engine_rss": engine,
        "passed": not (wrong or t.failed or leaks),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo")
    parser.add_argument("--form")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--front-kills", type=int, default=3)
    parser.add_argument("--load", type=float, default=0.8, help="share of the measured capacity")
    parser.add_argument("--rate", type=float, help="requests a second, instead of --load")
    parser.add_argument("--references", type=int, default=64)
    parser.add_argument("--capacity-s", type=float, default=30)
    parser.add_argument("--mode", choices=("exact", "fast"), default="fast")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=Path("soak.log"))
    args = parser.parse_args()
    folder = prepare(args.model, args.form).folder
    vocabulary = Tokenizer(folder).vocab_size
    service = Server(folder, args)
    try:
        told = asyncio.run(run(service, args, vocabulary))
    finally:
        service.stop()
    print(json.dumps(told, indent=1))
    return 0 if told["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
