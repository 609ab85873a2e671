"""A day of load on this machine, and a training that `steelyard jobs` drives in what the service leaves.

    python bench/daily.py [WORK] [--minutes 20] [--model demo] [--load LOAD.csv] [--day 2] [--peak 0.8]
                               [--alone 1] [--serving]

The load of one day of LOAD.csv (../shared/traces/load-week-a-s64.csv; 1,440 rows, compressed to
`--minutes`) falls by chance on `steelyard serve MODEL`: at the day's highest need the requests would keep
it busy for `--peak` of the time. The training is a recipe (LoRA, all cores), one job of `steelyard jobs`,
which stands still while the service answers. Before it: the same training undisturbed, for its speed and
its weights; the same day with the same requests and no training (a shorter `--alone` has fewer of them).
With `--serving` the file lends a device of serving's to a second job at night: `Load` and the forecast of
the core, an hour of the day as `minutes / 24`.

recovered   the training's progress over what it would make undisturbed in the time in which no request was
            under way; kept_at_peak: over all time, in the tenth of the day with the highest load
beside      95 % of the first tokens came within so long, over the same without a training: both over that
            part of the day in which the training was under way
gave_way_s  from a request's arrival at a calm service to the training standing still; `unpaused`: spans of
            requests in which it never did, for they were over before
equal       the artefact has the hash of the undisturbed one

All in all it takes about two and a half times `--minutes`. One JSON document; `short` names the goals that
were missed, exit code 4 where there is one.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from load import Asked, ask, bodies
from models import TASKS, rows_of, tasks_folder

MINUTES = 1_440
RECIPE = """\
name: {name}
model: {model}
data: [{{path: rows.jsonl, ability: tasks}}]
clean: none
train:
  - {{stage: sft, finetuning_type: lora, lora_rank: 8, lora_alpha: 16, learning_rate: 1.0e-3,
     max_steps: {steps}, num_train_epochs: 50, max_length: 256, per_device_train_batch_size: 1,
     gradient_accumulation_steps: 1}}
gate: {{abilities: {{tasks: {{eval: test.jsonl}}}}}}
"""
# The filler of --serving: counts until the day is over.
NIGHT = "import os, sys\nwhile not os.path.exists(sys.argv[1]): sum(n * n for n in range(20_000))"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, nargs="?", help="an empty folder; else one that goes")
    parser.add_argument("--minutes", type=float, default=20.0, help="that the day takes")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--load", type=Path, default=tasks_folder().parent / "traces" / "load-week-a-s64.csv")
    parser.add_argument("--day", type=int, default=2, help="of the week, from 0")
    parser.add_argument("--peak", type=float, default=0.8)
    parser.add_argument("--alone", type=float, default=1.0, help="of the day without a training, its length")
    parser.add_argument("--serving", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


# ------------------------------------------------------------------ the load


@dataclass(frozen=True)
class Day:
    """`needs`: of each of its minutes, over the highest; it takes `seconds`."""

    needs: list[float]
    seconds: float
    peak_per_s: float

    def arrivals(self, seed: int) -> list[float]:
        """Thinned from a stream at the peak's rate."""
        chance, at, found = random.Random(seed), 0.0, []
        while (at := at + chance.expovariate(self.peak_per_s)) < self.seconds:
            if chance.random() < self.needs[int(at / self.seconds * MINUTES)]:
                found.append(at)
        return found

    def peaks(self) -> list[tuple[float, float]]:
        """The seconds of the tenth of its minutes that have the highest load."""
        order = sorted(range(MINUTES), key=lambda n: -self.needs[n])[: MINUTES // 10]
        return [(n * self.seconds / MINUTES, (n + 1) * self.seconds / MINUTES) for n in sorted(order)]


def day_of(args: argparse.Namespace, seconds: float, peak_per_s: float) -> Day:
    with args.load.open() as file:
        needs = [int(row["need"]) for row in csv.DictReader(file)]
    needs = needs[args.day * MINUTES : (args.day + 1) * MINUTES]
    return Day([need / max(needs) for need in needs], seconds, peak_per_s)


async def sent(url: str, day: Day, seed: int) -> list[tuple[float, Asked]]:
    """The monotonic moment at which each request was sent, and its answer."""
    begun, times = time.monotonic(), day.arrivals(seed)
    wanted = bodies("plain", len(times), tokens=128, new=48, seed=seed)

    async def one(at: float, body: dict[str, Any]) -> tuple[float, Asked]:
        await asyncio.sleep(max(0.0, begun + at - time.monotonic()))
        return time.monotonic(), await ask(url, body)

    return list(await asyncio.gather(*(one(at, body) for at, body in zip(times, wanted, strict=True))))


def busy_of(answers: list[tuple[float, Asked]]) -> list[tuple[float, float]]:
    """The spans in which a request was under way."""
    spans: list[tuple[float, float]] = []
    for at, answer in sorted(answers, key=lambda row: row[0]):
        if spans and at <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], at + answer.last_s))
        else:
            spans.append((at, at + answer.last_s))
    return spans


