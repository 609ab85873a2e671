"""Predicted against measured on this machine: three models, each tuned by LoRA, tuned whole, and served to
1, 8 and 32 users.

    python bench/jobs.py [--json] [--sizes demo,smollm2-360m,qwen3-0.6b] [--only lora,full,serve1] [--quick]

Each job is `steelyard up` of its own recipe: the plan's figures stand before the first step, the run's own
measurement beside them. Calibration is taken anew (own STEELYARD_CACHE); every job begins with an empty
ledger. The column "learnt" is the second pass: the same prediction, corrected by the ledger of all other
jobs, never of its own. One file a job under --work: a run that was interrupted goes on where it stopped;
--fresh starts over. Full fine-tuning of the largest holds 13 GB. The last table has a line a figure: the
mean error over the jobs, its limit, whether it is met. Exit 1 where one is not, a job is missing, a probe was
skipped, or calibration took longer than a minute. Run it on a quiet machine: what others do to the cores
counts as an error. `taskset -c 1` makes a machine of one core.

--quick: the packaged model alone. --show: the tables of what is there, nothing is run.
--taken calibration|jobs: a process of this bench computes without a pause on one core while the calibration
is taken, or while the jobs are planned and run; then a predicted time is the plan's for a free machine, over
the share of the cores that the plan says is left now. Each way wants a --work of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from load import WORDS
from random_model import make

ROOT = Path(__file__).resolve().parents[1]
SIZES = ("demo", "smollm2-360m", "qwen3-0.6b")
USERS = {"serve1": 1, "serve8": 8, "serve32": 32}
JOBS = ("lora", "full", *USERS)
STEPS = 4  # of the optimiser; the first warms up
ROWS = 240
CALIBRATION_S = 60.0  # at most, with the first plan
PROBES = ("machine", "training", "training_full", "serving")
LIMITS = {"step_s": 0.15, "peak_rss_bytes": 0.10, "ttft_s": 0.20, "tpot_s": 0.20}
TOLD = ("step_s", "peak_rss_bytes", "ttft_s", "tpot_s", "output_tok_s", "wall_s")  # those without limit too
JUDGED = ("train", "serve")  # steps whose figures have limits; the others are shown


def main() -> int:
    """Run what is missing, print the tables; 1 where a mean error is above its limit."""
    args = arguments()
    if args.fresh:
        shutil.rmtree(args.work, ignore_errors=True)
    wanted = [(size, job) for size in args.sizes for job in args.only]
    begun = time.monotonic()
    if not args.show:
        with one_core_taken(args.taken == "calibration"):
            prepare(args.work, args.sizes, wanted)
        with one_core_taken(args.taken == "jobs"):
            for size, job in wanted:
                run_job(args.work, size, job)
    spent_s = time.monotonic() - begun
    found = [told for size, job in wanted if (told := read(args.work / size / f"{job}.json"))]
    lines = list(compared(found, beside_others=args.taken == "jobs"))
    means = {name: mean_errors(lines, name) for name in LIMITS}
    calibration = calibrated(args.work, found)
    met = len(found) == len(wanted) and calibration["met"] and all(m["met"] for m in means.values())
    if args.json:
        told = {"met": met, "means": means, "calibration": calibration, "lines": lines, "jobs": found}
        print(json.dumps(told | {"cores": cores(), "spent_s": spent_s}, indent=1))
    else:
        show(lines, means, calibration)
    print(f"{len(found)} of {len(wanted)} jobs; this call {spent_s:.0f} s", file=sys.stderr)
    return 0 if met else 1


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--only", default=",".join(JOBS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--taken", choices=("calibration", "jobs"))
    parser.add_argument("--work", type=Path, default=ROOT / "bench" / "results" / "work" / "jobs")
    args = parser.parse_args()
    args.sizes = ["demo"] if args.quick else args.sizes.split(",")
    args.only = args.only.split(",")
    args.work = args.work.resolve()
    return args


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


# ------------------------------------------------------------------ running


@contextmanager
def one_core_taken(taken: bool) -> Iterator[None]:
    """Other work beside what runs inside: one process that never waits, where `taken`."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if taken else None
    try:
        yield
    finally:
        if other is not None:
            other.kill()
            other.wait()


