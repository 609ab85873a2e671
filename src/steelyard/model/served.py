"""The weights that a served folder really holds, widened to f32: what an exact reference of any form needs.

Reads the IR's constants by name; nothing is compiled. Heavy (imports OpenVINO): entered through the door.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..shape import read_json
from .integers import Grouped, unpacked, widened
from .weights import f32_of

XML = "openvino_model.xml"


def served_weights(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(name in the checkpoint, [O, I] f32) of every matrix: exactly what the engine multiplies with in f32.

    int8: code times its row's scale; int4: (code - zero) times its group's scale; else the stored values.
    Norms and biases are stored in f32 as the checkpoint has them, and left out.
    """
    import openvino as ov

    model = ov.Core().read_model(str(Path(folder) / XML))
    constants = {n.get_friendly_name(): n for n in model.get_ops() if n.get_type_name() == "Constant"}
    joined = _joined(Path(folder))
    for name in sorted(n for n in constants if n.endswith(".weight")):
        wide = _wide(name, constants)
        whole = next((whole for whole in joined if name.endswith(f".{whole}.weight")), None)
        if whole is None:
            yield name, wide
            continue
        names, rows = zip(*joined[whole], strict=True)
        layer = name.removesuffix(f"{whole}.weight")
        for part, held in zip(names, np.split(wide, np.cumsum(rows)[:-1]), strict=True):
            yield f"{layer}{part}.weight", held


def _joined(folder: Path) -> dict[str, list[tuple[str, int]]]:
    """Matrix of a layer -> its parts in order, and the rows of each."""
    file = folder / "form.json"
    return read_json(file).get("joined", {}) if file.exists() else {}


def _wide(name: str, constants: dict[str, Any]) -> np.ndarray:
    node = constants[name]
    kind, shape = node.get_element_type().to_string(), tuple(node.shape)
    if kind == "u4":
        codes = unpacked(node.data, shape)
        zero = unpacked(constants[name + "/zero"].data, shape[:2])
        scale = constants[name + "/scale"].data.reshape(shape[:2])
        return widened(Grouped(codes.reshape(shape[0], -1), scale, zero))
    if kind == "i8":
        return node.data.astype(np.float32) * constants[name + "/scale"].data.astype(np.float32)
    if kind == "bf16":
        return f32_of(node.data.view(np.uint16), "BF16")  # numpy has no bfloat16: the same bits as f16
    return node.data.astype(np.float32)
