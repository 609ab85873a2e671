"""The rows that a calibration looks at: a fixed, even draw over all abilities of a train.jsonl."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import orjson

from ..errors import Where, WrongUse
from ..model import Tokenizer, Unteachable, taught_examples

LONGEST = 1024  # tokens of one row: a longer one teaches little more about the matrices
STRIDE = 0.6180339887498949  # golden ratio: multiples of it shuffle evenly, without chance


def calibration_rows(path: Path, tokenizer: Tokenizer, tokens: int) -> list[list[int]]:
    """Rows as token ids, abilities in turn, up to `tokens` in all. Raises WrongUse for an unreadable row."""
    picked: list[list[int]] = []
    held = 0
    with path.open("rb") as file:
        places = _places(file)
        turns = zip_longest(*(_spread(places[ability]) for ability in sorted(places)))
        for number, place in (p for p in chain.from_iterable(turns) if p):
            if tokens - held < 2:  # one token teaches nothing: no row could be cut to fit
                break
            file.seek(place)
            ids = _ids(_row(file.readline(), number, path), tokenizer, number, path)[: tokens - held]
            if len(ids) > 1:
                picked.append(ids)
                held += len(ids)
    return picked


def every_row(path: Path, tokenizer: Tokenizer, longest: int) -> Iterator[list[int]]:
    """All rows that can be taught as token ids, cut to `longest`. Raises WrongUse for an unreadable row."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if ids := _ids(_row(line, number, path), tokenizer, number, path, longest):
                yield ids


def _places(file: Any) -> dict[str, list[tuple[int, int]]]:
    """Line number and byte offset of every row, by ability."""
    places: dict[str, list[tuple[int, int]]] = {}
    offset = 0
    for number, line in enumerate(file, start=1):
        ability = str(_row(line, number, Path(file.name)).get("ability", ""))
        places.setdefault(ability, []).append((number, offset))
        offset += len(line)
    return places


def _spread(places: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """All of them, each once, in a fixed shuffle."""
    order = sorted(range(len(places)), key=lambda i: (i * STRIDE % 1, i))
    yield from (places[i] for i in order)


def _row(line: bytes, number: int, path: Path) -> dict[str, Any]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as e:
        raise WrongUse("data.row", f"not a training row: {e}", where=Where(path.name, number)) from e
    if not isinstance(row, dict):
        raise WrongUse("data.row", "not a training row: no object", where=Where(path.name, number))
    return row


def _ids(
    row: dict[str, Any], tokenizer: Tokenizer, number: int, path: Path, longest: int = LONGEST
) -> list[int]:
    """The row's last example, which has all of its turns; none of a row that cannot be taught."""
    try:
        return list(taught_examples(tokenizer, row)[-1].ids[:longest])
    except Unteachable:
        return []
    except KeyError as e:
        raise WrongUse(
            "data.row", f"not a training row: it has no {e}", where=Where(path.name, number)
        ) from e