def prepare(work: Path, sizes: Iterable[str], wanted: list[tuple[str, str]]) -> None:
    """Models, data, and this machine's calibration."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    for size in sizes:
        if size != "demo" and not (work / "models" / size / "config.json").exists():
            make(size, work / "models" / size)
    if not (work / "calibration.json").exists():
        begun = time.monotonic()
        if call(work, *wanted[0], "plan") is None:
            sys.exit("there is no plan: nothing can be compared")
        told = {"wall_s": time.monotonic() - begun}
        (work / "calibration.json").write_text(json.dumps(told))


def rows() -> Iterator[dict[str, Any]]:
    """Chats of 40 to 120 words, a quarter of them the answer."""
    chance = random.Random(0)
    for _ in range(ROWS):
        words = [chance.choice(WORDS) for _ in range(chance.randint(40, 120))]
        cut = len(words) * 3 // 4
        asked, answer = " ".join(words[:cut]), " ".join(words[cut:])
        yield {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


def recipe(work: Path, size: str, job: str) -> dict[str, Any]:
    model = size if size == "demo" else str(work / "models" / size)
    about = {"name": f"{size}-{job}", "model": model}
    if job in USERS:
        load = {"users": USERS[job], "prompt_tokens": 128, "output_tokens": 64}
        return about | {"train": [], "goal": {"load": load}, "serve": {"port": free_port()}}
    stage = {"stage": "sft", "finetuning_type": job, "max_steps": STEPS, "warmup_ratio": 0.1}
    data = [{"path": str(work / "rows.jsonl"), "ability": "words"}]
    return about | {"data": data, "train": [stage]}


def free_port() -> int:
    import socket

    with socket.socket() as probed:
        probed.bind(("127.0.0.1", 0))
        return int(probed.getsockname()[1])


def run_job(work: Path, size: str, job: str) -> None:
    """One job, unless its file is there."""
    out = work / size / f"{job}.json"
    if out.exists():
        return
    begun = time.monotonic()
    document = call(work, size, job, "serve" if job in USERS else "train")
    if document is None:
        return
    plan = read(Path(document["workdir"]) / "plan.json")
    told = {
        "size": size,
        "job": job,
        "wall_s": time.monotonic() - begun,
        "load": os.getloadavg()[0],
        "steps": [s for s in document["steps"] if s["state"] == "done"],
        "plan": plan["steps"],
        "calibration": plan["calibration"],
        "cores_now": plan["cores"]["now"],
        "rows": ledger_rows(work / size / f"{job}.db"),
    }
    out.write_text(json.dumps(told, indent=1), encoding="utf-8")
    print(f"{size} {job}: {told['wall_s']:.0f} s", file=sys.stderr, flush=True)


def call(work: Path, size: str, job: str, until: str) -> dict[str, Any] | None:
    """`steelyard up` in homes of its own; what it printed, None where it failed."""
    folder = work / size
    folder.mkdir(exist_ok=True)
    ledger = folder / f"{job}.db"
    for old in folder.glob(f"{job}.db*"):
        old.unlink()
    path = folder / f"{job}.yaml"
    path.write_text(json.dumps(recipe(work, size, job)), encoding="utf-8")  # JSON is YAML
    workdir = folder / ("train-" + job if job not in USERS else "serve")
    if job not in USERS and until != "plan":
        shutil.rmtree(workdir, ignore_errors=True)  # a step that is reused measures nothing
    homes = {"CACHE": work / "home" / "cache", "STATE": work / "home" / "state", "LEDGER": ledger}
    words = ["up", str(path), "--yes", "--json", "--no-keep", "--until", until, "--workdir", str(workdir)]
    done = subprocess.run(
        [sys.executable, "-m", "steelyard", *words],
        env=os.environ | {f"STEELYARD_{name}": str(home) for name, home in homes.items()},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        print(f"{size} {job}: exit {done.returncode}\n{done.stdout[-1000:]}", file=sys.stderr)
        return None
    if job not in USERS and until != "plan":
        shutil.rmtree(workdir / "artefacts", ignore_errors=True)  # a checkpoint of the largest is 2 GB
    return json.loads(done.stdout)


def ledger_rows(path: Path) -> list[dict[str, Any]]:
    from steelyard.ledger import Ledger

    return [row.as_json() for row in Ledger(path).rows()]


# ------------------------------------------------------------------ tables


def compared(found: list[dict[str, Any]], beside_others: bool = False) -> Iterator[dict[str, Any]]:
    """One line a job, step and figure: predicted with its interval, measured, learnt from the other jobs."""
    for told in found:
        others = [row for other in found if other is not told for row in other["rows"]]
        for step in told["steps"]:
            for name in TOLD:
                said, was = step["predicted"].get(name), step["measured"].get(name)
                if said is None or not was:
                    continue
                slower = 1 / told["cores_now"] if beside_others and name.endswith("_s") else 1.0
                slower = 1 / slower if name.endswith("tok_s") else slower
                about = {"job": f"{told['size']} {told['job']}", "step": step["step"], "figure": name}
                figure = told["plan"][step["step"]][name]
                limit = LIMITS.get(name) if step["step"] in JUDGED else None
                yield about | {
                    "predicted": said * slower,
                    "low": figure["low"] * slower,
                    "high": figure["high"] * slower,
                    "measured": was,
                    "error": said * slower / was - 1,
                    "learnt": said * slower * corrected(step["step"], name, others) / was - 1,
                    "limit": limit,
                }


def calibrated(work: Path, found: list[dict[str, Any]]) -> dict[str, Any]:
    """What calibration took, what it lacks, and how many of them the plans rest on: one, or they differ."""
    took = (read(work / "calibration.json") or {}).get("wall_s", 0.0)
    kept = [read(path) for path in (work / "home" / "cache").glob("calibration-*.json")]
    taken = {name for one in kept for name in one["taken"]}
    skipped = [name for name in PROBES if name not in taken]
    rows = sum(len(one["rows"]) for one in kept)
    plans = len({told["calibration"] for told in found if told.get("calibration")})
    about = {"wall_s": took, "limit_s": CALIBRATION_S, "rows": rows, "skipped": skipped, "in_plans": plans}
    return about | {"met": took <= CALIBRATION_S and not skipped}


def corrected(step: str, name: str, rows: list[dict[str, Any]]) -> float:
    """What a ledger of these rows makes of a figure."""
    from steelyard.ledger import Row
    from steelyard.planner import learnt

    return float(learnt(step, name, [Row(**row) for row in rows])[0])


def mean_errors(lines: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Mean absolute error of a judged figure, of both passes, and the share within the interval."""
    own = [line for line in lines if line["figure"] == name and line["limit"]]
    count = len(own)
    error = sum(abs(line["error"]) for line in own) / max(1, count)
    return {
        "count": count,
        "limit": LIMITS[name],
        "plan": error,
        "met": bool(own) and error <= LIMITS[name],
        "learnt": sum(abs(line["learnt"]) for line in own) / max(1, count),
        "outside": sum(abs(line["error"]) > line["limit"] for line in own),
        "covered": sum(line["low"] <= line["measured"] <= line["high"] for line in own) / max(1, count),
    }


