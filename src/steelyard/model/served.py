"""The weights that a served folder really holds, widened to f32: what an exact reference of any form needs.

The graph's constants are looked up by name in its XML and read from its BIN by rows: nothing is compiled or
mapped, so that memory holds the requested rows alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from ..errors import Where, WrongUse
from ..shape import read_json
from .integers import Grouped, unpacked, widened
from .weights import f32_of

XML, BIN = "openvino_model.xml", "openvino_model.bin"
LAYERS = re.compile(r"(model\.layers\.\d+\.)(.+)\.weight")
TYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16", "i8": "I8"}  # element types as safetensors names them
STORED = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16, "i8": np.int8}


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant of the graph: its type, shape and place in the BIN (bytes)."""

    kind: str
    shape: tuple[int, ...]
    begin: int
    size: int


class ServedTensors:
    """A Tensors (streamed.py) over a served folder: every matrix, exactly what the engine multiplies in f32.

    int8: code times its row's scale; int4: (code - zero) times its group's scale; else the stored values.
    Norms and biases are stored in f32 as the checkpoint has them, and left out.
    """

    def __init__(self, folder: Path | str) -> None:
        """Raises WrongUse where the folder has no graph, or half of one."""
        self.folder = Path(folder)
        self._constants = _constants(self.folder)
        self._parts = dict(self._placed())

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def names(self) -> list[str]:
        return sorted(self._parts)

    def shape(self, name: str) -> tuple[int, ...]:
        constant, _, rows = self._parts[name]
        return rows, int(np.prod(self._constants[constant].shape[1:]))

    def f32_rows(self, name: str, start: int, stop: int | None) -> np.ndarray:
        constant, first, rows = self._parts[name]
        begin, end, _ = slice(start, stop).indices(rows)
        return self._wide(constant, first + begin, first + max(end, begin))

    def _placed(self) -> Iterator[tuple[str, tuple[str, int, int]]]:
        """Name in the checkpoint -> (constant, first row, rows): joined matrices come apart again."""
        joined = _joined(self.folder)
        for name in (n for n in self._constants if n.endswith(".weight")):
            match, first = LAYERS.fullmatch(name), 0
            if match is None or match[2] not in joined:
                yield name, (name, 0, self._constants[name].shape[0])
                continue
            for part, rows in joined[match[2]]:
                yield f"{match[1]}{part}.weight", (name, first, rows)
                first += rows

    def _wide(self, name: str, start: int, stop: int) -> np.ndarray:
        kind = self._constants[name].kind
        rows = stop - start
        if kind == "u4":
            zero = self._codes(f"{name}/zero", start, stop).reshape(rows, -1)
            scale = self._rows(f"{name}/scale", start, stop).reshape(rows, -1)
            return widened(Grouped(self._codes(name, start, stop).reshape(rows, -1), scale, zero))
        wide = f32_of(self._rows(name, start, stop), TYPES[kind]).reshape(rows, -1)
        if kind == "i8":
            wide = wide * self._rows(f"{name}/scale", start, stop).astype(np.float32).reshape(-1, 1)
        return wide

    def _rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Stored values of those rows, flat."""
        at = self._constants[name]
        row_bytes, item = at.size // at.shape[0], np.dtype(STORED[at.kind])
        count, begin = (stop - start) * row_bytes // item.itemsize, at.begin + start * row_bytes
        values: np.ndarray = np.fromfile(self.folder / BIN, item, count, offset=begin)
        return values

    def _codes(self, name: str, start: int, stop: int) -> np.ndarray:
        """The same of u4, two a byte: a row may begin within one."""
        at = self._constants[name]
        row = int(np.prod(at.shape[1:]))
        first, end = start * row, stop * row
        count = -(-end // 2) - first // 2
        data = np.fromfile(self.folder / BIN, np.uint8, count, offset=at.begin + first // 2)
        return unpacked(data, (2 * count,))[first % 2 : first % 2 + end - first]


def served_weights(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(name in the checkpoint, [O, I] f32) of every matrix of a served folder."""
    tensors = ServedTensors(folder)
    for name in tensors.names():
        yield name, tensors.f32_rows(name, 0, None)


def _constants(folder: Path) -> dict[str, Constant]:
    try:
        root = ElementTree.parse(folder / XML).getroot()
        size = (folder / BIN).stat().st_size
    except (OSError, ElementTree.ParseError) as error:
        raise WrongUse(
            "model.half_written",
            f"{folder} holds no whole OpenVINO model: {error}",
            where=Where(str(folder / XML)),
            hint="export the model again",
        ) from error
    constants = {}
    for layer in root.iter("layer"):
        data = layer.find("data")
        if layer.get("type") != "Const" or data is None:
            continue
        shape = tuple(int(n) for n in (data.get("shape") or "").split(",") if n.strip())
        place = int(data.get("offset", 0)), int(data.get("size", 0))
        if sum(place) > size:
            raise WrongUse(
                "model.half_written",
                f"{BIN} has {size} bytes, {layer.get('name')} ends at {sum(place)}",
                where=Where(str(folder / BIN)),
                hint="export the model again",
            )
        constants[layer.get("name", "")] = Constant(data.get("element_type", ""), shape, *place)
    return constants


def _joined(folder: Path) -> dict[str, list[tuple[str, int]]]:
    """Matrix of a layer -> its parts in order, and the rows of each."""
    file = folder / "form.json"
    return read_json(file).get("joined", {}) if file.exists() else {}