def overlap(spans: list[tuple[float, float]], begin: float, end: float) -> float:
    return sum(max(0.0, min(b, end) - max(a, begin)) for a, b in spans)


# ------------------------------------------------------------------ service and training


@contextmanager
def service(args: argparse.Namespace) -> Any:
    port = free_port()
    log = (args.work / "serve.log").open("w")
    words = [sys.executable, "-m", "steelyard", "serve", args.model, "--port", str(port)]
    child = subprocess.Popen(words, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 300
        while True:
            with suppress(OSError):
                urllib.request.urlopen(f"{url}/health", timeout=5)
                break
            if child.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"no service: see {args.work}/serve.log")
            time.sleep(0.3)
        yield url
    finally:
        child.terminate()
        child.wait()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def recipe(args: argparse.Namespace, name: str, steps: int) -> Path:
    folder = args.work / name
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        rows = [row for task in TASKS for row in rows_of(task, split, 500 if split == "train" else 4)]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / ("rows.jsonl" if split == "train" else "test.jsonl")).write_text(text)
    (folder / "recipe.yaml").write_text(RECIPE.format(name="daily", model=args.model, steps=steps))
    return folder / "recipe.yaml"


def undisturbed(args: argparse.Namespace, name: str, steps: int) -> dict[str, Any]:
    """Its speed in what the report counts, and its hash."""
    path, report = recipe(args, name, steps), args.work / f"{name}.jsonl"
    report.unlink(missing_ok=True)
    words = [
        sys.executable, "-m", "steelyard", "up", str(path), "--until", "train", "--yes", "--json",
        "--workdir", str(args.work / name / "run"),
    ]  # fmt: skip
    done = subprocess.run(
        words, capture_output=True, text=True, env=os.environ | {"STEELYARD_REPORT": str(report)}
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr[-2000:])
    rows = steps_of([report])
    # The last third: the first steps are slower.
    a, b = rows[len(rows) // 3], rows[-1]
    trained = next(step for step in json.loads(done.stdout)["steps"] if step["step"] == "train")
    speed = (b[1] - a[1]) / (b[0] - a[0])
    return {
        "speed": speed, "hash": trained["hash"], "in_all": rows[-1][1], "steps": steps,
        "step_s": trained["measured"]["step_s"],
    }  # fmt: skip


def steps_of(reports: list[Path]) -> list[tuple[float, float]]:
    """(monotonic second, progress) of the lines that tell of steps."""
    found = []
    for row in lines_of(reports):
        if "step" in row:
            found.append((row["mono"], float(row["step"])))
    return found


def lines_of(reports: list[Path]) -> list[dict[str, Any]]:
    rows = []
    for report in reports:
        with suppress(OSError):
            for line in report.read_text().splitlines():
                with suppress(ValueError):
                    rows.append(json.loads(line))
    return sorted(rows, key=lambda row: row["mono"])


class Driven:
    """`steelyard jobs` over the training."""

    def __init__(self, args: argparse.Namespace, steps: int) -> None:
        self.args, path = args, recipe(args, "driven", steps)
        jobs: dict[str, Any] = {"jobs": [{"name": "daily", "recipe": str(path)}]}
        if args.serving:
            night = [sys.executable, "-c", NIGHT, str(args.work / "night.end")]
            jobs |= {"devices": 2, "serving": {"devices": 1, "every": max(1.0, args.minutes * 60 / MINUTES)}}
            jobs["jobs"].append({"name": "night", "command": night, "filler": True, "gives_way": True})
        file = args.work / "jobs.yaml"
        file.write_text(json.dumps(jobs))
        self.folder = args.work / "jobs"
        words = [
            sys.executable, "-m", "steelyard", "jobs", str(file), "--workdir", str(self.folder), "--json",
        ]  # fmt: skip
        self.log = (args.work / "jobs.log").open("w")
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=self.log, text=True)

    @property
    def reports(self) -> list[Path]:
        return sorted((self.folder / "attempts" / "daily").glob("*-*/report.jsonl"))

    def going(self) -> None:
        end = time.monotonic() + 600
        while len(steps_of(self.reports)) < 3:
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"the training does not begin: see {self.args.work}/jobs.log")
            time.sleep(0.3)

    def hash(self) -> str:
        """Of its artefact, once it is done: `up` says it in the output of its attempt."""
        self.process.wait(timeout=3_600)
        for output in sorted((self.folder / "attempts" / "daily").glob("*-*/output")):
            with suppress(ValueError, KeyError, StopIteration):
                steps = json.loads(output.read_text())["steps"]
                return str(next(step["hash"] for step in steps if step["step"] == "train"))
        return ""

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait()


