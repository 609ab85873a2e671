"""Weights of a model folder as numpy views of the files, and safetensors files written atomically.

numpy has no bfloat16: BF16 travels as uint16 with the same bits. Not here: torch (network.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from math import prod
from pathlib import Path

import numpy as np

from ..errors import Where, WrongUse
from ..shape import TensorAt, safetensors_header, tensors

NUMPY = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I64": np.int64,
    "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
    "F8_E4M3": np.uint8, "F8_E5M2": np.uint8, "F8_E8M0": np.uint8,
}  # fmt: skip
FP8 = ("F8_E4M3", "F8_E5M2", "F8_E8M0")


class Weights:
    """The tensors of a folder (sharded or not) or of one safetensors file, mapped, not loaded."""

    def __init__(self, folder: Path | str, fp8: bool = False) -> None:
        """Raises WrongUse where a file is cut short or a shard is missing.

        `fp8`: the caller multiplies FP8 values by their scales (quantised.py); without it they are refused,
        since the bare values are no weights.
        """
        self.folder, self._types = Path(folder), NUMPY.keys() if fp8 else NUMPY.keys() - set(FP8)
        self._where: dict[str, tuple[Path, TensorAt]] = _places(self.folder)
        self._maps: dict[Path, np.memmap] = {}

    def names(self) -> list[str]:
        return sorted(self._where)

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def dtype(self, name: str) -> str:
        """ "BF16", "F32", ... as safetensors writes it."""
        return self._at(name)[1].dtype

    def shape(self, name: str) -> tuple[int, ...]:
        return self._at(name)[1].shape

    def raw(self, name: str) -> np.ndarray:
        """The stored values, a read-only view of the file; BF16 as uint16. Raises WrongUse."""
        file, at = self._stored(name)
        if file not in self._maps:
            self._maps[file] = np.memmap(file, np.uint8, "r")
        return self._maps[file][at.begin : at.end].view(NUMPY[at.dtype]).reshape(at.shape)

    def f32(self, name: str) -> np.ndarray:
        """The values as float32, a copy."""
        return self.f32_rows(name, 0, None)

    def f32_rows(self, name: str, start: int, stop: int | None) -> np.ndarray:
        """Those rows as float32, a copy: read, not mapped, so that memory holds no page of the file."""
        file, at = self._stored(name)
        if not at.shape:
            return f32_of(np.fromfile(file, NUMPY[at.dtype], 1, offset=at.begin), at.dtype).reshape(())
        first, end, _ = slice(start, stop).indices(at.shape[0])
        shape = (max(end - first, 0), *at.shape[1:])
        row_bytes = (at.end - at.begin) // max(at.shape[0], 1)
        values: np.ndarray = np.fromfile(
            file, NUMPY[at.dtype], prod(shape), offset=at.begin + first * row_bytes
        )
        return f32_of(values, at.dtype).reshape(shape)

    def _stored(self, name: str) -> tuple[Path, TensorAt]:
        """Where it stands, in a type that is read."""
        file, at = self._at(name)
        if at.dtype not in self._types:
            raise WrongUse(
                "model.dtype", f"{name} is stored as {at.dtype}", where=Where(str(file)),
                hint=f"convert the model to one of {', '.join(t for t in NUMPY if t not in FP8)}",
            )  # fmt: skip
        return file, at

    def _at(self, name: str) -> tuple[Path, TensorAt]:
        if name not in self._where:
            raise WrongUse(
                "model.no_tensor", f"the model has no tensor {name}", where=Where(str(self.folder)),
                hint="is it of a supported family, and complete?",
            )  # fmt: skip
        return self._where[name]


def _places(folder: Path) -> dict[str, tuple[Path, TensorAt]]:
    if folder.is_dir():
        places = tensors(folder)
    else:
        places = {name: (folder, at) for name, at in safetensors_header(folder).items()}
    if not places:
        raise WrongUse(
            "model.no_weights", f"there are no safetensors weights in {folder.name}",
            where=Where(str(folder)),
            hint="fetch model.safetensors; pickled weights (*.bin, *.pt) are not read, since they run code",
        )  # fmt: skip
    return places


def f32_of(values: np.ndarray, dtype: str) -> np.ndarray:
    """Stored values as float32; exact for BF16, F16 and FP8."""
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    if dtype == "F8_E4M3":
        return _e4m3()[values]
    if dtype == "F8_E5M2":  # an f16 without its lower byte
        return (values.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
    if dtype == "F8_E8M0":
        return np.ldexp(np.float32(1), values.astype(np.int32) - 127)
    return np.asarray(values, np.float32)


@cache
def _e4m3() -> np.ndarray:
    """[256] f32 of FP8 E4M3 as Micikevicius 2022 has it: bias 7, no infinity, 0x7f and 0xff are NaN."""
    code = np.arange(128)
    exponent, mantissa = code >> 3, code & 7
    size = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))
    size[127] = np.nan
    return np.concatenate([size, -size]).astype(np.float32)


def bf16_of(values: np.ndarray) -> np.ndarray:
    """float32 to BF16 bits (uint16), rounded to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    out = rounded.astype(np.uint16)
    if (nan := np.isnan(values)).any():
        out[nan] = (bits[nan] >> 16).astype(np.uint16) | 0x40
    return out


def write(
    tensors: Mapping[str, tuple[str, np.ndarray]], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file: name to (dtype, values), BF16 as uint16. Equal input, equal bytes."""
    table = {name: (dtype, values.shape) for name, (dtype, values) in tensors.items()}
    write_each(table, lambda name: tensors[name][1], path, metadata)


def write_each(
    table: Mapping[str, tuple[str, tuple[int, ...]]],
    values: Callable[[str], np.ndarray],
    path: Path,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """As `write`, one tensor in memory at a time: `table` gives dtype and shape, `values` the numbers.

    Atomic: a file beside it, fsync, rename. Largest element type first, then by name, as the
    safetensors library does, so that every tensor is aligned.
    """
    order = sorted(table, key=lambda n: (-_itemsize(table[n][0]), n))
    head = _header(order, table, metadata or {"format": "pt"})
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in order:
            file.write(_checked(name, values(name), *table[name]).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _itemsize(dtype: str) -> int:
    return np.dtype(NUMPY[dtype]).itemsize


def _header(
    order: list[str], table: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    begin = 0
    for name in order:
        dtype, shape = table[name]
        end = begin + prod(shape) * _itemsize(dtype)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    head = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    return head + b" " * (-len(head) % 8)


def _checked(name: str, values: np.ndarray, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    if values.dtype != NUMPY[dtype] or tuple(values.shape) != tuple(shape):
        raise ValueError(f"{name}: {values.dtype} {values.shape} does not fit {dtype} {shape}")
    return np.ascontiguousarray(values).reshape(-1)
