"""A training beside a service on one machine: what the answers lose, what the training gets.

    python bench/beside.py BASE WORK [--ways alone,nice,idle,governed,alone] [--minutes 2] [--rate 0.7]

The service: BASE in INT8 on all cores, requests of 128 fresh tokens with 64 new ones that come by chance
(`--rate` a second on the mean, the same arrivals each time). The training: LoRA on task texts, all cores, in
a process of its own that starts before the first request. Ways: alone (no training), nice (10, as a user
would), idle (the kernel's SCHED_IDLE), governed (as `up` runs it beside a service). At first the training
runs alone, for its undisturbed speed. TTFT and TPOT of all requests; `calm`: the share of the time in which
no request was under way; `recovered`: the training's tokens over those that it would have made undisturbed
in that time. One JSON document.
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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from load import Asked, ask, bodies

from steelyard.artefact import Watch
from steelyard.run.child.yielding import Yielding

SETTLE_S = 12.0  # of a training, from its first step on
START_S = 120.0


# ------------------------------------------------------------------ the training, in a process of its own


def train_here(base: Path, work: Path, way: str) -> None:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as `run` sets it for the steps of a run
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from models import SETTINGS, TASKS, rows_of

    from steelyard.artefact import Inputs, Progress, Store, Watch, adopt, key_of
    from steelyard.training import train

    class Told(Watch):
        def show(self, progress: Progress, closed: bool = False) -> None:
            (work / "tokens").write_text(f"{progress.done} {progress.unit}")

    data = work / "data"
    data.mkdir(exist_ok=True)
    rows = [row for task in TASKS for row in rows_of(task, "train", 500)]
    (data / "train.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    settings = SETTINGS | {"threads": os.cpu_count(), "num_train_epochs": 50}
    inputs = {"dataset": adopt(data, "dataset"), "base": adopt(base)}
    key = key_of(
        "train", settings, {role: a.hash for role, a in inputs.items()}, {"way": way, "at": time.time()}
    )
    train(
        Inputs(inputs, {}),
        settings,
        Store(work / "store").draft("checkpoint", key, "train", settings, inputs),
        Told(),
    )


def done(work: Path) -> float:
    try:
        return float((work / "tokens").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0


@contextmanager
def training(base: Path, work: Path, way: str, control: str | None = None) -> Any:
    """Its process, once it makes steps; governed by the service with this control socket."""
    yielding: Yielding | None = None
    (work / "tokens").unlink(missing_ok=True)
    words = [sys.executable, __file__, str(base), str(work), "--train", way]
    with (work / f"train-{way}.log").open("w") as log:
        child = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
    try:
        end = time.monotonic() + START_S
        while not done(work) and time.monotonic() < end:
            if child.poll() is not None:
                raise SystemExit(f"the training ended: see {work}/train-{way}.log")
            time.sleep(0.2)
        if way == "nice":
            os.setpriority(os.PRIO_PGRP, child.pid, 10)
        if way == "idle":
            idle(child.pid)
        if way == "governed":
            yielding = Yielding(child.pid, lambda: [control or ""], Watch())
        time.sleep(SETTLE_S)
        yield child
    finally:
        if yielding:
            yielding.end()
            print(f"paused {yielding.pauses} times", file=sys.stderr)
        child.kill()
        child.wait()


def idle(pid: int) -> None:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))


# ------------------------------------------------------------------ the load


def arrivals(rate: float, seconds: float) -> list[float]:
    chance, at, found = random.Random(7), 0.0, []
    while (at := at + chance.expovariate(rate)) < seconds:
        found.append(at)
    return found


async def loaded(url: str, rate: float, seconds: float, seed: int) -> list[tuple[float, Asked]]:
    """When each was sent, and its answer; prompts of another seed share nothing with these."""
    begun = time.perf_counter()

    async def one(at: float, body: dict[str, Any]) -> tuple[float, Asked]:
        await asyncio.sleep(max(0.0, at - (time.perf_counter() - begun)))
        return at, await ask(url, body)

    times = arrivals(rate, seconds)
    wanted = bodies("plain", len(times), tokens=128, new=64, seed=seed)
    return list(await asyncio.gather(*(one(at, body) for at, body in zip(times, wanted, strict=True))))


def calm_share(sent: list[tuple[float, Asked]], wall: float) -> float:
    """The share of the time in which none was under way."""
    calm, free_from = 0.0, 0.0
    for at, answer in sent:
        calm += max(0.0, at - free_from)
        free_from = max(free_from, at + answer.last_s)
    return (calm + max(0.0, wall - free_from)) / wall


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, round(share * (len(values) - 1)))]


def cpu_s(pid: int) -> float:
    own = psutil.Process(pid)
    return sum(sum(p.cpu_times()[:2]) for p in (own, *own.children(recursive=True)))


def measured(service: Any, args: argparse.Namespace, seed: int, undisturbed_s: float) -> dict[str, float]:
    before, begun, tokens = cpu_s(service.pid), time.monotonic(), done(args.work)
    sent = asyncio.run(loaded(service.url, args.rate, 60 * args.minutes, seed))
    wall = time.monotonic() - begun
    answers, calm = [answer for _, answer in sent], calm_share(sent, wall)
    rate = (done(args.work) - tokens) / wall
    firsts = [a.first_s for a in answers]
    gaps = [(a.last_s - a.first_s) / (a.tokens - 1) for a in answers if a.tokens > 1]
    return {
        "requests": len(answers),
        "ttft_p50_s": statistics.median(firsts),
        "ttft_p95_s": quantile(firsts, 0.95),
        "tpot_p50_s": statistics.median(gaps),
        "tpot_p95_s": quantile(gaps, 0.95),
        "service_cores": (cpu_s(service.pid) - before) / wall,
        "calm": calm,
        "train_tokens_s": rate,
        "kept": rate / undisturbed_s,
        "recovered": rate / undisturbed_s / calm,
    }


def undisturbed(base: Path, work: Path, seconds: float) -> float:
    with training(base, work, "undisturbed"):
        begun, tokens = time.monotonic(), done(work)
        time.sleep(seconds)
        return (done(work) - tokens) / (time.monotonic() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--ways", default="alone,nice,idle,governed,alone")
    parser.add_argument("--minutes", type=float, default=2.0, help="of each way")
    parser.add_argument("--rate", type=float, default=0.7, help="requests a second")
    parser.add_argument("--train", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.train:
        train_here(args.base, args.work, args.train)
        return
    from steelyard.serving import ServeSettings, prepare, start

    found: dict[str, Any] = {"undisturbed_tokens_s": undisturbed(args.base, args.work, 20.0)}
    print(found, file=sys.stderr)
    folder = prepare(args.base, "int8").folder
    service = start(folder, ServeSettings(threads=os.cpu_count() or 1, max_model_len=1024))
    try:
        asyncio.run(loaded(service.url, 2.0, 5.0, seed=-1))
        for n, way in enumerate(args.ways.split(",")):
            name, most = f"{n} {way}", found["undisturbed_tokens_s"]
            if way == "alone":
                (args.work / "tokens").unlink(missing_ok=True)
                found[name] = measured(service, args, n, most)
            else:
                with training(args.base, args.work, way, service.control):
                    found[name] = measured(service, args, n, most)
            print(name, json.dumps(found[name]), file=sys.stderr, flush=True)
    finally:
        service.stop()
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
