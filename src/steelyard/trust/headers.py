"""Headers of weight files, checked byte for byte before any loader sees them.

Pure reading with the standard library: nothing is mapped, nothing is loaded.
"""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

HEADER_BYTES_MAX = 100_000_000  # the limit of the safetensors library itself
BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64,
        "U32": 32, "U16": 16, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "C64": 64,
        "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}  # fmt: skip
# GGUF value types, by number: struct letters; 8 is a string, 9 an array.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}


class Bad(Exception):
    """A header that lies; the text is the reason."""


def safetensors_problem(path: Path) -> str | None:
    """Why the header of `path` cannot be trusted, else None."""
    try:
        header, data_bytes = read_safetensors(path)
        check_spans(header, data_bytes)
    except Bad as e:
        return str(e)
    return None


def read_safetensors(path: Path) -> tuple[dict[str, Any], int]:
    """The header and the number of bytes behind it. Raises Bad."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else size
        if length > min(HEADER_BYTES_MAX, size - 8):
            raise Bad("safetensors_header_size")
        text = file.read(length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=no_duplicates)
    except (ValueError, RecursionError) as e:
        raise Bad("safetensors_header") from e
    if not isinstance(header, dict):
        raise Bad("safetensors_header")
    return header, size - 8 - length


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({k for k, _ in pairs}) != len(pairs):
        raise Bad("safetensors_duplicate_key")
    return dict(pairs)


def check_spans(header: dict[str, Any], data_bytes: int) -> None:
    """Every tensor's span fits its dtype and shape; together they fill the data without hole or overlap."""
    spans = [span(t) for name, t in header.items() if name != "__metadata__"]
    place = 0
    for start, end in sorted(spans):
        if start != place:
            raise Bad("safetensors_overlap" if start < place else "safetensors_hole")
        place = end
    if place != data_bytes:
        raise Bad("safetensors_cut" if place > data_bytes else "safetensors_tail")


def span(tensor: Any) -> tuple[int, int]:
    try:
        dtype, shape, (start, end) = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
    except (TypeError, KeyError, ValueError) as e:
        raise Bad("safetensors_header") from e
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in (*shape, start, end))
    if not whole or dtype not in BITS or math.prod(shape) * BITS[dtype] != (end - start) * 8:
        raise Bad("safetensors_span")
    return start, end


# ------------------------------------------------------------------ GGUF


class Cursor:
    """Little-endian reading that never goes past the end of the file."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.left = os.fstat(file.fileno()).st_size

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise Bad("gguf_cut")
        self.left -= count
        return self.file.read(count)

    def skip(self, count: int) -> None:
        if count > self.left:
            raise Bad("gguf_cut")
        self.left -= count
        self.file.seek(count, os.SEEK_CUR)

    def number(self, letter: str) -> Any:
        return struct.unpack("<" + letter, self.take(struct.calcsize("<" + letter)))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", "replace")


def gguf_templates(path: Path) -> list[str]:
    """The chat templates in a GGUF file, whose header and offsets are checked on the way. Raises Bad."""
    with open(path, "rb") as file:
        cursor = Cursor(file)
        if cursor.take(4) != b"GGUF" or cursor.number("I") not in (2, 3):
            raise Bad("gguf_version")
        tensors, pairs = cursor.number("Q"), cursor.number("Q")
        templates, alignment = [], 32
        for _ in range(pairs):
            key, value = cursor.text(), read_value(cursor, cursor.number("I"))
            alignment = value if key == "general.alignment" and isinstance(value, int) else alignment
            if key.startswith("tokenizer.chat_template"):
                templates += [
                    v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str)
                ]
        offsets = [read_tensor(cursor) for _ in range(tensors)]
        if alignment < 1 or alignment > 1 << 20:
            raise Bad("gguf_alignment")
        if any(offset % alignment or offset > cursor.left for offset in offsets):
            raise Bad("gguf_offset")
    return templates


def read_value(cursor: Cursor, kind: int, depth: int = 0) -> Any:
    if kind in SCALARS:
        return cursor.number(SCALARS[kind])
    if kind == 8:
        return cursor.text()
    if kind != 9 or depth > 4:
        raise Bad("gguf_type")
    inner, count = cursor.number("I"), cursor.number("Q")
    if inner in SCALARS:
        cursor.skip(struct.calcsize(SCALARS[inner]) * count)
        return None
    if count > cursor.left:
        raise Bad("gguf_count")
    return [read_value(cursor, inner, depth + 1) for _ in range(count)]


def read_tensor(cursor: Cursor) -> int:
    """Offset of one tensor's data."""
    cursor.text()
    dimensions = cursor.number("I")
    if dimensions > 8:
        raise Bad("gguf_dimensions")
    if math.prod(cursor.number("Q") for _ in range(dimensions)) >= 1 << 62:
        raise Bad("gguf_dimensions")
    cursor.number("I")
    return cursor.number("Q")
