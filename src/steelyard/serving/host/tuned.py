"""Settings found by trying them on this machine, kept beside its calibration and used by later starts.

Only what leaves answers as they are is tried: threads, pinning, the tokens of a step. The precision of
weights and of the KV cache belongs to the form, which the gate has judged.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from ...artefact import write_durably
from ...hardware import affinity
from ...hardware import probe as machine
from ...places import cache_folder
from ..engines import EngineSettings
from .engine_process import EngineProcess
from .replicas.cores import physical_cores, usable_cores

LIMIT_S = 110.0
MARGIN = 1.05  # a machine's speed drifts by some per cent from minute to minute: less proves nothing
LOADS = ((1, 1, 24), (8, 8, 16), (32, 32, 16))  # users, requests, new tokens
PROMPT_TOKENS = 128
STEP_TOKENS = (512, 256, 4096)  # beside the default: small steps for TTFT of the others, large for GEMM


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What was found best. `gain`: output tokens a second over the defaults', a geometric mean over loads."""

    threads: int
    cores: tuple[int, ...] = ()
    max_num_batched_tokens: int = 2048
    gain: float = 1.0
    tried: int = 1
    took_s: float = 0.0


def tune(
    settings: EngineSettings, limit_s: float = LIMIT_S, report: Callable[[str, float], None] = lambda *_: None
) -> Tuned:
    """Try settings for `settings.folder` until `limit_s` is over and keep the best for later starts.

    `told` hears of each trial and its rate over the defaults'. Raises Lacking where the engine cannot load.
    """
    began = time.monotonic()
    first = rate(settings)
    one = time.monotonic() - began
    best, best_rate, tried = settings, first, 1
    for name, settle in _trials():
        if time.monotonic() - began + 1.5 * one > limit_s:
            break
        trial = settle(best)
        if trial == best:
            continue
        rate_now, tried = rate(trial), tried + 1
        report(name, rate_now / first)
        if rate_now > best_rate * MARGIN:
            best, best_rate = trial, rate_now
    tuned = Tuned(
        threads=best.threads, cores=best.cores, max_num_batched_tokens=best.max_num_batched_tokens,
        gain=best_rate / first, tried=tried, took_s=time.monotonic() - began,
    )  # fmt: skip
    _keep(settings, tuned)
    return tuned


def _trials() -> Iterator[tuple[str, Callable[[EngineSettings], EngineSettings]]]:
    cores, logical = usable_cores(), len(affinity())
    if logical > cores:
        yield f"{logical} threads", lambda s: replace(s, threads=logical)
    if cores > 4:
        yield f"{cores - 1} threads", lambda s: replace(s, threads=cores - 1)
    yield "pinned", lambda s: replace(s, cores=tuple(physical_cores()[: s.threads]))
    for tokens in STEP_TOKENS:
        yield f"{tokens} tokens a step", partial(replace, max_num_batched_tokens=tokens)


# ------------------------------------------------------------------ one trial


def rate(settings: EngineSettings) -> float:
    """Output tokens a second, the geometric mean over LOADS, of a fresh engine."""
    return asyncio.run(_rate(settings))


async def _rate(settings: EngineSettings) -> float:
    import numpy as np

    engine = EngineProcess(settings, lambda *_, **__: None)
    config = orjson.loads((Path(settings.folder) / "config.json").read_bytes())
    chance = np.random.default_rng(0)

    def fresh(count: int) -> list[list[int]]:
        return chance.integers(10, config["vocab_size"] - 10, (count, PROMPT_TOKENS)).tolist()

    await engine.start()
    try:
        await _load(engine, fresh(4), 4, 4)  # the first steps compile kernels
        rates = [await _load(engine, fresh(requests), users, new) for users, requests, new in LOADS]
    finally:
        await engine.close()
    return math.exp(sum(map(math.log, rates)) / len(rates))


async def _load(engine: EngineProcess, prompts: list[list[int]], users: int, new: int) -> float:
    left = iter(prompts)

    async def user() -> None:
        for ids in left:
            async with aclosing(engine.submit({"ids": ids, "max_tokens": new})) as events:
                async for _ in events:
                    pass

    began = time.monotonic()
    await asyncio.gather(*(user() for _ in range(users)))
    return len(prompts) * new / (time.monotonic() - began)


# ------------------------------------------------------------------ what is kept


def tuned_settings(settings: EngineSettings) -> Tuned | None:
    """What was found on this machine for a model of this shape in this form."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        settings_stored = orjson.loads(_file().read_bytes())[_key(settings)]
        return Tuned(**{**settings_stored, "cores": tuple(settings_stored["cores"])})
    return None


def _keep(settings: EngineSettings, tuned: Tuned) -> None:
    stored: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        stored = orjson.loads(_file().read_bytes())
    _file().parent.mkdir(parents=True, exist_ok=True)
    write_durably(
        _file(), orjson.dumps({**stored, _key(settings): asdict(tuned)}, option=orjson.OPT_INDENT_2)
    )


def _file() -> Path:
    return cache_folder() / f"tuned-{machine().fingerprint[:16]}.json"


def _key(settings: EngineSettings) -> str:
    """Models of one shape in one form run alike, whatever their weights say."""
    folder = Path(settings.folder)
    config = orjson.loads((folder / "config.json").read_bytes())
    sizes = "x".join(
        str(config.get(name))
        for name in (
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "vocab_size",
        )
    )
    form = orjson.loads((folder / "form.json").read_bytes())["form"]
    guessing = "" if settings.speculative == "off" else f" {settings.speculative}"
    return f"{settings.engine} {form} {settings.mode} {sizes}{guessing}"
