"""Headers of safetensors files, one or many in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from ..errors import Where, WrongUse
from .files import BROKEN_HINT, TensorAt, broken, read_json

SAFETENSORS_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8,
    "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8,
    "F8_E8M0": 8,
}  # fmt: skip
MAX_HEADER_BYTES = 100_000_000  # the safetensors format's own limit


def safetensors_header(path: Path) -> dict[str, TensorAt]:
    """Where each tensor of a safetensors file lies. Raises WrongUse where the file is cut short."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8).ljust(8, b"\xff"), "little")
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise broken(path, f"{size} bytes are too few for its header")
        table = file.read(length)
    try:
        tensors = {
            name: _tensor(entry, 8 + length)
            for name, entry in json.loads(table).items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise broken(path, f"its header is damaged ({e})") from e
    for name, at in tensors.items():
        _check_span(path, name, at, 8 + length)
    needed = max((at.end for at in tensors.values()), default=8 + length)
    if needed != size:
        raise broken(path, f"its header describes {needed} bytes, the file has {size}")
    return tensors


def _tensor(entry: Mapping[str, Any], base: int) -> TensorAt:
    begin, end = (int(offset) + base for offset in entry["data_offsets"])
    return TensorAt(str(entry["dtype"]), tuple(int(n) for n in entry["shape"]), begin, end)


def _check_span(path: Path, name: str, at: TensorAt, base: int) -> None:
    wanted = prod(at.shape) * SAFETENSORS_BITS.get(at.dtype, 0) // 8
    has_size = at.dtype in SAFETENSORS_BITS
    if at.begin < base or at.end < at.begin or (has_size and at.end - at.begin != wanted):
        raise broken(path, f"the place of {name} in its header makes no sense")


def shards(folder: Path) -> list[Path]:
    """The safetensors files of a folder, in order; by the index where there is one. Raises WrongUse."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(read_json(index).get("weight_map", {}).values()))
        if outside := next((name for name in names if Path(name).name != name), None):
            raise broken(index, f"it names {outside!r}, which is no file of this folder")
        missing = [name for name in names if not (folder / name).is_file()]
        if missing or not names:
            raise WrongUse(
                "model.half_written",
                f"{len(missing)} of {len(names)} weight files are missing: {', '.join(missing[:3])}",
                where=Where(str(folder)), why=f"{index.name} names them", hint=BROKEN_HINT,
            )  # fmt: skip
        return [folder / name for name in names]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    return sorted(p for p in folder.glob("*.safetensors") if not p.name.startswith("adapter"))


def tensors(folder: Path) -> dict[str, tuple[Path, TensorAt]]:
    """Every tensor of a model folder: its file and place. Raises WrongUse."""
    return {name: (file, at) for file in shards(folder) for name, at in safetensors_header(file).items()}
