"""A folder of 4-bit weights in AutoAWQ's gemm layout, which vLLM, SGLang and transformers load.

The codes are GPTQ's over the user's rows (calibrate.py), to nearest without rows: the layout says how groups
of inputs share a scale and a zero point, not how they were found. Embedding and head stay 16-bit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import Where, WrongUse
from ..model import Grouped, Weights, checkpoint_weights, copy_companions, family_of, write
from ..shape import read_json
from .rounding import rounded_groups

LARGEST = 128  # inputs of a group, AutoAWQ's default
GROUPS = (128, 64, 32)  # what vLLM's kernels take
WORD = 8  # codes of a 32-bit word
ORDER = (
    0,
    2,
    4,
    6,
    1,
    3,
    5,
    7,
)  # columns of a word as AutoAWQ's gemm packs them (awq/utils/packing_utils.py)


def awq_group(folder: Path) -> int:
    """Inputs that share a scale: one size for all matrices. Raises WrongUse where none fits."""
    weights = Weights(folder)
    shapes = {name: weights.shape(name) for name in matrices(folder)}
    inputs = gcd(*(shape[1] for shape in shapes.values()))
    size = next((g for g in GROUPS if inputs % g == 0), 0)
    odd = next((name for name, shape in shapes.items() if shape[0] % WORD), None)
    if not size or odd:
        raise WrongUse(
            "export.awq_shape", "this model's matrices do not fit AWQ's groups",
            where=Where(str(folder)),
            why=f"{odd} has rows that are no multiple of {WORD}" if odd else
            f"inputs of {inputs} are no multiple of {GROUPS[-1]}",
            hint="--to gguf --form Q4_K_M",
        )  # fmt: skip
    return size


def matrices(folder: Path) -> list[str]:
    """Names of the layers' matrices. Raises WrongUse for a family without a network here."""
    family = family_of(folder)
    if family.read is None:
        raise WrongUse(
            "export.awq_family", f"models of the family {family.name!r} are not written as AWQ",
            where=Where(str(folder)), hint="--to hf, and llm-compressor",
        )  # fmt: skip
    decoder = family.read(read_json(folder / "config.json"), folder / "config.json")
    n = decoder.names
    inside = (n.query, n.key, n.value, n.output, n.gate, n.up, n.down)
    return [f"{n.layer.format(layer)}{name}.weight" for layer in range(decoder.layers) for name in inside]


def write_awq(folder: Path, out: Path, rounded: Mapping[str, Grouped] | None = None) -> None:
    """Write `out`; `rounded`: matrices that a calibration over rows has rounded, in groups of `awq_group`."""
    size, weights = awq_group(folder), Weights(folder)
    tensors: dict[str, tuple[str, np.ndarray]] = {}
    quantised = set(matrices(folder))
    for name in weights.names():
        if name not in quantised:
            tensors[name] = _half(weights, name)
            continue
        grouped = (rounded or {}).get(name) or rounded_groups(weights.f32(name), size, name)
        assert grouped.size == size, f"{name} is in groups of {grouped.size}"
        stem = name.removesuffix(".weight")
        tensors |= {f"{stem}.{part}": value for part, value in _parts(grouped).items()}
    copy_companions(folder, out)
    write(tensors, out / "model.safetensors")
    _note_quantised(out / "config.json", size)


def widen_awq(folder: Path, out: Path) -> None:
    """The same model with plain F16 weights: exactly what a kernel multiplies with, for any loader."""
    wide, stored = checkpoint_weights(folder), Weights(folder)
    names = [n for n in stored.names() if not n.endswith((".qzeros", ".scales"))]
    names = [n.replace(".qweight", ".weight") for n in names]
    copy_companions(folder, out, "float16")
    values = {n: wide.f32_rows(n, 0, None).reshape(wide.shape(n)).astype(np.float16) for n in names}
    write({name: ("F16", value) for name, value in values.items()}, out / "model.safetensors")


def _half(weights: Weights, name: str) -> tuple[str, np.ndarray]:
    """What is not quantised, in F16: AWQ's kernels compute in it."""
    return "F16", weights.f32(name).astype(np.float16)


def _parts(grouped: Grouped) -> dict[str, tuple[str, np.ndarray]]:
    """qweight [I, O/8], qzeros [G, O/8] in words, scales [G, O]."""
    return {
        "qweight": ("I32", words(grouped.codes.T)),
        "qzeros": ("I32", words(grouped.zero.T)),
        "scales": ("F16", np.ascontiguousarray(grouped.scale.T)),
    }


def words(codes: np.ndarray) -> np.ndarray:
    """[R, O] codes below 16 to [R, O/8] words, eight columns each in AutoAWQ's order."""
    eight = codes.reshape(len(codes), -1, WORD)[..., ORDER].astype(np.uint32)
    shifted = eight << np.arange(0, 32, 4, dtype=np.uint32)
    return np.ascontiguousarray(np.bitwise_or.reduce(shifted, -1).view(np.int32))


def _note_quantised(path: Path, size: int) -> None:
    config: dict[str, Any] = json.loads(path.read_text("utf-8"))
    config["quantization_config"] = {
        "quant_method": "awq", "bits": 4, "group_size": size, "zero_point": True, "version": "gemm",
        "modules_to_not_convert": None,
    }  # fmt: skip
    config |= {"dtype": "float16", "torch_dtype": "float16"}
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True) + "\n", "utf-8")
    os.replace(part, path)
