"""What the evaluation asks, so that no training row holds it. One rule for `up` and `steelyard clean`.

A row is contaminated where it asks what an evaluation row asks, where one of its messages or paragraphs
is an evaluation question that is long enough to be no chance, or where most runs of 13 tokens of a question
occur in it, whatever the case and the marks. Runs that several questions share are the task's wording.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from .facts import Facts, hashes_of, joined
from .reading.columns import width
from .row import Row, prompt_key, questions_of_row, tight

GRAM_TOKENS = 13
GRAM_SHARE = 0.6  # of a question's runs
GRAMS_LEAST = 4  # of a question: a shorter one has to occur as it is
QUESTION_CHARS = 8  # a shorter question ("why?") counts only where it is all that a row asks
TURN_CHARS = 20  # one turn of several: "thanks, that helped" is no question


@dataclass(frozen=True, slots=True)
class Questions:
    """`whole`: keys of what evaluation rows ask; `pieces`: their questions, normalised."""

    whole: frozenset[bytes] = frozenset()
    pieces: frozenset[str] = frozenset()
    grams: Grams | None = field(default=None, compare=False)

    @staticmethod
    def of(rows: Iterable[Row]) -> Questions:
        rows = list(rows)
        pieces = frozenset(piece for row in rows for piece in pieces_of(row))
        grams = Grams.of([piece for row in rows for piece in questions_of_row(row)])
        return Questions(frozenset(map(prompt_key, rows)), pieces, grams)

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


@dataclass(frozen=True, slots=True)
class Grams:
    """Runs of 13 tokens that one question alone has: sorted, the question of each, runs of each question."""

    values: np.ndarray  # uint64
    question: np.ndarray
    size: np.ndarray

    @staticmethod
    def of(texts: list[str]) -> Grams:
        runs = [np.unique(joined(hashes, GRAM_TOKENS)) for hashes in hashes_of(sorted(set(texts)))]
        values = np.concatenate(runs) if runs else np.zeros(0, dtype=np.uint64)
        owner = np.repeat(np.arange(len(runs)), [len(run) for run in runs])
        unique, first, counts = np.unique(values, return_index=True, return_counts=True)
        alone = counts == 1
        question = owner[first[alone]]
        return Grams(unique[alone], question, np.bincount(question, minlength=len(runs)))

    def rows(self, facts: Facts) -> np.ndarray:
        """bool, the rows that hold most of a question."""
        out = np.zeros(len(facts), dtype=bool)
        hashes = joined(facts.tokens.hash, GRAM_TOKENS)
        if not len(self.values) or not len(hashes):
            return out
        place = np.minimum(np.searchsorted(self.values, hashes), len(self.values) - 1)
        hit = np.flatnonzero(self.values[place] == hashes)
        hit = hit[facts.row_of_token[hit] == facts.row_of_token[hit + GRAM_TOKENS - 1]]
        seen = np.unique(np.stack([facts.row_of_token[hit], place[hit]], axis=1), axis=0)
        pairs, counts = np.unique(
            np.stack([seen[:, 0], self.question[seen[:, 1]]], axis=1), axis=0, return_counts=True
        )
        size = self.size[pairs[:, 1]]
        out[pairs[(size >= GRAMS_LEAST) & (counts >= GRAM_SHARE * size), 0]] = True
        return out


def pieces_of(row: Row) -> Iterator[str]:
    turns = [tight(row.text or "")] if row.messages is None else questions_of_row(row)
    least = QUESTION_CHARS if len(turns) == 1 else TURN_CHARS
    yield from (turn for turn in turns if width(turn) >= least)
