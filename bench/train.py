"""Training speed on this machine: tokens/s of the real step, beside the speed of plain matrix products.

    python bench/train.py MODEL_FOLDER [--finetuning-type lora|full] [--dtype bf16|f32] [--row-tokens 56] ...

Protocol: random rows of row-tokens ± 25 %, a fifth of each is the answer; packed; the step as `up` runs it,
in this process; median of the steps after the first. share_of_peak: the time that the layers' and the head's
products of such a step need alone, each direction in its own shape, at its best of 20, over the step's time;
attention, LoRA's factors and all else count as nothing. Prints one JSON document with machine and versions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import orjson

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the training room sets it, before torch is loaded
import torch

from steelyard.artefact import Draft, Inputs, Store, Watch, adopt
from steelyard.training import train


def main() -> None:
    args = arguments()
    settings = {
        "stage": "sft",
        "finetuning_type": args.finetuning_type,
        "lora_rank": args.lora_rank,
        "lora_alpha": 2 * args.lora_rank,
        "learning_rate": 1e-4,
        "num_train_epochs": 1,
        "max_steps": args.steps,
        "max_length": args.max_length,
        "packing": True,
        "micro_batch": args.micro_batch,
        "grad_accum": 1,
        "warmup_ratio": 0.0,
        "weight_decay": 0.0,
        "seed": 0,
        "threads": args.threads,
        "dtype": args.dtype,
        "mix": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        inputs, draft = step_of(root, args.model, settings, args.row_tokens)
        started, busy = time.time(), os.times()
        figures = train(inputs, settings, draft, Watch())
        wall_s = time.time() - started
    spent = os.times()
    print(
        json.dumps(
            {
                "bench": "train",
                "tokens_per_s": round(figures["tokens"] / figures["steps"] / figures["step_s"], 1),
                "figures": figures,
                "wall_s": wall_s,
                "cpu_s": spent.user + spent.system - busy.user - busy.system,
                "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "share_of_peak": needed_s(args, figures["tokens"] / figures["steps"]) / figures["step_s"],
                "products_per_s": {k: round(v / 1e9) for k, v in products(args).items()},
                "settings": settings,
                "row_tokens": args.row_tokens,
                "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), "os": platform.platform()},
                "versions": {"torch": torch.__version__, "python": platform.python_version()},
            },
            indent=2,
        )
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--finetuning-type", default="lora", choices=("lora", "full"))
    parser.add_argument("--dtype", default="bf16", choices=("bf16", "f32"))
    parser.add_argument("--lora-rank", type=int, default=8)
    parser.add_argument("--row-tokens", type=int, default=56)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--micro-batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


def step_of(root: Path, model: Path, settings: dict[str, Any], row_tokens: int) -> tuple[Inputs, Draft]:
    """What a training of random rows is given: its base and rows, and an empty draft."""
    (root / "dataset").mkdir()
    write_rows(root / "dataset" / "train.jsonl", row_tokens)
    inputs = Inputs({"base": adopt(model), "dataset": adopt(root / "dataset", "dataset")})
    return inputs, Store(root / "store").draft("checkpoint", "0" * 64, "train", settings, inputs.artefacts)


def write_rows(path: Path, tokens: int) -> None:
    """Random words; an answer of a fifth of the row."""
    draw = random.Random(0)
    words = ("time", "people", "way", "day", "man", "woman", "life", "world", "school", "family", "hand")
    with path.open("wb") as file:
        for _ in range(600):
            size = max(
                8, round(tokens * draw.uniform(0.75, 1.25)) - 16
            )  # 16: the template around a short chat
            text = [draw.choice(words) for _ in range(size)]
            cut = max(1, size // 5)
            messages = [
                {"role": "system", "content": "Go"},
                {"role": "user", "content": " ".join(text[cut:])},
                {"role": "assistant", "content": " ".join(text[:cut])},
            ]
            file.write(orjson.dumps({"id": "x", "ability": "bench", "messages": messages}) + b"\n")


def products(args: argparse.Namespace) -> dict[str, float]:
    """FLOP/s of plain matrix products in the layers' shapes: the limit of this machine."""
    config = json.loads((args.model / "config.json").read_text())
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    tokens, dtype = (
        args.max_length * args.micro_batch,
        {"bf16": torch.bfloat16, "f32": torch.float32}[args.dtype],
    )
    found = {}
    for name, (n, k) in {
        "gate_up": (2 * ffn, hidden),
        "down": (hidden, ffn),
        "square": (hidden, hidden),
    }.items():
        x, w = torch.randn(tokens, k).to(dtype), torch.randn(n, k).to(dtype)
        times = []
        for _ in range(20):
            started = time.perf_counter()
            torch.nn.functional.linear(x, w)
            times.append(time.perf_counter() - started)
        found[name] = 2 * tokens * n * k / median(times)
    return found


def needed_s(args: argparse.Namespace, tokens: float) -> float:
    """Least seconds of a step's products: y = x Wᵀ, dx = dy W and, where W is trained, dW = dyᵀ x."""
    config = json.loads((args.model / "config.json").read_text())
    hidden, ffn, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    width = config.get("head_dim") or hidden // heads
    qkv = (heads + 2 * (config.get("num_key_value_heads") or heads)) * width
    rows, answers = round(tokens), round(tokens / 5)
    layer = [(rows, qkv, hidden), (rows, hidden, heads * width), (rows, 2 * ffn, hidden), (rows, hidden, ffn)]
    layers = sum(products_s(args, *shape) for shape in layer) * config["num_hidden_layers"]
    return layers + products_s(args, answers, config["vocab_size"], hidden)


def products_s(args: argparse.Namespace, rows: int, out: int, width: int) -> float:
    dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[args.dtype]
    x, w, dy = (torch.randn(*size).to(dtype) for size in ((rows, width), (out, width), (rows, out)))
    ways = [lambda: x @ w.t(), lambda: dy @ w]
    ways += [lambda: dy.t() @ x] if args.finetuning_type == "full" else []
    total = 0.0
    for way in ways:
        times = []
        for _ in range(20):
            started = time.perf_counter()
            way()
            times.append(time.perf_counter() - started)
        total += min(times)
    return total


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


if __name__ == "__main__":
    main()
