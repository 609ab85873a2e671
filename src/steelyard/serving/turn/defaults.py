"""How the service samples where a client names no temperature: as the model's maker says, else greedily.

The gate judges the likeliest answers, and a tuned model has one right answer more often than many: what one
meets first must be what was judged. A client that names a temperature gets that distribution whole: the
other defaults (top_p, top_k, min_p, repetition_penalty) belong to the default temperature alone.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "generation_config.json"
MOST_TEMPERATURE = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingDefaults:
    """In the units of the API; these values sample greedily, and change nothing else."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


NEUTRAL = SamplingDefaults(temperature=1.0)


def sampling_defaults(folder: Path, temperature: float | None = None) -> SamplingDefaults:
    """Of `temperature` where the user named one, else of generation_config.json, else greedy."""
    if temperature is not None:
        return SamplingDefaults(temperature=temperature)
    config = _config(folder)
    declared = _number(config, "temperature", 0.0, MOST_TEMPERATURE)
    if config.get("do_sample") is False or (declared is None and config.get("do_sample") is not True):
        return SamplingDefaults(repetition_penalty=_number(config, "repetition_penalty", 0.01, 100.0) or 1.0)
    return SamplingDefaults(
        temperature=1.0 if declared is None else declared,
        top_p=_number(config, "top_p", 1e-6, 1.0) or 1.0,
        top_k=int(_number(config, "top_k", 0, math.inf) or 0),
        min_p=_number(config, "min_p", 0.0, 1.0) or 0.0,
        repetition_penalty=_number(config, "repetition_penalty", 0.01, 100.0) or 1.0,
    )


def _config(folder: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        config = json.loads((Path(folder) / FILE).read_text(encoding="utf-8"))
        return config if isinstance(config, dict) else {}
    return {}


def _number(config: dict[str, Any], name: str, low: float, high: float) -> float | None:
    """The value where it is one that the API would take."""
    value = config.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if low <= value <= high else None