# ------------------------------------------------------------------ the account


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, round(share * (len(values) - 1)))]


def firsts(answers: list[tuple[float, Asked]]) -> dict[str, float]:
    times = [answer.first_s for _, answer in answers]
    return {"requests": len(times), "ttft_p50_s": median(times), "ttft_p95_s": quantile(times, 0.95)}


def between(answers: list[tuple[float, Asked]], begin: float, end: float) -> list[tuple[float, Asked]]:
    """Those to requests that were sent then."""
    return [row for row in answers if begin <= row[0] <= end]


def progress(rows: list[tuple[float, float]], begin: float, end: float) -> float:
    """What was done between two moments, by straight lines between the steps."""

    def at(moment: float) -> float:
        before = [row for row in rows if row[0] <= moment]
        after = [row for row in rows if row[0] > moment]
        if not before:
            return rows[0][1]
        if not after:
            return before[-1][1]
        (a, x), (b, y) = before[-1], after[0]
        return x + (y - x) * (moment - a) / (b - a)

    return at(end) - at(begin)


def window(driven: Driven, day: Day, begun: float) -> tuple[float, float]:
    """The monotonic seconds of the day in which the training was under way."""
    rows = steps_of(driven.reports)
    return max(begun, rows[0][0]), min(begun + day.seconds, rows[-1][0])


def account(
    driven: Driven, day: Day, begun: float, answers: list[tuple[float, Asked]], speed: float
) -> dict[str, Any]:
    rows, busy = steps_of(driven.reports), busy_of(answers)
    begin, end = window(driven, day, begun)
    calm_s = (end - begin) - overlap(busy, begin, end)
    peaks = [(max(begin, begun + a), min(end, begun + b)) for a, b in day.peaks()]
    peaks = [(a, b) for a, b in peaks if b > a]
    at_peak = sum(progress(rows, a, b) for a, b in peaks) / speed
    peak_s = sum(b - a for a, b in peaks)
    return {
        "window_s": round(end - begin, 1), "calm": calm_s / (end - begin),
        "recovered": progress(rows, begin, end) / speed / calm_s,
        "kept": progress(rows, begin, end) / speed / (end - begin),
        "kept_at_peak": at_peak / peak_s if peak_s else None,
        "calm_at_peak": 1 - sum(overlap(busy, a, b) for a, b in peaks) / peak_s if peak_s else None,
        "gave_way_s": gave_way(lines_of(driven.reports), busy, begin, end),
    }  # fmt: skip


