"""The training engines on the same packed rows: tokens/s and peak RSS of own, and of TRL as good as it gets.

    python bench/train_engines.py MODEL_FOLDER [--finetuning-type lora full] [--dtype bf16] [--steps 6] ...
    python bench/train_engines.py MODEL_FOLDER --ways own trl --dtype f32 --steps 50 --max-length 256

own           the loop of this CPU
trl           the engine trl: no checkpointing of activations, rows behind each other, glibc keeps its pages
trl-default   TRL as it comes, on the same rows: activations computed twice, pages handed back
trl-unpacked  TRL as it comes, without packing: its 8 rows a batch, filled up to the longest

Protocol: rows as bench/train.py makes them; each run in a process of its own, in turn, `--rounds` times
over; median of the steps after the first; filling counts as no token. With --out FILE each run is appended
to it as it ends, and what is there already is not run again. Prints one JSON document with machine, versions,
medians of each way, own's over it, and how far apart the losses of a step are (of the first, and at most).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from train import cpu_model, step_of

WAYS = ("own", "trl", "trl-default", "trl-unpacked")
TRL_BATCH = 8  # rows: per_device_train_batch_size of transformers


def main() -> None:
    args = arguments()
    if args.one:
        print(json.dumps(one(args.model, json.loads(args.one))))
        return
    rows = [
        measured(args, kind, dtype, way, number)
        for number in range(args.rounds)
        for kind in args.finetuning_type
        for dtype in args.dtype
        for way in args.ways
    ]
    from steelyard.training import CAPABILITIES

    print(
        json.dumps(
            {
                "bench": "train_engines",
                "rows": summary(rows),
                "runs": rows,
                "steps": args.steps,
                "max_length": args.max_length,
                "row_tokens": args.row_tokens,
                "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), "os": platform.platform()},
                "versions": dict(CAPABILITIES["trl"]().versions) | {"python": platform.python_version()},
            },
            indent=2,
        )
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--finetuning-type", nargs="+", default=["lora", "full"], choices=("lora", "full"))
    parser.add_argument("--dtype", nargs="+", default=["bf16"], choices=("bf16", "f32"))
    parser.add_argument("--ways", nargs="+", default=list(WAYS[:3]), choices=WAYS)
    parser.add_argument("--out", type=Path, help="JSON lines, a run each: what is there is not run again")
    parser.add_argument("--row-tokens", type=int, default=60)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def measured(args: argparse.Namespace, kind: str, dtype: str, way: str, number: int) -> dict[str, Any]:
    """One run in a child: its speed, its peak of resident memory (of TRL: the child's), its losses."""
    order = {"way": way, "finetuning_type": kind, "dtype": dtype, "steps": args.steps, "round": number}
    order |= {"threads": args.threads, "row_tokens": args.row_tokens, "max_length": args.max_length}
    there = args.out.read_text().splitlines() if args.out and args.out.exists() else []
    for row in map(json.loads, there):
        if row["order"] == order:
            return row
    command = [sys.executable, __file__, str(args.model), "--one", json.dumps(order)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    row = json.loads(done.stdout.splitlines()[-1]) | {"order": order}
    if args.out:
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
    print(f"{way} {kind} {dtype}: {row['tokens_per_s']:.0f} tokens/s", file=sys.stderr)
    return row


def one(model: Path, order: dict[str, Any]) -> dict[str, Any]:
    """The step of a run, in this process; TRL in its child."""
    from steelyard.artefact import Watch
    from steelyard.processes import peak_rss_bytes
    from steelyard.training import train
    from steelyard.training.engines.trl import processes

    unpacked, as_it_comes = order["way"] == "trl-unpacked", order["way"] in WAYS[2:]
    if as_it_comes:
        for name in [name for name in processes.CHILD_ENV if name.startswith("MALLOC")]:
            del processes.CHILD_ENV[name]
    settings = {
        "stage": "sft",
        "finetuning_type": order["finetuning_type"],
        "lora_rank": 16,
        "lora_alpha": 32,
        "learning_rate": 1e-4,
        "num_train_epochs": 1,
        "max_steps": order["steps"],
        "max_length": order["max_length"],
        "packing": not unpacked,
        "micro_batch": TRL_BATCH if unpacked else 1,
        "grad_accum": 1,
        "warmup_ratio": 0.0,
        "weight_decay": 0.0,
        "seed": 0,
        "threads": order["threads"],
        "dtype": order["dtype"],
        "mix": {},
        "engine": order["way"].partition("-")[0],
        "gradient_checkpointing": as_it_comes,
    }
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        inputs, draft = step_of(root, model, settings, order["row_tokens"])
        figures = train(inputs, settings, draft, Watch())
        losses = [json.loads(line)["loss"] for line in (draft.folder / "curve.jsonl").open()]
    peak = figures.get("child_peak_rss_bytes") or peak_rss_bytes()
    wanted = {name: order[name] for name in ("way", "finetuning_type", "dtype")}
    speed = figures["tokens"] / figures["steps"] / figures["step_s"]
    return wanted | {"tokens_per_s": speed, "peak_rss_bytes": peak, "losses": losses}


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians of a way, own's over it, and how far the losses of a step are from own's on the same rows."""
    cells: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        cell = cells.setdefault((row["finetuning_type"], row["dtype"]), {})
        runs = [r for r in rows if all(r[n] == row[n] for n in ("way", "finetuning_type", "dtype"))]
        cell[row["way"]] = {n: median(r[n] for r in runs) for n in ("tokens_per_s", "peak_rss_bytes")}
        cell[row["way"]]["losses"] = row["losses"]
    lines = []
    for (kind, dtype), ways in cells.items():
        own = ways.get("own")
        for way, found in ways.items():
            line = {"finetuning_type": kind, "dtype": dtype, "way": way, **found}
            losses = line.pop("losses")
            if own and way != "trl-unpacked":
                off = [abs(a - b) for a, b in zip(own["losses"], losses, strict=True)]
                line |= {"first_loss_off": off[0], "most_loss_off": max(off)}
            if own:
                line["own_speed_over_it"] = own["tokens_per_s"] / found["tokens_per_s"]
                line["own_memory_over_it"] = own["peak_rss_bytes"] / found["peak_rss_bytes"]
            lines.append(line)
    return lines


if __name__ == "__main__":
    main()
