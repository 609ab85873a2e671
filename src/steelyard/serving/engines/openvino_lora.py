"""A PEFT LoRA folder as GenAI takes it: a branch B A x beside each matrix, whatever form that is stored in.

GenAI goes on where a tensor fits nothing, so names and shapes are compared with the IR here.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
import openvino_genai as genai

from ...model import Weights, write
from .lora import KEY, TENSORS, lora_scale, lora_settings
from .protocol import read_form

XML = "openvino_model.xml"
Joined = dict[str, list[tuple[str, int]]]  # matrix of a layer -> its parts in order, and the rows of each

LINEAR = re.compile(r'name="__module\.model\.layers\.(\d+)\.([^"/]+)/aten::linear/MatMul"')
STORED = re.compile(
    r'name="model\.layers\.(\d+)\.([^"/]+)\.weight" type="Const"[^>]*>\s*<data [^>]*?shape="([\d, ]+)"'
)


def adapter_config(adapter: Path, model: Path) -> genai.AdapterConfig:
    """Raises ValueError for an adapter that does not fit the model, or is no plain LoRA."""
    settings = lora_settings(adapter)
    joined: Joined = read_form(model).get("joined", {})
    weights = Weights(adapter / TENSORS)
    _check_fit(weights, (model / XML).read_text(), joined)
    with tempfile.TemporaryDirectory(prefix="steelyard-adapter-") as folder:
        file = Path(folder) / TENSORS
        write(dict(_as_stored(weights, joined)), file)
        loaded = genai.Adapter(str(file))
    # Static: the other modes keep room for adapters to come, or widen the stored weights to f32.
    return genai.AdapterConfig(loaded, lora_scale(settings), mode=genai.AdapterConfig.Mode.MODE_STATIC)


def _check_fit(weights: Weights, xml: str, joined: Joined) -> None:
    known: dict[tuple[str, str], tuple[int, int]] = {}
    linear = set(LINEAR.findall(xml))
    for layer, name, shape in STORED.findall(xml):
        if (layer, name) in linear:
            rows, columns = _matrix(shape)
            known |= {(layer, part): (own, columns) for part, own in joined.get(name, [(name, rows)])}
    for key in sorted(weights):
        match = KEY.match(key)
        if match is None or (match[1], match[2]) not in known:
            raise ValueError(f"the adapter changes {key}, which this model has not")
        rows, columns = known[match[1], match[2]]
        if weights.shape(key)[1 if match[3] == "A" else 0] != (columns if match[3] == "A" else rows):
            raise ValueError(f"{key} does not fit this model's [{rows}, {columns}]: made for another")


def _matrix(shape: str) -> tuple[int, int]:
    """[rows, columns]; int4 is stored as [rows, groups, columns of a group]."""
    rows, *rest = (int(n) for n in shape.split(","))
    return rows, prod(rest)


def _as_stored(weights: Weights, joined: Joined) -> Iterator[tuple[str, tuple[str, np.ndarray]]]:
    """(name, (dtype, values)) of the adapter as the model's matrices stand: joined ones get one branch.

    B A of several below each other is the product of a block diagonal of the B and the A below each other.
    """
    factors: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for key in weights:
        if match := KEY.match(key):
            factors.setdefault((match[1], match[2]), {})[match[3]] = weights.f32(key)
    whole_of = {part: whole for whole, parts in joined.items() for part, _ in parts}
    for layer, name in {(layer, whole_of.get(part, part)) for layer, part in factors}:
        parts = joined.get(name, [(name, 0)])
        found = {part: factors[layer, part] for part, _ in parts if (layer, part) in factors}
        rows = dict(parts) if name in joined else {name: len(found[name]["B"])}
        a = np.concatenate([factor["A"] for factor in found.values()])
        b = np.zeros((sum(rows.values()), len(a)), np.float32)
        down = right = 0
        for part, own in rows.items():
            if factor := found.get(part):
                rank = len(factor["A"])
                b[down : down + own, right : right + rank] = factor["B"]
                right += rank
            down += own
        for letter, values in (("A", a), ("B", b)):
            yield f"base_model.model.model.layers.{layer}.{name}.lora_{letter}.weight", ("F32", values)
