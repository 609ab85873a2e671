"""Candidates a second of the sweep over all training settings, on one core, beside Calculon's own search.

    python bench/sweep.py [--json] [--calculon DIR]      # DIR: a checkout of calculon-ai/calculon

A candidate is counted once its step time, memory and cost are computed and its place among the best 16 is
settled; the shares that divide evenly and that fit stand beside. Time is processor time of one process (the
median of 7), so that a busy machine does not blur it; wall time is told too. Exit 4 below GOAL_PER_S.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from steelyard.hardware import catalogue, named_models, published_constants
from steelyard.planner import Constants, Request, named_shape
from steelyard.planner.search.offer import offer_of
from steelyard.planner.search.sweep import Axes, Job, exact, sweep
from steelyard.planner.search.train_search import axes_of, job_of

GOAL_PER_S = 20e6
QUOTED_PER_S = (450, 500)  # Calculon on one core of a cloud machine
REPEATS = 7
# model, device, job, tokens
CASES = {
    "gpt3-175b pretrain": ("gpt3-175b", "a100-80-sxm", "pretrain", 3e11),
    "gpt-1008b pretrain": ("gpt-1008b", "h100-sxm", "pretrain", 1e12),
    "mixtral-8x7b pretrain": ("mixtral-8x7b", "gaudi3", "pretrain", 1e12),
    "llama3-8b sft": ("llama3-8b", "gaudi2", "sft", 1e8),
}
# Its search of all settings of a 5B model on two A100, without overlap, takes seconds. pandas serves only
# another of its commands, so an empty module stands for it.
CALCULON = """
import runpy, sys, types
sys.modules["pandas"] = types.ModuleType("pandas")
sys.path.insert(0, ".")
sys.argv = ["calculon", "llm-optimal-execution", "models/megatron-5B.json", "2", "2", "float16",
            "systems/a100_80g.json", sys.argv[1], "-c", "1", "-n", "--no-tp-overlap", "--no-dp-overlap"]
runpy.run_path("bin/calculon", run_name="__main__")
"""


def prepared(model: str, device: str, job: str, tokens: float) -> tuple[Job, Axes]:
    request = Request(shape=named_shape(model, named_models()), job=job, tokens=tokens)
    offer = offer_of(request, catalogue().find(device))
    hardware = offer.hardware("bf16")
    assert hardware is not None
    constants = Constants.from_json(published_constants())
    work = job_of(request, offer, hardware, "bf16", constants)
    return work, axes_of(request, offer, hardware, fine=True)


def measured(name: str) -> dict:
    work, axes = prepared(*CASES[name])
    found = sweep(work, axes)  # warms caches up
    cpu, wall = [], []
    for _ in range(REPEATS):
        begun, began = time.process_time(), time.perf_counter()
        found = sweep(work, axes)
        cpu.append(time.process_time() - begun)
        wall.append(time.perf_counter() - began)
    told = exact(work, found.best)
    error = np.abs(told["wall_s"] * told["devices"] / found.score - 1).max() if len(found.score) else 0.0
    return {
        "case": name,
        "candidates": found.considered,
        "per_s": found.considered / statistics.median(cpu),
        "per_s_wall": found.considered / statistics.median(wall),
        "divide": found.divide / found.considered,
        "fit": found.fit / found.considered,
        "float32_error": float(error),
        "best": {k: int(v[0]) for k, v in found.best.items()},
    }


def calculon(folder: Path | None) -> dict:
    """Executions its own search takes a second of processor time here; quoted where there is no checkout."""
    quoted = {"runs": False, "per_s": list(QUOTED_PER_S)}
    if folder is None or not (folder / "bin" / "calculon").exists():
        return quoted
    before = _children_s()
    with tempfile.TemporaryDirectory() as out:
        order = [sys.executable, "-c", CALCULON, str(Path(out) / "best.json")]
        done = subprocess.run(order, cwd=folder, capture_output=True, text=True)
    text = done.stdout + done.stderr
    told = {what: re.search(rf"{what}: ([\d.]+)", text) for what in ("Total executions", "Good executions")}
    total, good = (float(found[1]) if found else 0.0 for found in told.values())
    if not total:
        return quoted | {"why": (done.stderr.strip().splitlines() or ["no count in its output"])[-1]}
    return {"runs": True, "per_s": total / (_children_s() - before), "candidates": total, "fit": good / total}


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--calculon", type=Path, default=None)
    asked = parser.parse_args()
    rows, peer = [measured(name) for name in CASES], calculon(asked.calculon)
    least = min(row["per_s"] for row in rows)
    if asked.json:
        print(json.dumps({"sweep": rows, "least_per_s": least, "goal_per_s": GOAL_PER_S, "calculon": peer}))
    else:
        for row in rows:
            rate = f"{row['per_s'] / 1e6:5.1f} M/s ({row['per_s_wall'] / 1e6:.1f} by the clock)"
            shares = f"{row['divide']:.1%} divide, {row['fit']:.1%} fit"
            print(f"{row['case']:22} {row['candidates']:9,} candidates, {rate}; {shares}; "
                  f"float32 off by {row['float32_error']:.1e}")  # fmt: skip
        how = "run here" if peer["runs"] else "quoted"
        print(f"Calculon               {peer['per_s']} a second ({how}), fits {peer.get('fit')}")
    return 0 if least >= GOAL_PER_S else 4


if __name__ == "__main__":
    sys.exit(main())
