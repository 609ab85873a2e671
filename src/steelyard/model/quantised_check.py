"""Checkpoints whose weights somebody else has quantised: FP8, AWQ, GPTQ, MXFP4 and the like, by headers.

Their numbers mean nothing without scales that the network here does not know, so they are neither trained nor
exported. The gate reads them through readers of its own, and vLLM serves them.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ..errors import Where, WrongUse
from ..shape import read_json, tensors

KEYS = ("quantization_config", "compression_config")  # of config.json; the second is an older name
# Beside config.json: AutoGPTQ, AutoAWQ, NVIDIA's ModelOpt.
FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq", "hf_quant_config.json": "modelopt"}
PLAIN = ("F64", "F32", "F16", "BF16", "I64", "BOOL")  # the last two: tables of positions, masks
INSTEAD = (
    "use the BF16 checkpoint that it was made from (often the name without -FP8, -AWQ, -GPTQ or -4bit); "
    "to serve this one as it is: --engine vllm; to check a server of it: steelyard gate MODEL URL"
)


def quantised_as(folder: Path) -> str | None:
    """How the weights of a model folder are quantised ("fp8", "awq", "gptq", ...), None where they are not.

    By config.json and its neighbours, else by the types of the tensors. Only headers are read.
    """
    return _by_config(folder) or _by_tensors(folder)


def check_not_quantised(folder: Path) -> None:
    """Raises WrongUse for a checkpoint that is quantised already, with its kind and what to use instead."""
    if how := quantised_as(folder):
        raise WrongUse(
            "model.quantised", f"the weights of {folder.name} are quantised already ({how})",
            where=Where(str(folder / "config.json"), field="quantization_config"),
            why="only plain F32, F16 and BF16 weights are trained and served; smaller forms are made of them",
            hint=INSTEAD,
        )  # fmt: skip


def _by_config(folder: Path) -> str | None:
    config = read_json(folder / "config.json")
    for part in (config, config.get("text_config") or {}):
        for key in KEYS:
            if settings := part.get(key):
                return _method(settings)
    return next((name for file, name in FILES.items() if (folder / file).is_file()), None)


def _method(settings: Any) -> str:
    """transformers' `quant_method`; bitsandbytes wrote none in its first versions."""
    if not isinstance(settings, dict):
        return str(settings)
    if method := settings.get("quant_method"):
        return str(method)
    return "bitsandbytes" if any(key.startswith(("load_in_", "bnb_")) for key in settings) else "unnamed"


def _by_tensors(folder: Path) -> str | None:
    """The commonest type that is no plain number format; embeddings and norms alone may be in one."""
    matrices = (at.dtype for _, at in tensors(folder).values() if len(at.shape) > 1)
    other = Counter(dtype for dtype in matrices if dtype not in PLAIN)
    return f"tensors of type {other.most_common(1)[0][0]}" if other else None