def gave_way(
    lines: list[dict[str, Any]], busy: list[tuple[float, float]], begin: float, end: float
) -> dict[str, float]:
    """From the first request of a busy span to the line that the training stands still."""
    pauses = [row["mono"] for row in lines if row.get("paused")]
    spans = [(at, until) for at, until in busy if begin <= at <= end]
    waits = []
    for at, until in spans:
        waits += [pause - at for pause in pauses if at <= pause <= until][:1]
    counted = {"times": len(waits), "unpaused": len(spans) - len(waits)}
    if not waits:
        return counted
    return {"median": median(waits), "p95": quantile(waits, 0.95), "most": max(waits)} | counted


def journal(folder: Path) -> dict[str, Any]:
    from steelyard.cluster import replayed

    rows = replayed(folder / "journal.jsonl")
    said = [decision for _, made, _ in rows for decision in made]
    return {
        "events": len(rows), "equal": all(a == b for _, a, b in rows),
        "lent": sum(one.kind == "lend" and bool(one.devices) for one in said),
        "reclaimed": sum(one.kind == "reclaim" and bool(one.devices) for one in said),
        "preempted": [one.reason for one in said if one.kind == "preempt"],
    }  # fmt: skip


def measured(args: argparse.Namespace, url: str) -> dict[str, Any]:
    for body in bodies("plain", 3, tokens=128, new=48, seed=-1):  # warm
        asyncio.run(ask(url, body))
    single = [asyncio.run(ask(url, body)).last_s for body in bodies("plain", 5, tokens=128, new=48, seed=-2)]
    seconds = 60 * args.minutes
    day = day_of(args, seconds, args.peak / median(single))
    found: dict[str, Any] = {"request_s": median(single), "peak_per_s": day.peak_per_s}
    short_day = day_of(args, args.alone * seconds, day.peak_per_s)
    alone_begun = time.monotonic()
    quiet = asyncio.run(sent(url, short_day, args.seed))
    say("alone", firsts(quiet))
    calm = 1 - args.peak * sum(day.needs) / MINUTES
    trial = undisturbed(args, "trial", 12)
    steps = max(16, int(0.75 * calm * seconds * trial["speed"] * 12 / trial["in_all"]))
    whole = undisturbed(args, "whole", steps)
    say("undisturbed", whole)
    driven = Driven(args, steps)
    try:
        driven.going()
        begun = time.monotonic()
        answers = asyncio.run(sent(url, day, args.seed))
        time.sleep(max(0.0, begun + day.seconds - time.monotonic()))
        found["undisturbed"] = whole
        if args.serving:
            (args.work / "night.end").touch()
        found["hash"] = driven.hash()
        found |= account(driven, day, begun, answers, whole["speed"])
        begin, end = window(driven, day, begun)
        found["beside"] = firsts(between(answers, begin, end))
        part = [alone_begun + args.alone * (moment - begun) for moment in (begin, end)]
        found["alone"] = firsts(between(quiet, *part))
    finally:
        driven.end()
    found["equal"] = found["hash"] == whole["hash"]
    found["ttft_p95_ratio"] = found["beside"]["ttft_p95_s"] / found["alone"]["ttft_p95_s"]
    return found | {"journal": journal(driven.folder)}


def say(what: str, found: Any) -> None:
    print(what, json.dumps(found), file=sys.stderr, flush=True)


def main() -> int:
    from train import cpu_model

    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="steelyard-daily-") as own:
        args.work = (args.work or Path(own)).absolute()
        args.work.mkdir(parents=True, exist_ok=True)
        if any(args.work.iterdir()):
            raise SystemExit(f"{args.work} is not empty")
        os.environ["STEELYARD_STATE"] = str(args.work / "state")  # no other service of this user counts
        with service(args) as url:
            found = measured(args, url)
    machine = {"cpu": cpu_model(), "cores": os.cpu_count(), "minutes": args.minutes, "peak": args.peak}
    missed = short(found)
    print(json.dumps({"bench": "daily"} | machine | found | {"short": missed}, indent=1))
    return 4 if missed else 0


def short(found: dict[str, Any]) -> list[str]:
    """The names of the goals that were missed."""
    met = {
        "equal": found["equal"], "recovered": found["recovered"] >= 0.8,
        "ttft_p95_ratio": found["ttft_p95_ratio"] <= 1.1, "journal": found["journal"]["equal"],
    }  # fmt: skip
    return [name for name, well in met.items() if not well]


if __name__ == "__main__":
    sys.exit(main())
