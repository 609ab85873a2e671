"""What a precision costs the loss: bf16 beside f32 on the first step, FP8 (emulated) beside bf16 over many.

    python bench/precision.py MODEL_FOLDER [--steps 300] [--max-length 128] [--batches 24] [--out FILE]

first  mean, root mean square and largest difference of the loss of `--batches` packed batches before any
       update: what the forward pass in bf16 is off; the mean tells a bias, the rest is chance of rounding
fp8    LoRA and full, `--steps` steps in bf16 and again with every product of the layers in E4M3 and E5M2; the
       difference of the mean loss of the last tenth of the steps, as a share

Protocol: rows as bench/train.py makes them; each part in a process of its own; with --out FILE a part that is
there already is not run again. Prints one JSON document with machine and versions.
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
from statistics import mean
from typing import Any

from train import cpu_model, step_of, write_rows

SETTINGS = {
    "stage": "sft", "lora_rank": 16, "lora_alpha": 32, "num_train_epochs": 100, "packing": True,
    "micro_batch": 1, "grad_accum": 1, "warmup_ratio": 0.05, "weight_decay": 0.0, "seed": 0, "mix": {},
    "dtype": "bf16",
}  # fmt: skip
RATES = {"lora": 2e-4, "full": 2e-5}
PARTS = ("first", *(f"{kind} {way}" for kind in RATES for way in ("bf16", "fp8")))


def main() -> None:
    args = arguments()
    if args.one:
        print(json.dumps(first(args) if args.one == "first" else trained(args, *args.one.split())))
        return
    found = {part: measured(args, part) for part in PARTS if part.split()[0] in args.parts}
    print(
        json.dumps(
            {
                "bench": "precision",
                **summary(found),
                "settings": {n: getattr(args, n) for n in ("steps", "max_length", "batches", "row_tokens")},
                "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), "os": platform.platform()},
            },
            indent=2,
        )
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--parts", nargs="+", default=["first", *RATES], choices=("first", *RATES))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--batches", type=int, default=24)
    parser.add_argument("--row-tokens", type=int, default=60)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="JSON lines, a part each")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def measured(args: argparse.Namespace, part: str) -> Any:
    words = ("steps", "max_length", "batches", "row_tokens", "threads")
    order = {"part": part} | {name: getattr(args, name) for name in words}
    there = args.out.read_text().splitlines() if args.out and args.out.exists() else []
    for line in map(json.loads, there):
        if line["order"] == order:
            return line["found"]
    flags = [word for name in words for word in (f"--{name.replace('_', '-')}", str(getattr(args, name)))]
    command = [sys.executable, __file__, str(args.model), *flags, "--one", part]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    if args.out:
        with args.out.open("a") as file:
            file.write(json.dumps({"order": order, "found": found}) + "\n")
    print(f"{part}: done", file=sys.stderr)
    return found


def first(args: argparse.Namespace) -> list[float]:
    """bf16 less f32 of each batch's loss, before any update."""
    import torch

    from steelyard.model import Tokenizer, load
    from steelyard.training.methods import answer_loss_sum
    from steelyard.training.rows import batch_of, read_rows

    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder) / "train.jsonl", args.row_tokens)
        rows = read_rows(Path(folder) / "train.jsonl", Tokenizer(args.model), {"max_length": args.max_length})
    each = max(1, args.max_length // args.row_tokens)
    batches = [rows.examples[n * each : (n + 1) * each] for n in range(args.batches)]
    losses = []
    for dtype in ("float32", "bfloat16"):
        network = load(args.model, dtype)
        losses.append(
            [
                answer_loss_sum(network, batch_of(b, network)) / sum(r.taught_tokens for r in b)
                for b in batches
            ]
        )
    return [two - one for one, two in zip(*losses, strict=True)]


def trained(args: argparse.Namespace, kind: str, way: str) -> list[float]:
    """The losses of a run."""
    from steelyard.artefact import Watch
    from steelyard.training import train

    settings = SETTINGS | {"finetuning_type": kind, "learning_rate": RATES[kind], "max_steps": args.steps}
    settings |= {"max_length": args.max_length, "threads": args.threads, "fp8": way == "fp8"}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        inputs, draft = step_of(root, args.model, settings, args.row_tokens)
        train(inputs, settings, draft, Watch())
        return [json.loads(line)["loss"] for line in (draft.folder / "curve.jsonl").open()]


def summary(found: dict[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    if off := found.get("first"):
        rms = mean(value * value for value in off) ** 0.5
        document["first"] = {"mean": mean(off), "rms": rms, "most": max(map(abs, off)), "off": off}
    for kind in RATES:
        if f"{kind} fp8" in found:
            plain, eight = found[f"{kind} bf16"], found[f"{kind} fp8"]
            last = max(1, len(plain) // 10)
            ends = [mean(losses[-last:]) for losses in (plain, eight)]
            document[f"fp8 {kind}"] = {"bf16": ends[0], "fp8": ends[1], "share": ends[1] / ends[0] - 1}
    return document


if __name__ == "__main__":
    main()
