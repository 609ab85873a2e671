"""Rotary frequencies of each rope form, in numpy: one place for the graph and the network.

Covered: default, linear, llama3, yarn, and dynamic within its training length, where it is the default.
Beyond it dynamic's cached keys would have to turn anew with every token, so no engine with a paged cache and
no batch of requests defines it. longrope differs per request's length for the same reason: not covered.
Formulas as in transformers' modeling_rope_utils.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Where, WrongUse

if TYPE_CHECKING:
    import numpy as np

KINDS = ("default", "linear", "dynamic", "llama3", "yarn")
NEEDS = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor",),
}


def rope_of(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """Rope parameters of a config.json with `rope_type` and `rope_theta` filled in. Raises WrongUse."""
    given = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind not in KINDS:
        raise WrongUse(
            "model.rope_unknown", f"rope {kind!r} is not covered",
            where=Where(str(path), field="rope_scaling"), hint=f"one of {', '.join(KINDS)}",
        )  # fmt: skip
    missing = [key for key in NEEDS.get(kind, ()) if not isinstance(given.get(key), int | float)]
    if missing:
        raise WrongUse(
            "model.rope_incomplete", f"rope {kind!r} needs {', '.join(missing)}",
            where=Where(str(path), field="rope_scaling"), hint="fetch the config.json again",
        )  # fmt: skip
    theta = float(given.get("rope_theta") or config.get("rope_theta") or 10000.0)
    length = given.get("original_max_position_embeddings") or config.get("max_position_embeddings", 2048)
    return {
        **given,
        "rope_type": kind,
        "rope_theta": theta,
        "original_max_position_embeddings": length,
    }


def inverse_frequencies(rope: dict[str, Any], head_dim: int) -> np.ndarray:
    """[head_dim / 2] rotations per position, f64; `rope` as rope_of gives it."""
    import numpy as np  # reading a config needs none

    inverse = 1.0 / rope["rope_theta"] ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if rope["rope_type"] == "linear":
        return inverse / rope["factor"]
    if rope["rope_type"] == "llama3":
        keep = _llama3_keep(rope, inverse)
    elif rope["rope_type"] == "yarn":
        keep = _yarn_keep(rope, head_dim)
    else:
        return inverse
    return (1 - keep) * inverse / rope["factor"] + keep * inverse


def attention_factor(rope: dict[str, Any]) -> float:
    """What cos and sin are multiplied by; 1 but for yarn."""
    if rope["rope_type"] != "yarn":
        return 1.0
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    factor, one, all_dim = rope["factor"], rope.get("mscale"), rope.get("mscale_all_dim")
    if one and all_dim:
        return _mscale(factor, one) / _mscale(factor, all_dim)
    return _mscale(factor, 1.0)


def _mscale(factor: float, by: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * by * math.log(factor) + 1.0


def _llama3_keep(rope: dict[str, Any], inverse: np.ndarray) -> np.ndarray:
    """Share of each frequency that stays: short waves do, long ones are stretched (Llama 3.1)."""
    import numpy as np

    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    turns = rope["original_max_position_embeddings"] * inverse / (2 * np.pi)
    return np.clip((turns - low) / (high - low), 0, 1)


def _yarn_keep(rope: dict[str, Any], head_dim: int) -> np.ndarray:
    """The same for yarn: a ramp from beta_fast to beta_slow turns in training (Peng 2023)."""
    import numpy as np

    low, high = (
        head_dim * math.log(rope["original_max_position_embeddings"] / (turns * 2 * math.pi))
        / (2 * math.log(rope["rope_theta"]))
        for turns in (rope.get("beta_fast") or 32, rope.get("beta_slow") or 1)
    )  # fmt: skip
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    ramp = (np.arange(head_dim // 2) - low) / (high - low or 0.001)
    return 1 - np.clip(ramp, 0, 1)
