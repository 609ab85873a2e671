"""How much a grammar grows when its counted repeats are written out, as the engine's compiler does.

`maxLength: 200000` is 90 characters and stops every stream for 2.1 s, 900 properties that may be left out for
4.4 s (xgrammar, two cores). Not here: how long its text may be (constraints.py).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..host.job import Constraint

STATES = 32_768  # 0.35 s, once for each grammar
COUNTS = ("maxLength", "minLength", "maxItems", "minItems", "maxProperties", "minProperties")
NAMED = ("properties", "patternProperties", "$defs", "definitions")
DATA = ("enum", "const", "default", "examples")
PIECE = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|\{(\d+)(?:,(\d*))?\}|.", re.DOTALL)


def states_of(constraint: Constraint) -> int:
    """About as many as the compiler makes beyond one for each character of the text."""
    kind, text = constraint
    return sum(_schema_states(json.loads(text))) if kind == "json_schema" else _repeats(text)


def _schema_states(schema: Any) -> Iterator[int]:
    if isinstance(schema, list):
        for item in schema:
            yield from _schema_states(item)
    if not isinstance(schema, Mapping):
        return
    yield sum(_bound(schema.get(key)) for key in COUNTS)
    yield _repeats(pattern) if isinstance(pattern := schema.get("pattern"), str) else 0
    yield _optional(schema) ** 2  # any of them may come after any other
    for key, value in schema.items():
        if key not in DATA:
            yield from _schema_states(list(value.values()) if _is_named(key, value) else value)


def _bound(value: Any) -> int:
    """JSON in a text may say 1e999, which no compiler counts to."""
    if isinstance(value, float) and not math.isfinite(value):
        return STATES + 1
    return abs(int(value)) if isinstance(value, int | float) else 0


def _is_named(key: str, value: Any) -> bool:
    """Names of properties are no keywords."""
    return key in NAMED and isinstance(value, Mapping)


def _optional(schema: Mapping[str, Any]) -> int:
    properties, required = schema.get("properties"), schema.get("required")
    named = len(required) if isinstance(required, list) else 0
    return max(len(properties) - named, 0) if isinstance(properties, Mapping) else 0


def _repeats(pattern: str) -> int:
    """Characters that `{m,n}` adds when it is written out, those within each other multiplied."""
    sizes, last, plain = [0], 0, 0
    for piece in PIECE.finditer(pattern):
        if piece[1]:
            times = max(int(piece[1][:9]), int((piece[2] or "0")[:9]))
            sizes[-1] += last * (times - 1)
            last *= times
        elif piece[0] == "(":
            sizes.append(0)
        elif piece[0] == ")" and len(sizes) > 1:
            last = sizes.pop()
            sizes[-1] += last
        else:
            last, plain = 1, plain + 1
            sizes[-1] += 1
    return max(sum(sizes) - plain, 0)
