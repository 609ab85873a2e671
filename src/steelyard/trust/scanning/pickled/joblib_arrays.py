"""joblib writes an array's bytes into the middle of its pickle: after the wrapper that describes them."""

from __future__ import annotations

import math
import re
from typing import Any

from ..limits import Bad, TooMuch
from .allowed import Box, Made, Named

CHARACTER_BYTES = {"U": 4, "S": 1, "V": 1, "a": 1}


def skip_array(walk: Any, state: Box) -> None:
    """Step over the array that follows. Raises Bad where the wrapper does not say its size, or lies."""
    items = state.items
    if items.get("subclass") != Named("numpy.ndarray") or not isinstance(items.get("shape"), tuple):
        raise Bad("joblib_wrapper")
    if is_object(items.get("dtype")):
        _nested(walk)
        return
    size = math.prod(items["shape"]) * item_bytes(items.get("dtype"))
    if items.get("numpy_array_alignment_bytes") is not None:
        padding = walk.reader.take(1)[0]
        walk.reader.skip(padding)
    if size < 0:
        raise Bad("joblib_wrapper")
    walk.reader.skip(size)


def is_object(dtype: Any) -> bool:
    return isinstance(dtype, Made) and str(dtype.args[0]).lstrip("<>|=").startswith("O")


def _nested(walk: Any) -> None:
    """An array of objects is a pickle of its own, on a stack of its own."""
    stack, memo = walk.stack, walk.memo
    walk.limits.check_time()
    walk.nested += 1
    if walk.nested > 64:
        raise TooMuch("nesting")
    walk.stream()
    walk.nested -= 1
    walk.stack, walk.memo = stack, memo


def item_bytes(dtype: Any) -> int:
    text = dtype.args[0] if isinstance(dtype, Made) and dtype.name == "numpy.dtype" else ""
    match = re.fullmatch(r"[<>|=]?([a-zA-Z])(\d+)(\[\w+\])?", text)
    if match is None or (match[1] == "V" and int(match[2])):
        raise TooMuch("joblib_dtype")  # records: their size stands in the state of the dtype
    return int(match[2]) * (CHARACTER_BYTES.get(match[1], 1))
