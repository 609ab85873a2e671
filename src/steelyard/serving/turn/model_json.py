"""JSON that a model wrote, as values that can be written again: it keeps to no limits of ours."""

from __future__ import annotations

import json
from typing import Any

import orjson


def read(text: str) -> Any:
    """A lone half of a surrogate pair is `?`, an integer beyond 64 bits a float. Raises ValueError."""
    try:
        return orjson.loads(text)
    except ValueError:
        try:
            again = json.dumps(json.loads(text), ensure_ascii=False)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        return orjson.loads(whole(again))


def whole(text: str) -> str:
    """The text without lone halves of surrogate pairs, which UTF-8 has no bytes for."""
    return text.encode("utf-8", "replace").decode()
