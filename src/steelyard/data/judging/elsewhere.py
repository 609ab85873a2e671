"""Rows that are judged by other processes, here or on other hosts: what goes there, and what comes back.

The rows are still with the one that sent them, so an answer holds those alone that were changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from ...artefact import Watch
from ..questions import Questions
from ..row import Row, Unreadable
from ..steps import Rules
from .judge import Batch, judge

Items = list[Row | Unreadable]
Piece = tuple[int, Items]  # (number of its file, its rows)
Answers = Iterator[tuple[Any, Any]]
Mapper = Callable[[Callable[[Any], Any], Iterator[Any]], Answers]  # (item, answer) in the order of the items
Others = Callable[[Watch], AbstractContextManager[Mapper]]


@dataclass(frozen=True, slots=True)
class Judging:
    """`judge` as a function of a piece. Pure; it is pickled with all that it needs."""

    rules: Rules
    questions: Questions

    def __call__(self, piece: Piece) -> Batch:
        return without_known(piece[1], judge(piece[1], self.rules, self.questions))


def here(judging: Judging, pieces: Iterator[Piece]) -> Iterator[tuple[Piece, Batch]]:
    """One after another, in this process."""
    return ((piece, judge(piece[1], judging.rules, judging.questions)) for piece in pieces)


def elsewhere(map_pieces: Mapper) -> Callable[[Judging, Iterator[Piece]], Iterator[tuple[Piece, Batch]]]:
    """By other processes."""

    def judged(judging: Judging, pieces: Iterator[Piece]) -> Iterator[tuple[Piece, Batch]]:
        return ((piece, with_known(piece[1], batch)) for piece, batch in map_pieces(judging, pieces))

    return judged


def without_known(items: Items, batch: Batch) -> Batch:
    """The same batch without rows that are as they were sent."""
    for item, judged in zip(items, batch.judged, strict=True):
        if judged.original is item:
            judged.original = None
            judged.row = None if judged.row is item else judged.row
    return batch


def with_known(items: Items, batch: Batch) -> Batch:
    """What `without_known` left out, from the rows that were sent."""
    for item, judged in zip(items, batch.judged, strict=True):
        if not judged.reasons and judged.original is None and isinstance(item, Row):
            judged.original = item
            judged.row = judged.row or item
    return batch
