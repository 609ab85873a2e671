"""Output tokens a second of each engine's child under one load, without HTTP: batches of 1, 8 and 32.

    python bench/engines.py [MODEL] [--engines openvino,llamacpp,vllm] [--runs 3] [--mode fast]
        [--engine-python PYTHON] [--markdown]

Protocol: prompts of 128 random tokens, no two alike, 64 new ones each, greedy, end tokens ignored; all of a
batch are sent at once, and one batch of each size goes before as warm-up. Engines in turn in each run, one
loaded at a time. Median of the runs; CPU time of others beside it. An engine that is not there is named with
the reason. One JSON document on standard output, or a table.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from steelyard.hardware import probe
from steelyard.serving import CAPABILITIES, ServeSettings, prepare
from steelyard.serving.engines.launched.interpreter import capability
from steelyard.serving.host.engine_process import EngineProcess
from steelyard.serving.host.settings import engine_settings

LAUNCHED = ("vllm", "sglang")  # engines with a server and an interpreter of their own
BATCHES = (1, 8, 32)
PROMPT_TOKENS, NEW_TOKENS = 128, 64
LEAST_ID, VOCABULARY = 100, 40_000  # ids of plain words in any of the vocabularies


@dataclass(frozen=True, slots=True)
class Measured:
    """One batch size of one run."""

    engine: str
    batch: int
    output_tok_s: float
    ttft_s: float  # median
    others_cores: float  # that other processes took meanwhile


def prompts(batch: int, seed: int) -> list[list[int]]:
    chance = random.Random(seed)
    return [[chance.randrange(LEAST_ID, VOCABULARY) for _ in range(PROMPT_TOKENS)] for _ in range(batch)]


async def ask(engine: EngineProcess, ids: list[int]) -> tuple[float, int]:
    """Seconds to the first token, and tokens made."""
    began, first, made = time.perf_counter(), 0.0, 0
    async with aclosing(engine.submit({"ids": ids, "max_tokens": NEW_TOKENS})) as events:
        async for event in events:
            first = first or time.perf_counter() - began
            made += len(event.ids)
    return first, made


async def batches(engine: EngineProcess, name: str, seed: int) -> list[Measured]:
    found = []
    for batch in BATCHES:
        await asyncio.gather(*(ask(engine, ids) for ids in prompts(batch, seed * 100 + batch)))
        before, began = _cpu(engine), time.perf_counter()
        answers = await asyncio.gather(*(ask(engine, ids) for ids in prompts(batch, seed * 100 + 50 + batch)))
        seconds = time.perf_counter() - began
        others = (_cpu(engine) - before) / seconds
        rate = sum(made for _, made in answers) / seconds
        found.append(Measured(name, batch, rate, statistics.median(f for f, _ in answers), others))
    return found


def _cpu(engine: EngineProcess) -> float:
    """CPU seconds of all processes less those of this one and the engine's."""
    machine = psutil.cpu_times()
    own = 0.0
    for process in (psutil.Process(), psutil.Process(engine.pid)):
        for one in (process, *(process.children(recursive=True) if process.pid == engine.pid else ())):
            own += sum(one.cpu_times()[:2])
    return machine.user + machine.nice + machine.system - own


async def run(
    name: str, model: str, mode: str, python: str | None, seed: int
) -> tuple[list[Measured], dict[str, Any]]:
    folder = prepare(model, engine=name).folder
    own = python if name in LAUNCHED else None
    wanted = ServeSettings(engine=name, mode=mode, max_model_len=2048, engine_python=own)
    engine = EngineProcess(engine_settings(folder, wanted), lambda *a, **k: None)
    await engine.start()
    try:
        return await batches(engine, name, seed), dict(engine.load)
    finally:
        await engine.close()


def measure(names: list[str], args: argparse.Namespace) -> dict[str, Any]:
    python = args.engine_python
    whys = {n: (capability(n, python) if n in LAUNCHED else CAPABILITIES[n]()).unusable for n in names}
    rows: list[Measured] = []
    loads: dict[str, Any] = {}
    for seed in range(args.runs):
        for name in [n for n in names if whys[n] is None]:
            found, loads[name] = asyncio.run(run(name, args.model, args.mode, python, seed))
            rows += found
    return {
        "model": args.model, "mode": args.mode, "machine": asdict(probe()),
        "missing": {n: w for n, w in whys.items() if w},
        "load": loads, "table": table(rows), "runs": [asdict(row) for row in rows],
    }  # fmt: skip


def table(rows: list[Measured]) -> list[dict[str, Any]]:
    """Medians, an engine and a batch size a row."""
    keys = list(dict.fromkeys((row.engine, row.batch) for row in rows))
    found = []
    for engine, batch in keys:
        mine = [row for row in rows if (row.engine, row.batch) == (engine, batch)]
        rates = [row.output_tok_s for row in mine]
        found.append({
            "engine": engine, "batch": batch, "output_tok_s": round(statistics.median(rates), 1),
            "low": round(min(rates), 1), "high": round(max(rates), 1),
            "ttft_ms": round(1000 * statistics.median(row.ttft_s for row in mine)),
            "others_cores": round(statistics.median(row.others_cores for row in mine), 2),
        })  # fmt: skip
    return found


def markdown(told: dict[str, Any]) -> str:
    lines = [
        "| engine | batch | tok/s (low to high) | TTFT ms | others' cores |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in told["table"]:
        spread = f"{row['output_tok_s']} ({row['low']} to {row['high']})"
        lines.append(
            f"| {row['engine']} | {row['batch']} | {spread} | {row['ttft_ms']} | {row['others_cores']} |"
        )
    return "\n".join([*lines, *(f"{name}: {why}" for name, why in told["missing"].items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--engines", default="openvino,llamacpp,vllm")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--mode", default="fast", choices=("fast", "exact"))
    parser.add_argument("--engine-python", default=None)
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    told = measure(args.engines.split(","), args)
    print(markdown(told) if args.markdown else json.dumps(told, indent=2, default=str))


if __name__ == "__main__":
    main()
