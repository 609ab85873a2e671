"""A PEFT LoRA folder as GenAI takes it: a branch B A x beside each matrix, whatever form that is stored in.

GenAI goes on where a tensor fits nothing, so names and shapes are compared with the IR here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
import openvino_genai as genai

from ....artefact import folder_beside
from ....model import Weights, write
from ..lora import KEY, TENSORS, lora_scale, lora_settings
from ..protocol import read_form

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
    with folder_beside(adapter) as folder:
        file = folder / TENSORS
        write(dict(_as_stored(weights, joined)), file)
        loaded = genai.Adapter(str(file))
    # Static: the other modes keep room for adapters to come, or widen the stored weights to f32.
    return genai.AdapterConfig(loaded, lora_scale(settings), mode=genai.AdapterConfig.Mode.MODE_STATIC)


def _check_fit(weights: Weights, xml: str, joined: Joined) -> None:
    shapes = _matrices(xml, joined)
    ranks: dict[tuple[str, str], dict[str, int]] = {}
    for key in sorted(weights):
        match = KEY.match(key)
        if match is None or (match[1], match[2]) not in shapes:
            raise ValueError(f"the adapter changes {key}, which this model has not")
        (rows, columns), shape = shapes[match[1], match[2]], weights.shape(key)
        outer, rank = (columns, shape[0]) if match[3] == "A" else (rows, shape[1])
        if outer != shape[1 if match[3] == "A" else 0]:
            raise ValueError(f"{key} does not fit this model's [{rows}, {columns}]: made for another")
        ranks.setdefault((match[1], match[2]), {})[match[3]] = rank
    for (layer, name), sizes in ranks.items():
        if sizes.get("A") != sizes.get("B"):
            raise ValueError(f"lora_A and lora_B of layers.{layer}.{name} do not belong together")


def _matrices(xml: str, joined: Joined) -> dict[tuple[str, str], tuple[int, int]]:
    """(layer, name) -> [rows, columns] of what an adapter may change; joined matrices by their parts."""
    linear = set(LINEAR.findall(xml))
    matrices: dict[tuple[str, str], tuple[int, int]] = {}
    for layer, name, shape in STORED.findall(xml):
        if (layer, name) in linear:
            rows, columns = _matrix(shape)
            matrices |= {(layer, part): (own, columns) for part, own in joined.get(name, [(name, rows)])}
    return matrices


def _matrix(shape: str) -> tuple[int, int]:
    """[rows, columns]; int4 is stored as [rows, groups, columns of a group]."""
    rows, *rest = (int(n) for n in shape.split(","))
    return rows, prod(rest)


def _as_stored(weights: Weights, joined: Joined) -> Iterator[tuple[str, tuple[str, np.ndarray]]]:
    """(name, (dtype, values)) of factors as the model's matrices stand: a joined matrix gets one pair."""
    whole_of = {part: whole for whole, parts in joined.items() for part, _ in parts}
    branches: dict[tuple[str, str], dict[str, dict[str, np.ndarray]]] = {}
    for key in sorted(weights):
        if match := KEY.match(key):
            layer, part, letter = match.groups()
            branch = branches.setdefault((layer, whole_of.get(part, part)), {})
            branch.setdefault(part, {})[letter] = weights.f32(key)
    for (layer, name), matrices in branches.items():
        a, b = _pair(matrices, joined.get(name) or [(part, len(f["B"])) for part, f in matrices.items()])
        at = f"base_model.model.model.layers.{layer}.{name}"
        yield f"{at}.lora_A.weight", ("F32", a)
        yield f"{at}.lora_B.weight", ("F32", b)


def _pair(
    pairs: dict[str, dict[str, np.ndarray]], parts: list[tuple[str, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """A [sum of ranks, in] and B [all rows, sum of ranks]: the A below each other, the B on a diagonal.

    A part without factors keeps rows of zeros. Ranks may differ.
    """
    here = [pairs[part] for part, _ in parts if part in pairs]
    a = np.concatenate([factors["A"] for factors in here])
    b = np.zeros((sum(rows for _, rows in parts), len(a)), np.float32)
    down = right = 0
    for part, rows in parts:
        if part in pairs:
            rank = len(pairs[part]["A"])
            b[down : down + rows, right : right + rank] = pairs[part]["B"]
            right += rank
        down += rows
    return a, b
