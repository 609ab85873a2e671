"""The header of a GGUF file."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path
from typing import Any, overload

from .files import TensorAt, broken

# ggml type number -> name, weights a block, bytes a block (ggml.h and ggml-common.h of llama.cpp).
GGML = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 20: ("IQ4_NL", 32, 18),
    23: ("IQ4_XS", 256, 136), 30: ("BF16", 1, 2),
}  # fmt: skip
# GGUF value type number -> struct code; 8 is text, 9 an array.
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True, slots=True)
class Gguf:
    """The header of a GGUF file: metadata, and each tensor's type and place."""

    meta: dict[str, Any]
    tensors: dict[str, TensorAt]

    def of_arch(self, key: str, default: Any = None) -> Any:
        """`llama.block_count` for "block_count" in a llama file."""
        return self.meta.get(f"{self.meta.get('general.architecture')}.{key}", default)


def gguf_header(path: Path) -> Gguf:
    """Read a GGUF header, versions 2 and 3, little-endian. Raises WrongUse where it is cut short.

    Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """
    state = path.stat()
    return _gguf_header(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4)  # a start asks for it three times
def _gguf_header(path: Path, size: int, changed_ns: int) -> Gguf:
    with path.open("rb") as file:
        if size < 24:
            raise broken(path, "it is too short to be a GGUF file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _gguf(path, _Reader(data))


class Texts(Sequence[str]):
    """A list of texts as they stand in a file, decoded when one is asked for: sizes need no vocabulary."""

    def __init__(self, data: bytes, count: int) -> None:
        self._data, self._count = data, count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        return self._texts[at]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    @cached_property
    def _texts(self) -> list[str]:
        reader = _Reader(self._data)
        return [reader.text() for _ in range(self._count)]


class _Reader:
    """A cursor over the bytes of a GGUF file."""

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self.data, self.at = data, 0

    def numbers(self, code: str, count: int = 1) -> tuple[Any, ...]:
        size = struct.calcsize("<" + code) * count
        if self.at + size > len(self.data):
            raise EOFError(f"it ends after {len(self.data)} bytes, inside its header")
        values = struct.unpack_from(f"<{count}{code}", self.data, self.at)
        self.at += size
        return values

    def text(self) -> str:
        begin = self.at + 8
        end = begin + int.from_bytes(self.data[self.at : begin], "little")
        if end > len(self.data):
            raise EOFError(f"it ends after {len(self.data)} bytes, inside its header")
        self.at = end
        return self.data[begin:end].decode("utf-8", "replace")

    def texts(self, count: int) -> Texts:
        # A vocabulary has 100,000 tokens and merges: no helper, no second look.
        first, at, data, length = self.at, self.at, self.data, struct.Struct("<Q").unpack_from
        try:
            for _ in range(count):
                at += 8 + length(data, at)[0]
        except struct.error:
            at = len(data) + 1
        if at > len(data):
            raise EOFError(f"it ends after {len(data)} bytes, inside its header")
        self.at = at
        return Texts(data[first:at], count)

    def value(self, kind: int) -> Any:
        if kind == 8:
            return self.text()
        if kind == 9:
            item, count = self.numbers("I")[0], self.numbers("Q")[0]
            if item in NUMBERS:
                return list(self.numbers(NUMBERS[item], count))
            if item == 8:
                return self.texts(count)
            return [self.value(item) for _ in range(count)]
        if kind not in NUMBERS:
            raise EOFError(f"its header holds an unknown type {kind}")
        return self.numbers(NUMBERS[kind])[0]


def _gguf(path: Path, reader: _Reader) -> Gguf:
    try:
        reader.at = 4
        version, count, keys = reader.numbers("I")[0], *reader.numbers("Q", 2)
        if version not in (2, 3):
            raise EOFError(f"GGUF version {version} is not known")
        meta = {reader.text(): reader.value(reader.numbers("I")[0]) for _ in range(keys)}
        infos = [_tensor_info(reader) for _ in range(count)]
    except (EOFError, MemoryError, OverflowError) as e:
        raise broken(path, str(e)) from e
    grain = meta.get("general.alignment", 32)
    base = -(-reader.at // grain) * grain
    placed = {name: _placed(path, kind, shape, base + offset) for name, shape, kind, offset in infos}
    needed = max((at.end for at in placed.values()), default=base)
    if needed > len(reader.data):
        raise broken(path, f"its header describes {needed} bytes, the file has {len(reader.data)}")
    return Gguf(meta, placed)


def _tensor_info(reader: _Reader) -> tuple[str, tuple[int, ...], int, int]:
    name = reader.text()
    (rank,) = reader.numbers("I")
    shape = reader.numbers("Q", rank)[::-1]  # GGUF writes the innermost first
    return name, shape, reader.numbers("I")[0], reader.numbers("Q")[0]


def _placed(path: Path, kind: int, shape: tuple[int, ...], begin: int) -> TensorAt:
    if kind not in GGML:
        raise broken(
            path, f"it holds tensors of ggml type {kind}", "model.gguf_type",
            f"use a file of one of {', '.join(name for name, *_ in GGML.values())}",
        )  # fmt: skip
    name, block, size = GGML[kind]
    return TensorAt(name, shape, begin, begin + prod(shape) // block * size)
