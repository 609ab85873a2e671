"""GRPO after SFT on the same few rows, logs -> JSON: exact answers to other lines, before and after.

    STEELYARD_TRL_PYTHON=... python bench/grpo.py [MODEL_FOLDER] [--rows 30] [--test 100] ...
    ... python bench/grpo.py --train TASK/train.jsonl --heldout TASK/test.jsonl --max-length 256

Protocol: `--rows` rows, made by bench/preferences.py or the first of a file. LoRA by `own` on them: `sft`;
then `grpo` by the engine `trl` from the tuned model on the same rows, `--answers` sampled answers to each
prompt rewarded by the gate's `--compare`. Base, `sft` and `grpo` answer `--test` other lines greedily (served
in bf16, exact by the gate's `json`). Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

from preferences import answers, hf_folder, tasks, taught

from steelyard.compare import right
from steelyard.training import CAPABILITIES


def rows_of(args: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(rows that are taught, other rows)."""
    if not args.train:
        return tasks(args.rows, 2), tasks(args.test, 1)
    files = ((args.train, args.rows), (args.heldout, args.test))
    train, test = (
        [json.loads(line) for line in path.read_text().splitlines()[:count]] for path, count in files
    )
    return train, test


def exact(folder: Path, rows: list[dict[str, Any]], root: Path, most: int) -> float:
    texts = answers(folder, rows, root, max_tokens=most)
    return sum(right(row, text, "json") for row, text in zip(rows, texts, strict=True)) / len(rows)


def measured(args: argparse.Namespace, base: Path, root: Path) -> dict[str, Any]:
    began = time.perf_counter()
    train, test = rows_of(args)
    more = {"max_length": args.max_length}
    tuned, _ = taught(
        base,
        {"train": train},
        root,
        **{"stage": "sft", "packing": True, "pack_length": 512, "micro_batch": 1, "grad_accum": 1},
        **more | {"num_train_epochs": args.sft_epochs, "learning_rate": args.sft_rate},
    )
    sft = exact(tuned, test, root, args.most)
    print(json.dumps({"sft": sft, "wall_s": round(time.perf_counter() - began)}), flush=True)
    sampling = {"num_generations": args.answers, "max_completion_length": args.most, "beta": args.beta}
    rewarded, figures = taught(
        tuned,
        {"train": [{**row, "compare": args.compare} for row in train]},
        root,
        **{"stage": "grpo", "rows": "chats", "packing": False, "engine": "trl", "method": sampling},
        **{"micro_batch": args.answers, "grad_accum": args.prompts, "learning_rate": args.rate},
        **more | {"num_train_epochs": args.epochs},
    )
    curve = [json.loads(line) for line in (rewarded / "curve.jsonl").read_text().splitlines()]
    after = exact(rewarded, test, root, args.most)
    return {
        "bench": "grpo",
        "rows": len(train),
        "exact": {"base": exact(base, test, root, args.most), "sft": sft, "grpo": after},
        "gain_points": round(100 * (after - sft), 1),
        "steps": figures["steps"],
        "step_s": figures["step_s"],
        "reward": [round(point["reward"], 3) for point in curve],
        "answer_tokens": [round(point["completions/mean_length"], 1) for point in curve],
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k != "model"},
        "wall_s": round(time.perf_counter() - began),
        "machine": {"cores": os.cpu_count(), "os": platform.platform()},
        "versions": dict(CAPABILITIES["trl"]().versions),
    }


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        print(json.dumps(measured(args, args.model or hf_folder(root), root), indent=1))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--rows", type=int, default=30)
    parser.add_argument("--test", type=int, default=100)
    parser.add_argument("--train", type=Path, help="rows of a task; made here where left out")
    parser.add_argument("--heldout", type=Path, help="other rows of that task")
    parser.add_argument("--max-length", type=int, default=192)
    parser.add_argument("--most", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--sft-epochs", type=float, default=3)
    parser.add_argument("--sft-rate", type=float, default=8e-4)
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--answers", type=int, default=8, help="num_generations")
    parser.add_argument("--prompts", type=int, default=4, help="of a step")
    parser.add_argument("--beta", type=float, default=0.0)
    parser.add_argument("--compare", default="json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
