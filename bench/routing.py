"""Does a prompt reach its ability's adapter, and what does choosing cost the first token?

    python bench/routing.py [--tasks DIR] [--model demo] [--engine openvino] [--requests 60]

DIR has a folder for each ability with train.jsonl and test.jsonl (STEELYARD_SHARED/tasks: three in English,
one in Chinese). A router is fitted on the first 2,000 rows of each train.jsonl; 100 held-out prompts of each
are routed, and so are prompts of no ability (below). Then the model is served twice, with one random adapter
an ability, once without the router: the same prompts in turn to both, greedy, one token, one at a time; the
added TTFT is the median of the pairs' differences, each prompt new to both. One JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from safetensors.numpy import save_file

from steelyard.model import Weights, resolve, to_hf
from steelyard.router import Router, asked_of, fit_router, milliseconds, write_router
from steelyard.serving import ServeSettings, prepare, promote, start

SHARED = Path(os.environ.get("STEELYARD_SHARED", "../shared"))
HELD_OUT, TAUGHT = 100, 2000  # rows of an ability
RANK = 8
FOREIGN = (
    "Who wrote Faust?", "Write a poem about the sea in autumn.", "What is the capital of Peru?",
    "Explain recursion to a child.", "Summarise the plot of Hamlet in two sentences.",
    "How do I boil an egg?",
    "Translate 'good morning' into French.", "Give me three names for a cat.", "Why is the sky blue?",
    "Write a cover letter for a nurse.", "Is 91 a prime number?", "Tell me a joke about penguins.",
    "写一首关于春天的诗。", "中国的首都是哪里？", "请解释一下什么是机器学习。", "怎么做番茄炒蛋？",
    "把“早上好”翻译成英文。", "推荐三本历史书。", "为什么天空是蓝色的？", "用一句话介绍莎士比亚。",
)  # fmt: skip


def read(file: Path, most: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()[:most]]


def accuracy(router: Router) -> dict[str, Any]:
    own = router.accuracy
    total, right = sum(a.rows for a in own.values()), sum(a.right for a in own.values())
    abilities = {name: {"rows": a.rows, **asdict(a)} for name, a in own.items()}
    return {"prompts": total, "right": right, "share": right / total, "abilities": abilities}


def write_adapter(model: Path, folder: Path, seed: int) -> str:
    """A LoRA of small random factors on query and value."""
    weights, chance = Weights(model), np.random.default_rng(seed)
    tensors = {}
    for name in weights.names():
        if name.endswith(("q_proj.weight", "v_proj.weight")):
            rows, columns = weights.shape(name)
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{stem}.lora_A.weight"] = chance.normal(0, 0.01, (RANK, columns)).astype(np.float32)
            tensors[f"{stem}.lora_B.weight"] = chance.normal(0, 0.01, (rows, RANK)).astype(np.float32)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": ["q_proj", "v_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder)


def ttft_s(client: httpx.Client, url: str, model: str, row: dict[str, Any]) -> tuple[float, str | None]:
    """Seconds to the first byte of a streamed answer, and the adapter that the service says."""
    body = {
        "model": model,
        "messages": row["messages"][:-1],
        "max_tokens": 1,
        "temperature": 0,
        "stream": True,
    }
    began = time.perf_counter()
    with client.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=120) as answer:
        pieces = answer.iter_raw()
        next(pieces)
        seconds = time.perf_counter() - began
        for _ in pieces:
            pass
        return seconds, answer.headers.get("x-steelyard-adapter")


def served(
    args: argparse.Namespace, router: Router, rows: list[dict[str, Any]], place: Path
) -> dict[str, Any]:
    """One service, each prompt twice: routed, and by its adapter's name. Both hit the same pipeline."""
    model = place / "model"
    to_hf(resolve(args.model), model)
    names = list(router.abilities)
    adapters = {name: write_adapter(model, place / name, n) for n, name in enumerate(names)}
    write_router(router, place / "router")
    folder = prepare(str(model), engine=args.engine).folder
    settings = ServeSettings(
        engine=args.engine,
        adapters=adapters,
        route=str(place / "router"),
        prefix_cache=False,
        threads=args.threads,
    )
    service = promote(start(folder, settings), "127.0.0.1", 0)
    try:
        with httpx.Client() as client:
            for name in names:
                ttft_s(client, service.url, f"default:{name}", rows[0])
            pairs, told = [], 0
            for n, row in enumerate(rows):
                order = ("default", f"default:{row['ability']}")
                taken = {m: ttft_s(client, service.url, m, row) for m in (order if n % 2 else order[::-1])}
                told += taken["default"][1] == row["ability"]
                pairs.append((taken["default"][0], taken[order[1]][0]))
            page = client.get(f"{service.url}/metrics").text
            memory = sum(_rss(pid) for pid in service.pids())
    finally:
        service.stop(now=True)
    added = [1000 * (routed - named) for routed, named in pairs]
    sums = {n: float(next(line for line in page.splitlines() if line.startswith(f"steelyard:routing_seconds_{n}")).rpartition(" ")[2]) for n in ("sum", "count")}  # noqa: E501  # fmt: skip
    return {
        "engine": args.engine, "requests": len(rows), "right": told, "resident_bytes": memory,
        "ttft_ms": statistics.median(1000 * routed for routed, _ in pairs),
        "added_ttft_ms": {"median": statistics.median(added), "mean": statistics.fmean(added),
                          "standard_error": statistics.stdev(added) / len(added) ** 0.5},
        "routing_ms_in_the_service": 1000 * sums["sum"] / sums["count"],
    }  # fmt: skip


def _rss(pid: int) -> int:
    import psutil

    return int(psutil.Process(pid).memory_info().rss)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=Path, default=SHARED / "tasks")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--requests", type=int, default=60, help="0: no service")
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args()
    folders = sorted(f for f in args.tasks.iterdir() if (f / "train.jsonl").exists())
    taught = [row for f in folders for row in read(f / "train.jsonl", TAUGHT)]
    test = [row for f in folders for row in read(f / "test.jsonl", HELD_OUT)]
    began = time.perf_counter()
    router = fit_router(taught, test)
    fitted = time.perf_counter() - began
    texts = [asked_of(row["messages"][:-1]) for row in test]
    foreign = [router.route(text).ability for text in FOREIGN]
    cost = sorted(milliseconds(router, texts))
    found: dict[str, Any] = {
        "fit_s": fitted, "held_out": accuracy(router),
        "foreign": {"prompts": len(foreign), "to_the_base": foreign.count(None)},
        "route_ms": {"median": statistics.median(cost), "p99": cost[int(0.99 * len(cost))],
                     "of_100000_characters": statistics.median(milliseconds(router, ["long " * 20_000] * 9))},
    }  # fmt: skip
    if args.requests:
        each = -(-args.requests // len(folders))
        rows = [row for n in range(each) for row in test[n::HELD_OUT]]
        with tempfile.TemporaryDirectory() as place:
            found["service"] = served(args, router, rows, Path(place))
    print(json.dumps(found, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
