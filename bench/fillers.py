"""Cleaning as a filler beside a training, both driven by `steelyard jobs` on one machine.

    python bench/fillers.py BASE [--rounds 4] [--seconds 20] [--threads 1] [--pinned]

BASE: a Hugging Face folder. The training (LoRA, --threads of the cores) is one job, the filler another: by
turns it does nothing for --seconds, then cleans a corpus of 10 MB again and again, one process, as
`steelyard clean` does. The filler's processes are SCHED_IDLE, as the driver starts every filler; with
--pinned the training has the first cores for itself and the filler the last one (`by: [taskset, ...]`). Of
each round the training's steps a second beside the filler over those of the quiet spans before and after
it; of the filler its MB a second. The first round is left out. One JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

SETTINGS: dict[str, Any] = {
    "stage": "sft", "finetuning_type": "lora", "lora_rank": 8, "lora_alpha": 16, "learning_rate": 1e-3,
    "num_train_epochs": 500, "max_steps": None, "max_length": 96, "packing": False, "micro_batch": 1,
    "grad_accum": 1, "warmup_ratio": 0.1, "weight_decay": 0.0, "seed": 0, "dtype": "f32", "mix": {},
    "engine": "own", "checkpoint_steps": 100_000,
}  # fmt: skip
HERE = Path(__file__).resolve()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pinned", action="store_true")
    return parser.parse_args()


def fill(folder: Path, rounds: int, seconds: float) -> None:
    """The filler: once the training goes on, quiet and busy spans by turns, noted with their times."""
    from steelyard.data import clean_files

    corpus, out = folder / "in" / "made.jsonl", folder / "out"
    while not (folder / "going").exists():
        time.sleep(0.2)
    for _ in range(rounds):
        begun = time.monotonic()
        time.sleep(seconds)
        quiet, cleaned = time.monotonic(), 0
        while time.monotonic() - quiet < seconds:
            clean_files(corpus, out, workers=1)
            cleaned += corpus.stat().st_size
        row = {"quiet": [begun, quiet], "busy": [quiet, time.monotonic()], "bytes": cleaned}
        with (folder / "spans.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
    begun = time.monotonic()
    time.sleep(seconds)
    with (folder / "spans.jsonl").open("a") as file:
        file.write(json.dumps({"quiet": [begun, time.monotonic()]}) + "\n")
    (folder / "over").touch()


def learn(base: Path, folder: Path, threads: int) -> None:
    """The training: a line each step; it ends when the filler is through."""
    from faults_worker import report
    from models import TASKS, rows_of

    from steelyard.artefact import Inputs, Progress, Store, Watch, adopt
    from steelyard.errors import Stopped
    from steelyard.training import train

    class Told(Watch):
        steps = 0

        def show(self, progress: Progress, closed: bool = False) -> None:
            if progress.done and not closed:
                self.steps += 1
                report(step=self.steps)
                if self.steps == 10:
                    (folder / "going").touch()
                self.stop = self.stop or (folder / "over").exists()

    Progress.EVERY_S = 0.0
    watch = Told()
    signal.signal(signal.SIGTERM, lambda *_: setattr(watch, "stop", True))
    data = folder / "data"
    data.mkdir(exist_ok=True)
    rows = [row for task in TASKS for row in rows_of(task, "train", 100)]
    (data / "train.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    inputs = Inputs({"base": adopt(base), "dataset": adopt(data, "dataset")})
    settings = SETTINGS | {"threads": threads}
    draft = Store(folder / "store").draft("checkpoint", "0" * 64, "train", settings, inputs.artefacts)
    with suppress(Stopped):
        train(inputs, settings, draft, watch)


def measured(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from clean import made_rows

    (folder / "in").mkdir()
    (folder / "in" / "made.jsonl").write_bytes(b"".join(made_rows(10_000_000)))
    cores = sorted(os.sched_getaffinity(0))
    first = ",".join(map(str, cores[: args.threads]))
    by = [{"by": ["taskset", "-c", first]}, {"by": ["taskset", "-c", str(cores[-1])]}] if args.pinned else 2
    own = [sys.executable, str(HERE), str(args.base)]
    jobs = {
        "devices": by,
        "jobs": [
            {"name": "train", "command": [*own, "--learn", str(folder), "--threads", str(args.threads)]},
            {"name": "clean", "filler": True, "command": [*own, "--fill", str(folder), "--rounds",
             str(args.rounds), "--seconds", str(args.seconds)]},
        ],
    }  # fmt: skip
    (folder / "jobs.yaml").write_text(json.dumps(jobs))
    words = [sys.executable, "-m", "steelyard", "jobs", str(folder / "jobs.yaml"), "--json"]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    moments = []
    for lines in sorted((folder / "jobs" / "jobs" / "attempts" / "train").glob("*/report.jsonl")):
        moments += [json.loads(line)["mono"] for line in lines.read_text().splitlines()]
    spans = [json.loads(line) for line in (folder / "spans.jsonl").read_text().splitlines()]
    rows = []
    for span, after in list(pairwise(spans))[1:]:
        quiet = (rate(moments, *span["quiet"]) + rate(moments, *after["quiet"])) / 2
        busy_s = span["busy"][1] - span["busy"][0]
        share = rate(moments, *span["busy"]) / quiet
        rows.append({"share": share, "steps_per_s": quiet, "filler_mb_per_s": span["bytes"] / busy_s / 1e6})
    return {
        "share": median(row["share"] for row in rows), "least": min(row["share"] for row in rows),
        "filler_mb_per_s": median(row["filler_mb_per_s"] for row in rows), "rounds": rows,
        "exit": done.returncode,
    }  # fmt: skip


def rate(moments: list[float], begin: float, end: float) -> float:
    """Steps a second, from the first step in a span to the last."""
    inside = [moment for moment in moments if begin <= moment <= end]
    return (len(inside) - 1) / (inside[-1] - inside[0])


def main() -> None:
    if "--fill" in sys.argv or "--learn" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("base", type=Path)
        parser.add_argument("--fill", type=Path)
        parser.add_argument("--learn", type=Path)
        parser.add_argument("--rounds", type=int)
        parser.add_argument("--seconds", type=float)
        parser.add_argument("--threads", type=int)
        own = parser.parse_args()
        return (
            fill(own.fill, own.rounds, own.seconds) if own.fill else learn(own.base, own.learn, own.threads)
        )
    from train import cpu_model

    args = arguments()
    args.base = args.base.absolute()
    with tempfile.TemporaryDirectory(prefix="steelyard-fillers-") as folder:
        found = measured(args, Path(folder))
    told = {"bench": "fillers", "threads": args.threads, "pinned": args.pinned, "seconds": args.seconds}
    print(json.dumps(told | found | {"cpu": cpu_model(), "cores": os.cpu_count()}, indent=1))


if __name__ == "__main__":
    main()
