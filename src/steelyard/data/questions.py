"""What the evaluation asks, so that no training row holds it. One rule for `up` and `steelyard clean`.

A row is contaminated where it asks what an evaluation row asks, or where one of its messages or paragraphs
is an evaluation question that is long enough to be no chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .columns import width
from .row import Row, prompt_key, questions_of_row, tight

QUESTION_CHARS = 8  # a shorter question ("why?") counts only where it is all that a row asks
TURN_CHARS = 20  # one turn of several: "thanks, that helped" is no question


@dataclass(frozen=True, slots=True)
class Questions:
    """`whole`: keys of what evaluation rows ask; `pieces`: their questions, normalised."""

    whole: frozenset[bytes] = frozenset()
    pieces: frozenset[str] = frozenset()

    @staticmethod
    def of(rows: Iterable[Row]) -> Questions:
        rows = list(rows)
        pieces = frozenset(piece for row in rows for piece in pieces_of(row))
        return Questions(frozenset(map(prompt_key, rows)), pieces)

    def __bool__(self) -> bool:
        return bool(self.whole)

    def are_in(self, row: Row, prompt: bytes) -> bool:
        """`prompt` is the row's own key."""
        if prompt in self.whole:
            return True
        for part in row.parts:
            if tight(part) in self.pieces:
                return True
            if "\n" in part and any(tight(piece) in self.pieces for piece in part.split("\n")):
                return True
        return False


def pieces_of(row: Row) -> Iterator[str]:
    turns = [tight(row.text or "")] if row.messages is None else questions_of_row(row)
    least = QUESTION_CHARS if len(turns) == 1 else TURN_CHARS
    yield from (turn for turn in turns if width(turn) >= least)