def show(lines: list[dict[str, Any]], means: dict[str, dict[str, Any]], calibration: dict[str, Any]) -> None:
    head = f"{'job':22} {'step':9} {'figure':15} {'predicted':>10} {'low':>10} {'high':>10} {'measured':>10}"
    print(f"{head} {'error':>8} {'learnt':>8}  limit")
    for line in lines:
        numbers = " ".join(f"{line[k]:10.4g}" for k in ("predicted", "low", "high", "measured"))
        errors = " ".join(f"{line[k] * 100:+6.1f} %" for k in ("error", "learnt"))
        over = line["limit"] and abs(line["error"]) > line["limit"]
        limit = f"{line['limit'] * 100:.0f} %" if line["limit"] else ""
        told = f"{line['job']:22} {line['step']:9} {line['figure']:15} {numbers} {errors}  {limit}"
        print(told + ("  <- outside" if over else ""))
    words = f"{'jobs':>5} {'mean error':>10} {'limit':>7} {'met':>4} {'learnt':>7} {'outside':>8}"
    print(f"\n{'figure':15} {words} {'in interval':>12}")
    for name, m in means.items():
        shares = f"{m['plan'] * 100:8.1f} % {m['limit'] * 100:5.0f} % {'yes' if m['met'] else 'no':>4}"
        rest = f"{m['learnt'] * 100:5.1f} % {m['outside']:8} {m['covered'] * 100:10.0f} %"
        print(f"{name:15} {m['count']:5} {shares} {rest}")
    c = calibration
    took = f"{c['wall_s']:.0f} s with the first plan, {c['limit_s']:.0f} allowed; {c['rows']} rows"
    lacks = f"; SKIPPED: {', '.join(c['skipped'])}" if c["skipped"] else ""
    more = f"; the plans rest on {c['in_plans']} of them" if c["in_plans"] > 1 else ""
    print(f"calibration: {took}{lacks}{more}; {cores()} cores")


if __name__ == "__main__":
    sys.exit(main())
