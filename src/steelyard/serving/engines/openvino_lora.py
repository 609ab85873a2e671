"""A PEFT LoRA folder as GenAI takes it: a branch B A x beside each matrix, whatever form that is stored in.

GenAI goes on where a tensor fits nothing, so names and shapes are compared with the IR here.
"""

from __future__ import annotations

import re
from math import prod
from pathlib import Path

import openvino_genai as genai

from .lora import KEY, TENSORS, lora_scale, lora_settings

LINEAR = re.compile(r'name="__module\.model\.layers\.(\d+)\.([^"/]+)/aten::linear/MatMul"')
STORED = re.compile(
    r'name="model\.layers\.(\d+)\.([^"/]+)\.weight" type="Const"[^>]*>\s*<data [^>]*?shape="([\d, ]+)"'
)


def adapter_config(adapter: Path, model: Path) -> genai.AdapterConfig:
    """Raises ValueError for an adapter that does not fit the model, or is no plain LoRA."""
    settings = lora_settings(adapter)
    _check_fit(adapter, (model / "openvino_model.xml").read_text())
    # Static: the other modes keep room for adapters to come, or widen the stored weights to f32.
    loaded = genai.Adapter(str(adapter / TENSORS))
    return genai.AdapterConfig(loaded, lora_scale(settings), mode=genai.AdapterConfig.Mode.MODE_STATIC)


def _check_fit(adapter: Path, xml: str) -> None:
    from ...model import Weights

    linear = {(layer, name) for layer, name in LINEAR.findall(xml)}
    shapes = {(layer, name): _matrix(shape) for layer, name, shape in STORED.findall(xml)}
    weights = Weights(adapter / TENSORS)
    for key in sorted(weights):
        match = KEY.match(key)
        if match is None or (match[1], match[2]) not in linear:
            raise ValueError(f"the adapter changes {key}, which this model has not")
        rows, columns = shapes.get((match[1], match[2]), (None, None))
        found = weights.shape(key)[1 if match[3] == "A" else 0]
        if rows and found != (columns if match[3] == "A" else rows):
            raise ValueError(f"{key} does not fit this model's [{rows}, {columns}]: made for another")


def _matrix(shape: str) -> tuple[int, int]:
    """[rows, columns]; int4 is stored as [rows, groups, columns of a group]."""
    rows, *rest = (int(n) for n in shape.split(","))
    return rows, prod(rest)
