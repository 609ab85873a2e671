"""The header of a safetensors file, checked byte for byte before any loader sees it."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

from ..limits import Bad, TooMuch
from ..view import View

HEADER_BYTES_MAX = 100_000_000  # the limit of the safetensors library itself
PARSED_BYTES_MAX = 24 << 20  # a larger one takes more memory than a scan may; real ones have a few MB
DIMENSIONS_MAX = 64
BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64,
        "U32": 32, "U16": 16, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "C64": 64,
        "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}  # fmt: skip


def check_safetensors(view: View) -> dict[str, Any]:
    """The header's metadata. Raises Bad, TooMuch."""
    header, data_bytes = read_header(view)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise Bad("safetensors_metadata")
    check_spans(header, data_bytes)
    return metadata


def read_header(view: View) -> tuple[dict[str, Any], int]:
    """The header and the number of bytes behind it. How deep it may be, `span` says: three levels."""
    first = view.read_at(0, 8)
    length = struct.unpack("<Q", first)[0] if len(first) == 8 else view.size
    if length > min(HEADER_BYTES_MAX, view.size - 8):
        raise Bad("safetensors_header_size")
    if length > PARSED_BYTES_MAX:
        raise TooMuch("too_large")
    text = view.read_at(8, length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=no_duplicates)
    except (ValueError, RecursionError) as e:
        raise Bad("safetensors_header") from e
    if not isinstance(header, dict):
        raise Bad("safetensors_header")
    return header, view.size - 8 - length


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({k for k, _ in pairs}) != len(pairs):
        raise Bad("safetensors_duplicate_key")
    return dict(pairs)


def check_spans(header: dict[str, Any], data_bytes: int) -> None:
    """Every tensor's span fits its dtype and shape; together they fill the data without hole or overlap."""
    place = 0
    for start, end in sorted(span(tensor) for tensor in header.values()):
        if start != place:
            raise Bad("safetensors_overlap" if start < place else "safetensors_hole")
        place = end
    if place != data_bytes:
        raise Bad("safetensors_cut" if place > data_bytes else "safetensors_tail")


def span(tensor: Any) -> tuple[int, int]:
    try:
        dtype, shape, (start, end) = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
        whole = all(type(n) is int and 0 <= n < 1 << 63 for n in (*shape, start, end))
        bits = BITS.get(dtype)
    except (TypeError, KeyError, ValueError) as e:
        raise Bad("safetensors_header") from e
    if set(tensor) != {"dtype", "shape", "data_offsets"}:
        raise Bad("safetensors_header")
    if not whole or bits is None or len(shape) > DIMENSIONS_MAX or not isinstance(shape, list):
        raise Bad("safetensors_span")
    if math.prod(shape) * bits != (end - start) * 8:
        raise Bad("safetensors_span")
    return start, end
