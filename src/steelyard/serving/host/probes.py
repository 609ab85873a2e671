"""Calibration rows for the planner: the real engine child on small random models of a real width.

Two layer counts give slope and intercept of every figure. Not here: what the rows mean (planner).
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np

from ...compression import export_form
from ...model import write_random_model
from .engine_process import EngineProcess
from .settings import ServeSettings, engine_settings

SHAPE = {"hidden": 576, "heads": 9, "kv_heads": 3, "head_dim": 64, "ffn": 1536, "vocab": 49152}
# Layers and form; dropped from the end where time lacks. 20 layers are 127 MB: no cache holds them.
CELLS = ((4, "bf16"), (20, "bf16"), (20, "int8"))
PREFILL_TOKENS = (32, 128, 512)
BATCHES = (1, 8, 32)
CONTEXT = 128
STEPS = 12
DECODES = 2
REPEATS = 3


def probe(limit_s: float = 15.0, threads: int | None = None) -> list[dict[str, Any]]:
    """Rows of ops "load", "prefill" and "decode", SI units, at most about `limit_s` seconds."""
    return asyncio.run(_probe(limit_s, threads))


async def _probe(limit_s: float, threads: int | None) -> list[dict[str, Any]]:
    began, rows = time.monotonic(), []
    longest = 0.0
    with tempfile.TemporaryDirectory(prefix="steelyard-probe-") as scratch:
        for layers, form in CELLS:
            started = time.monotonic()
            if started - began + longest > limit_s:
                break
            folder = await asyncio.to_thread(_small_model, Path(scratch), layers, form)
            rows += await _cell(folder, layers, form, threads)
            longest = max(longest, time.monotonic() - started)
    return rows


def _small_model(scratch: Path, layers: int, form: str) -> Path:
    """A random model in `form`, as an engine loads it."""
    source, out = scratch / f"hf-{layers}", scratch / f"ir-{layers}-{form}"
    if not source.exists():
        write_random_model(source, layers=layers, **SHAPE)
    export_form(source, out, form)
    return out


# ------------------------------------------------------------------ measuring


async def _cell(folder: Path, layers: int, form: str, threads: int | None) -> list[dict[str, Any]]:
    settings = engine_settings(folder, ServeSettings(threads=threads, max_model_len=1024))
    about = {"form": form, "layers": layers, **SHAPE, "threads": settings.threads}
    rng = np.random.default_rng(layers)
    tokens = sum(PREFILL_TOKENS) * (REPEATS + 1) + 66 + DECODES * sum(BATCHES) * (CONTEXT + STEPS)
    engine = EngineProcess(settings, lambda *_, **__: None)
    began = time.monotonic()
    try:
        await engine.start()
        loaded = time.monotonic() - began
        await _answer(engine, rng, 64, 2)
        first = time.monotonic() - began
        rows = [
            about | {"op": "prefill", "tokens": n, "s": await _prefill(engine, rng, n)}
            for n in PREFILL_TOKENS
        ]
        for batch in BATCHES:
            step = await _decode(engine, rng, batch)
            rows.append(about | {"op": "decode", "batch": batch, "context": CONTEXT + STEPS / 2, "s": step})
        load = {
            "op": "load",
            "s": first,
            "load_s": loaded,
            "rss_bytes": _rss(engine.pid),
            "cache_bytes": settings.cache_bytes,
            "tokens_seen": tokens,
        }
        weights = (folder / "openvino_model.bin").stat().st_size
        return [about | load | {"weight_bytes": weights}, *rows]
    finally:
        await engine.close()


def _rss(pid: int | None) -> int:
    import psutil

    return psutil.Process(pid).memory_info().rss


async def _answer(engine: EngineProcess, rng: np.random.Generator, prompt: int, tokens: int) -> list[float]:
    """Times at which the tokens of one answer came; fresh ids, so that no prefix is cached."""
    ids = rng.integers(10, SHAPE["vocab"], prompt).tolist()
    request = {"ids": ids, "max_tokens": tokens}
    times = []
    async with aclosing(engine.submit(request)) as events:
        async for _ in events:
            times.append(time.monotonic())
    return times


async def _prefill(engine: EngineProcess, rng: np.random.Generator, tokens: int) -> float:
    """Median seconds from asking to the first token, alone."""
    taken = []
    for _ in range(REPEATS + 1):
        began = time.monotonic()
        taken.append((await _answer(engine, rng, tokens, 1))[0] - began)
    return statistics.median(taken[1:])


async def _decode(engine: EngineProcess, rng: np.random.Generator, batch: int) -> float:
    """Least seconds, of DECODES rounds, of one step in which all `batch` answers grow by a token."""
    return min([await _decode_once(engine, rng, batch) for _ in range(DECODES)])


async def _decode_once(engine: EngineProcess, rng: np.random.Generator, batch: int) -> float:
    answers = await asyncio.gather(*(_answer(engine, rng, CONTEXT, STEPS) for _ in range(batch)))
    # The later half: all prompts are in by then. Neighbouring events may arrive together, so no single gap.
    half = STEPS // 2
    return statistics.median((times[-1] - times[half]) / (len(times) - 1 - half) for times in answers)
