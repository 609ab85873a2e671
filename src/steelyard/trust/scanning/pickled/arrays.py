"""numpy's .npy: the header, and a pickle where the array is one of objects."""

from __future__ import annotations

import ast
import math
import re
import struct
from typing import Any

from ..limits import Bad, Limits, TooMuch
from ..view import View
from .torch_files import check_pickle

HEADER_BYTES_MAX = 10_000  # numpy's own limit for files that it does not trust
SIZES = {"U": 4}


def check_npy(view: View, limits: Limits) -> None:
    """Raises Bad, TooMuch."""
    header, at = read_header(view)
    if names_objects(header["descr"]):
        check_pickle(view.part(at, view.size - at), limits)
    elif math.prod(header["shape"]) * item_bytes(header["descr"]) != view.size - at:
        raise Bad("npy_size")


def read_header(view: View) -> tuple[dict[str, Any], int]:
    """The header and the place of the data."""
    head = view.read_at(0, 12)
    if len(head) < 12 or head[6] not in (1, 2, 3):
        raise Bad("npy_header")
    wide = head[6] > 1
    length = struct.unpack("<I", head[8:12])[0] if wide else struct.unpack("<H", head[8:10])[0]
    start = 12 if wide else 10
    if start + length > view.size:
        raise Bad("npy_header")
    if length > HEADER_BYTES_MAX:
        raise TooMuch("too_large")
    return _parsed(view.read_at(start, length)), start + length


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        header = ast.literal_eval(text.decode("utf-8").strip())
        shape = header["shape"]
        whole = all(type(n) is int and 0 <= n < 1 << 62 for n in shape) and len(shape) <= 64
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError, KeyError) as e:
        raise Bad("npy_header") from e
    if not whole or set(header) != {"descr", "fortran_order", "shape"}:
        raise Bad("npy_header")
    return header


def names_objects(descr: Any) -> bool:
    """Is any part of the dtype a Python object?"""
    if isinstance(descr, str):
        return re.fullmatch(r"[<>|=]?(O\d*|object)", descr) is not None
    return isinstance(descr, list | tuple) and any(names_objects(d) for d in descr)


def item_bytes(descr: Any) -> int:
    if isinstance(descr, str):
        match = re.fullmatch(r"[<>|=]?([a-zA-Z?])(\d+)(\[\w+\])?", descr)
        if match is None:
            raise Bad("npy_dtype")
        return int(match[2]) * SIZES.get(match[1], 1)
    if not isinstance(descr, list):
        raise Bad("npy_dtype")
    return sum(_field_bytes(field) for field in descr)


def _field_bytes(field: Any) -> int:
    """Of `(name, dtype)` or `(name, dtype, shape)`."""
    try:
        _, kind, *shape = field
        shape = shape[0] if shape else ()
        return item_bytes(kind) * math.prod(shape if isinstance(shape, tuple) else (shape,))
    except (TypeError, ValueError) as e:
        raise Bad("npy_dtype") from e
