"""Settings of an engine with a server of its own without a plan, and what its args change in them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from ....launch import Launch, Wanted, launch_of
from ..protocol import EngineSettings

COUNTS = {  # setting -> flags that say it
    "max_model_len": ("--max-model-len", "--context-length"),
    "max_num_seqs": ("--max-num-seqs", "--max-running-requests"),
}
RANKS = (8, 16, 32, 64, 128, 256)  # that both make room for
Values = dict[str, tuple[Any, str]]  # setting -> (value, where it comes from)


def usual_values(one: EngineSettings) -> Values:
    """On a CPU the cache has a size; on a GPU the engine takes its usual share of the memory."""
    values: Values = {
        "dtype": _dtype(one),
        "max_model_len": (one.max_model_len, "asked for, else the model's, at most 8,192"),
        "max_num_seqs": (one.max_num_seqs, "--max-num-seqs"),
        "prefix_cache": (one.prefix_cache, "default"),
    }
    if one.mode == "exact":
        values["eager"] = (True, "mode: exact compiles nothing")
    if one.platform == "cpu":
        values["device"] = ("cpu", "this machine")
        values["max_num_batched_tokens"] = (one.max_num_batched_tokens, "one step on a CPU")
        values["kv_bytes"] = (one.cache_bytes, "32 requests of 512 tokens, at most 2 GiB")
    return values


def _dtype(one: EngineSettings) -> tuple[str, str]:
    if one.mode == "exact":
        return "float32", "mode: exact"
    return ("bfloat16", "mode: fast") if one.platform == "cpu" else ("auto", "the checkpoint's own")


def as_launched(one: EngineSettings) -> EngineSettings:
    """With the counts that the command line says: the front counts by them.

    Raises WrongUse for args that the engine has not, or that are steelyard's own.
    """
    values: Values = dict(one.values) or usual_values(one)
    launch = launch_for(replace(one, values=values))
    counts = {name: _count(launch, flags) for name, flags in COUNTS.items()}
    given: dict[str, Any] = {name: count for name, count in counts.items() if count is not None}
    return replace(one, values=values, **given)


def _count(launch: Launch, flags: tuple[str, ...]) -> int | None:
    """The number behind one of the flags; None where the command line has none, or no plain number."""
    said = [words[-1] for words in launch.options if words[0] in flags and words[-1].isdecimal()]
    return int(said[0]) if said else None


def launch_for(settings: EngineSettings) -> Launch:
    """The command line of a server with these settings. Raises WrongUse for args that cannot be."""
    return launch_of(
        Wanted(
            engine=settings.engine,
            platform=settings.platform,
            model=os.path.abspath(settings.folder),  # it is started in a folder of its own
            values={name: (value, origin) for name, (value, origin) in settings.values.items()},
            args=tuple(settings.args),
            adapters={name: os.path.abspath(folder) for name, folder in settings.adapters.items()},
            lora_rank=rank_of(settings.adapters) if settings.adapters else 0,
            cores=tuple(settings.cores),
        )
    )


def rank_of(adapters: dict[str, str]) -> int:
    """The least rank that both know and all of them fit in. Raises ValueError where one is higher."""
    highest = max(
        orjson.loads((Path(folder) / "adapter_config.json").read_bytes())["r"] for folder in adapters.values()
    )
    fitting = [rank for rank in RANKS if rank >= highest]
    if not fitting:
        raise ValueError(f"vLLM takes adapters of rank {RANKS[-1]} at most, one has {highest}")
    return fitting[0]
