"""The model without some of its experts: a plain Hugging Face folder, file by file as it was stored.

A router's rows, and its bias, are those of the experts that stay; these are numbered anew, in their order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ...errors import Where, WrongUse
from ...model import Weights, bf16_of, copy_companions, f32_of, write_each
from ...shape import read_json, safetensors_header, shards

COUNT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts")
LAYER = re.compile(r"\blayers\.(\d+)\.")
EXPERT = re.compile(r"\.experts\.(\d+)\.")
FUSED = re.compile(r"\.experts\.(gate_up_proj|down_proj)$")  # all experts of a layer in one tensor
ROUTER = re.compile(r"\.(mlp|block_sparse_moe)\.gate\.(weight|e_score_correction_bias)$")
OUTPUT = re.compile(r"\.(down_proj|w2)(\.weight)?$")  # of an expert, back into the residual stream


@dataclass(frozen=True, slots=True)
class Kept:
    """Of one layer the experts that stay, ascending, and what the output of each is multiplied by."""

    experts: tuple[int, ...]
    scales: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """A tensor of the copy: where it comes from, which rows of it, times what."""

    source: str
    rows: tuple[int, ...] | None = None
    scales: tuple[float, ...] = ()  # one, or one for each of the rows


def write_fewer(folder: Path, kept: Mapping[int, Kept], out: Path) -> None:
    """Write `folder` into `out` with the experts that stay, by layer. Raises WrongUse for a layer with
    experts that `kept` does not have."""
    weights, where = Weights(folder), dict[str, str]()
    copy_companions(folder, out)
    _smaller_config(out / "config.json", len(next(iter(kept.values())).experts))
    layers = int(read_json(folder / "config.json")["num_hidden_layers"])
    for file in shards(folder):
        own = Weights(file).names()
        parts = dict(part for name in own if (part := _part(name, kept, layers, folder)))
        table = {name: _described(weights, part) for name, part in parts.items()}
        if table:
            write_each(table, partial(_values, weights, parts), out / file.name)
        where |= dict.fromkeys(table, file.name)
    if (folder / "model.safetensors.index.json").is_file():
        headers = [safetensors_header(out / name) for name in sorted(set(where.values()))]
        size = sum(at.end - at.begin for header in headers for at in header.values())
        index = {"metadata": {"total_size": size}, "weight_map": where}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")


def _smaller_config(path: Path, count: int) -> None:
    config = read_json(path)
    config |= {key: count for key in COUNT_KEYS if key in config}
    if "num_nextn_predict_layers" in config:
        config["num_nextn_predict_layers"] = 0  # no row was counted in layers that predict further tokens
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True) + "\n", "utf-8")


def _part(name: str, kept: Mapping[int, Kept], layers: int, folder: Path) -> tuple[str, _Part] | None:
    """The tensor's new name and what it is made of; None where it goes."""
    found = LAYER.search(name)
    layer = int(found[1]) if found else -1
    if layer >= layers:
        return None
    expert = EXPERT.search(name)
    if not (expert or FUSED.search(name) or ROUTER.search(name)):
        return name, _Part(name)
    if layer not in kept:
        raise WrongUse(
            "compress.prune_uncounted", f"no router was counted for {name}", where=Where(str(folder)),
            hint="leave compress.prune out",
        )  # fmt: skip
    own = kept[layer]
    if expert is None:
        return name, _Part(name, own.experts, own.scales if OUTPUT.search(name) else ())
    if int(expert[1]) not in own.experts:
        return None
    number = own.experts.index(int(expert[1]))
    new = f"{name[: expert.start()]}.experts.{number}.{name[expert.end() :]}"
    return new, _Part(name, None, (own.scales[number],) if OUTPUT.search(name) else ())


def _described(weights: Weights, part: _Part) -> tuple[str, tuple[int, ...]]:
    shape = weights.shape(part.source)
    return weights.dtype(part.source), shape if part.rows is None else (len(part.rows), *shape[1:])


def _values(weights: Weights, parts: Mapping[str, _Part], name: str) -> np.ndarray:
    part = parts[name]
    raw = weights.raw(part.source)
    raw = raw if part.rows is None else raw[list(part.rows)]
    if all(scale == 1 for scale in part.scales):
        return raw
    dtype, by = weights.dtype(part.source), np.array(part.scales, np.float32)
    scaled = f32_of(raw, dtype) * (by if part.rows is None else by.reshape(-1, *[1] * (raw.ndim - 1)))
    return bf16_of(scaled) if dtype == "BF16" else scaled.astype(raw.dtype)
