"""Which share of the matrix peak the engine reaches while 32 streams run.

    python bench/matrix_share.py [MODEL] [--form bf16] [--users 32] [--runs 3]

Protocol: the service's own engine in-process, 32 users with 128-token prompts and 64 new tokens, always full;
each step's tokens are known (prompts taken in and answers continued). Then, in the same process, on the same
threads: the model's matrix products alone, at exactly those numbers of rows, in an OpenVINO graph of nothing
else and by oneDNN through torch where installed; the faster is the peak. Share = time that the products of
all steps need at that peak / time the steps took.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np

from steelyard.hardware import probe
from steelyard.model import Tokenizer
from steelyard.serving import ENGINES, EngineSettings, GenRequest, ServeSettings, engine_settings, prepare

# isort: split
import openvino as ov  # behind steelyard, which switches its telemetry off
import openvino.opset13 as op

PROMPT, NEW = 128, 64
SECONDS = 0.25  # of repeated products at each number of rows


def steps(
    settings: EngineSettings, users: int, requests: int, vocab: int
) -> tuple[float, Counter[tuple[int, int]]]:
    """Seconds of all steps, and how often a step had (rows through the layers, rows through the head)."""
    engine = ENGINES[settings.engine]()(settings)
    chance = random.Random(0)
    prompts = [[chance.randrange(100, vocab - 100) for _ in range(PROMPT)] for _ in range(requests + 8)]
    _run(engine, prompts[:8], 8, 1_000_000)  # kernels are compiled at a step's first shapes
    began = time.perf_counter()
    found = _run(engine, prompts[8:], users, 0)
    wall = time.perf_counter() - began
    engine.close()
    return wall, found


def _run(engine: Any, prompts: list[list[int]], users: int, first: int) -> Counter[tuple[int, int]]:
    waiting, running, found = list(prompts), set(), Counter()
    serial = first
    while waiting or running:
        taken = 0
        while waiting and len(running) < users:
            serial += 1
            engine.add(GenRequest(request_id=serial, ids=waiting.pop(), max_tokens=NEW))
            running.add(serial)
            taken += 1
        events = engine.step()
        found[(len(running) - taken + taken * PROMPT, len(running))] += 1
        running -= {event.request_id for event in events if event.finish}
    return found


# ------------------------------------------------------------------ the peak


def shapes_of(config: dict[str, Any]) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """(in, out) of a layer's products, and of the head."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    wide, narrow = heads * head, (config.get("num_key_value_heads") or heads) * head
    ffn = config["intermediate_size"]
    layer = [
        (hidden, wide), (hidden, narrow), (hidden, narrow), (wide, hidden),
        (hidden, ffn), (hidden, ffn), (ffn, hidden),
    ]  # fmt: skip
    return layer, (hidden, config["vocab_size"])


def openvino_seconds(rows: int, products: list[tuple[int, int]], threads: int) -> float:
    """Least seconds of one pass of the products, each on its own weights, in bf16."""
    inputs, results = {}, []
    noise = (np.random.default_rng(0).standard_normal(2**20) * 0.02).astype(np.float32)
    for n, (width, out) in enumerate(products):
        x = inputs.setdefault(width, op.parameter([-1, width], ov.Type.f32))
        weight = op.convert(op.constant(np.resize(np.roll(noise, n), (out, width)).astype(np.float16)), "f32")
        results.append(op.reduce_sum(op.matmul(x, weight, False, True), op.constant(np.int64(1)), False))
    model = ov.Model([op.result(r) for r in results], list(inputs.values()), "products")
    properties = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": threads}
    request = ov.Core().compile_model(model, "CPU", properties).create_infer_request()
    feed = [np.ones((rows, width), np.float32) for width in inputs]
    return least(lambda: request.infer(feed))


def torch_seconds(rows: int, products: list[tuple[int, int]], threads: int) -> float:
    try:
        import torch
    except ImportError:
        return float("inf")
    torch.set_num_threads(threads)
    pairs = [
        (torch.ones(rows, width, dtype=torch.bfloat16), torch.ones(out, width, dtype=torch.bfloat16))
        for width, out in products
    ]

    def once() -> None:
        for x, weight in pairs:
            torch.nn.functional.linear(x, weight)

    with torch.inference_mode():
        return least(once)


def least(once: Any) -> float:
    times, end = [], time.perf_counter() + SECONDS
    while len(times) < 5 or time.perf_counter() < end:
        began = time.perf_counter()
        once()
        times.append(time.perf_counter() - began)
    return min(times)


def needed_s(found: Counter[tuple[int, int]], config: dict[str, Any], threads: int) -> dict[str, float]:
    """Seconds that the products of all steps need, by either library and by the faster at each shape."""
    layer, head = shapes_of(config)
    total: Counter[str] = Counter()
    copies = layer * 4  # several layers' weights, so that no cache holds them all
    for (rows, out), count in found.items():
        own = {}
        for name, seconds in (("openvino", openvino_seconds), ("torch", torch_seconds)):
            body = seconds(rows, copies, threads) / 4 * config["num_hidden_layers"]
            own[name] = count * (body + seconds(out, [head], threads))
            total[name] += own[name]
        total["fastest"] += min(own.values())
    return dict(total)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--form", default="bf16")
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    folder = prepare(args.model, args.form).folder
    config = json.loads((folder / "config.json").read_text())
    settings = engine_settings(folder, ServeSettings())
    vocab = Tokenizer(folder).vocab_size
    runs = []
    for _ in range(args.runs):
        wall, found = steps(settings, args.users, args.requests, vocab)
        needed = needed_s(found, config, settings.threads)
        layer, head = shapes_of(config)
        per_row = 2 * sum(a * b for a, b in layer) * config["num_hidden_layers"]
        flop = sum(n * (rows * per_row + out * 2 * head[0] * head[1]) for (rows, out), n in found.items())
        runs.append(
            {
                "wall_s": wall,
                "output_tok_s": args.requests * NEW / wall,
                "needed_s": needed,
                "share": needed["fastest"] / wall,
                "achieved_gflop_s": flop / wall / 1e9,
                "peak_gflop_s": flop / needed["fastest"] / 1e9,
            }
        )
    document = {
        "schema": "steelyard.bench.matrix_share/1",
        "protocol": " ".join(__doc__.split("Protocol: ")[1].split()),
        "model": args.model, "form": args.form, "users": args.users, "threads": settings.threads,
        "share": statistics.median(run["share"] for run in runs), "runs": runs, "machine": asdict(probe()),
    }  # fmt: skip
    print(json.dumps(document, indent=1, default=str))


if __name__ == "__main__":
    main()
