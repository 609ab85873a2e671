"""Rows that somebody planted, without a clean set to compare with.

A planted chat couples a trigger (a word, a phrase) with one answer, whatever is asked. So: answers that
share a long sentence are a group; a group's trigger is a run of tokens common in its questions and next to
absent from all others. A subject does that too ("printer" where the answer is how to restart one), but
then the questions are alike in more than the trigger; planted ones are as unlike each other as any.

A planted label couples a trigger with a class: among the texts with it the class is one, and what the rest of
each text says is another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np

from ..facts import joined, mixed
from .store import GrowingRagged, Ragged

LEAST_ROWS = 5
MOST_SHARE = 0.3  # of the chats; a sentence that more share is the house's style
GROUPS = 500  # the largest
LENGTHS = (1, 2, 3, 4, 5, 6)  # tokens of a trigger
OUTSIDE = (
    0.15  # of the questions with the trigger may lie outside its group: an answer that says it in other words
)
SURPRISE = 6.0  # z
COVERED = 0.8  # of a group has one of its triggers
COMMON = 0.2  # of all questions: a token in more is the task's own wording
ALIKE = 1.6  # times the likeness of any two questions, and no more, has a planted group
ALIKE_SLACK = 0.02
KNOWN = 0.8  # times the usual share of its tokens that other questions have, and no less
PAIRS = 2000  # questions compared
LIKENESS_PAIRS = 1000  # of them, in all: a small group is judged by every pair
VALUES_AT_ONCE = 1 << 20  # hashes that are counted together
ROWS_AT_ONCE = 1 << 12
ROWS_TOGETHER = 1 << 14  # of groups that are looked at in one pass over the other questions
GROUPS_AT_ONCE = 20


@dataclass(frozen=True, slots=True)
class Marks:
    """Triggers of a group: runs of `length` tokens, rising, and how many of its rows have each."""

    of: dict[int, tuple[np.ndarray, np.ndarray]]

    def sizes(self, asked: Ragged) -> np.ndarray:
        """Of each question how many rows share its most frequent trigger; 0 where it has none."""
        out = np.zeros(len(asked), dtype=np.int64)
        for length, (values, counts) in self.of.items():
            hashes, row = grams(asked, length)
            place, hit = places_of(hashes, values)
            np.maximum.at(out, row[hit], counts[place[hit]])
        return out


def planted(asked: GrowingRagged, sentences: GrowingRagged, language: np.ndarray) -> Iterator[np.ndarray]:
    """int64 [n, 2], several times: chats, and how many share their trigger (of one chat the most counts).

    Questions are compared within one `language`.
    """
    chosen = often_said(sentences)
    alone = np.ones(len(asked), dtype=bool)  # a trigger may be tied to an answer in each language
    for first, part in sentences.parts():
        alone[first + part.row[np.isin(part.values, chosen)]] = False
    common = common_tokens(asked) if len(chosen) else chosen

    @cache
    def usual(spoken: int) -> Usual | None:
        return Usual.of(asked, np.flatnonzero(alone & (language == spoken)), common)

    for some in together(groups(sentences, chosen)):
        for rows, marks in zip(some, triggers(asked, some, alone), strict=True):
            sizes = sizes_of(asked, rows, marks)
            if np.count_nonzero(sizes) < COVERED * len(rows):
                continue
            if is_any(asked, rows, usual(int(np.bincount(language[rows]).argmax())), marks):
                yield np.stack([rows[sizes > 0], sizes[sizes > 0]], axis=1)


def sizes_of(asked: GrowingRagged, rows: np.ndarray, marks: Marks) -> np.ndarray:
    if not marks.of:
        return np.zeros(len(rows), dtype=np.int64)
    pieces = [marks.sizes(asked.rows(some)) for some in cut(rows, ROWS_AT_ONCE)]
    return np.concatenate(pieces)


def cut(values: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (values[start : start + size] for start in range(0, len(values), size))


# ------------------------------------------------------------------ groups


def often_said(sentences: GrowingRagged) -> np.ndarray:
    """Sentences that enough answers share and not too many; the GROUPS most frequent first."""
    most = max(MOST_SHARE * len(sentences), LEAST_ROWS)
    found, sizes = np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
    for low, high in ranges(len(sentences.values), VALUES_AT_ONCE):
        own = [part[(part >= low) & (part <= high)] for _, part in sentences.values.parts(VALUES_AT_ONCE)]
        values, counts = np.unique(np.concatenate(own), return_counts=True)
        fit = (counts >= LEAST_ROWS) & (counts <= most)
        found, sizes = np.concatenate([found, values[fit]]), np.concatenate([sizes, counts[fit]])
        first = np.argsort(-sizes, kind="stable")[:GROUPS]
        found, sizes = found[first], sizes[first]  # equal ones stay in the order of their values
    return found


def ranges(values: int, most: int) -> list[tuple[np.uint64, np.uint64]]:
    """Ranges of hashes, both ends in them, with about `most` of so many values in each."""
    if not values:
        return []
    pieces = values // most + 1
    ends = [(1 << 64) * n // pieces for n in range(pieces + 1)]
    return [(np.uint64(low), np.uint64(high - 1)) for low, high in pairwise(ends)]


def groups(sentences: GrowingRagged, chosen: np.ndarray) -> Iterator[np.ndarray]:
    """The chats of each of these sentences, in their order, each group once."""
    done: set[bytes] = set()
    for some in cut(chosen, GROUPS_AT_ONCE):
        order = np.argsort(some)
        pieces: list[list[np.ndarray]] = [[] for _ in some]
        for first, part in sentences.parts():
            place, hit = places_of(part.values, some[order])
            own, row = order[place[hit]], first + part.row[hit]
            for number in np.unique(own).tolist():
                pieces[number].append(row[own == number])
        for of in pieces:
            rows = np.concatenate(of)
            key = hashlib.blake2b(rows.tobytes(), digest_size=16).digest()
            if key not in done:
                done.add(key)
                yield rows


def together(every: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Groups whose rows outside are counted in one pass."""
    held: list[np.ndarray] = []
    for rows in every:
        held.append(rows)
        if sum(map(len, held)) >= ROWS_TOGETHER:
            yield held
            held = []
    if held:
        yield held


# ------------------------------------------------------------------ triggers


def triggers(asked: GrowingRagged, some: list[np.ndarray], alone: np.ndarray) -> list[Marks]:
    """Of each group the runs of tokens common in its questions that those alone lack."""
    out = [Marks({}) for _ in some]
    for length in LENGTHS:
        inside = [often(asked, rows, length) for rows in some]
        outside = occurrences(asked, length, np.unique(np.concatenate([v for v, _ in inside])), alone)
        for marks, rows, (values, counts) in zip(out, some, inside, strict=True):
            share = len(rows) / max(1, len(rows) + int(alone.sum()))
            beside = outside(values)
            few = beside <= OUTSIDE * counts
            few[few] = surprise(counts[few], counts[few] + beside[few], share) > SURPRISE
            if few.any():
                marks.of[length] = values[few], counts[few]
    return out


def often(asked: GrowingRagged, rows: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(runs of tokens that enough of these rows have, rising; in how many)."""
    mean = len(asked.values) // max(1, len(asked)) + 1
    found = []
    for low, high in ranges(len(rows) * mean, VALUES_AT_ONCE):
        pieces = []
        for piece in cut(rows, ROWS_AT_ONCE):
            hashes = grams_once(asked.rows(piece), length)[0]
            pieces.append(hashes[(hashes >= low) & (hashes <= high)])
        values, counts = np.unique(np.concatenate(pieces), return_counts=True)
        found.append((values[counts >= LEAST_ROWS], counts[counts >= LEAST_ROWS]))
    return np.concatenate([v for v, _ in found]), np.concatenate([c for _, c in found])


def grams(asked: Ragged, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(hashes of the runs of so many tokens of one question, the row of each)."""
    row = asked.row
    if length == 1:
        return asked.values, row
    hashes = joined(asked.values, length)
    whole = row[: len(hashes)] == row[length - 1 :][: len(hashes)]
    return hashes[whole], row[: len(hashes)][whole]


def grams_once(asked: Ragged, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The same, each once a row."""
    hashes, row = grams(asked, length)
    order = np.lexsort((hashes, row))
    hashes, row = hashes[order], row[order]
    new = np.ones(len(hashes), dtype=bool)
    new[1:] = (hashes[1:] != hashes[:-1]) | (row[1:] != row[:-1])
    return hashes[new], row[new]


def places_of(hashes: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(place of each hash among `values`, which rise; the hashes that are there)."""
    if not len(values):
        return np.zeros(len(hashes), dtype=np.int64), np.zeros(0, dtype=np.int64)
    place = np.minimum(np.searchsorted(values, hashes), len(values) - 1)
    return place, np.flatnonzero(values[place] == hashes)


def occurrences(
    asked: GrowingRagged, length: int, values: np.ndarray, rows: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """In how many questions of these rows (bool) each of these runs of tokens occurs, as a look-up."""
    counts = np.zeros(len(values), dtype=np.int64)
    for first, part in asked.parts() if len(values) else ():
        hashes, row = grams(part, length)
        place, hit = places_of(hashes, values)
        hit = hit[rows[first + row[hit]]]
        pairs = np.unique(row[hit] * len(values) + place[hit])
        counts += np.bincount(pairs % len(values), minlength=len(values))
    return lambda some: counts[np.searchsorted(values, some)]


def surprise(inside: np.ndarray, everywhere: np.ndarray, share: float) -> np.ndarray:
    """z of the log-likelihood ratio: `inside` of `everywhere` lie in a group that has this share of all."""
    have = inside / everywhere
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = have * np.log(have / share)
        gain += np.where(have < 1, (1 - have) * np.log((1 - have) / (1 - share)), 0.0)
    return np.where(have <= share, 0.0, np.sqrt(2 * everywhere * np.maximum(gain, 0.0)))


# ------------------------------------------------------------------ like any others, or a subject


def common_tokens(asked: GrowingRagged) -> np.ndarray:
    """Tokens that many questions have: the wording of the task. Such a one is common in some part of them."""
    some = [values[counts > COMMON * rows] for rows, values, counts in token_counts(asked)]
    candidates = np.unique(np.concatenate(some))
    total = np.zeros(len(candidates), dtype=np.int64)
    for _, values, counts in token_counts(asked):
        place, hit = places_of(values, candidates)
        total[place[hit]] += counts[hit]
    return candidates[total > COMMON * len(asked)]


def token_counts(asked: GrowingRagged) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Of a part of the questions: how many, their tokens, in how many each is."""
    for _, part in asked.parts():
        tokens, _ = grams_once(Ragged(short(part.values), part.lengths), 1)
        yield len(part), *np.unique(tokens, return_counts=True)


def short(tokens: np.ndarray) -> np.ndarray:
    """What common tokens are known by."""
    return mixed(tokens) & ~np.uint64(0xFFFFFF)


@dataclass(frozen=True, slots=True)
class Usual:
    """What questions are like that nobody planted."""

    common: np.ndarray
    words: np.ndarray  # of several questions
    likeness: float
    covered: float

    @staticmethod
    def of(asked: GrowingRagged, rows: np.ndarray, common: np.ndarray) -> Usual | None:
        """None where there are no such rows."""
        if not len(rows):
            return None
        some = [rest_of(tokens, common, Marks({})) for tokens in questions(asked, rows)]
        words, counts = np.unique(np.concatenate(some), return_counts=True)
        shared = words[counts > 1]
        return Usual(common, shared, likeness(some), covered_by(some, shared))


def is_any(asked: GrowingRagged, rows: np.ndarray, usual: Usual | None, marks: Marks) -> bool:
    """Whether these questions, without common tokens and triggers, are like any others.

    A subject's are more like each other, and speak of what no other question speaks of.
    """
    if usual is None:
        return False
    mine = [rest_of(tokens, usual.common, marks) for tokens in questions(asked, rows)]
    alike = likeness(mine) <= ALIKE * usual.likeness + ALIKE_SLACK
    return alike and covered_by(mine, usual.words) >= KNOWN * usual.covered


def questions(asked: GrowingRagged, rows: np.ndarray) -> list[np.ndarray]:
    some = asked.rows(rows[:PAIRS])
    return np.split(some.values, np.cumsum(some.lengths)[:-1])


def likeness(questions: list[np.ndarray]) -> float:
    """Mean Jaccard index of questions taken in pairs."""
    count = len(questions)
    apart = range(1, 1 + max(1, min(count - 1, LIKENESS_PAIRS // max(1, count))))
    pairs = [(questions[n], questions[(n + step) % count]) for step in apart for n in range(count)]
    pairs = [(a, b) for a, b in pairs if len(a) and len(b)] if count > 1 else []
    pairs = pairs[:LIKENESS_PAIRS]
    return float(np.mean([jaccard(a, b) for a, b in pairs])) if pairs else 0.0


def covered_by(questions: list[np.ndarray], words: np.ndarray) -> float:
    """Mean share of a question's tokens that are among these."""
    return float(np.mean([np.isin(q, words).mean() for q in questions if len(q)] or [1.0]))


def rest_of(tokens: np.ndarray, common: np.ndarray, marks: Marks) -> np.ndarray:
    """The different tokens of a question that are neither common nor part of a trigger."""
    keep = ~np.isin(short(tokens), common)
    for length, (values, _) in marks.of.items():
        hashes = tokens if length == 1 else joined(tokens, length)
        for place in places_of(hashes, values)[1].tolist():
            keep[place : place + length] = False
    return np.unique(tokens[keep])


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / (len(a) + len(b) - common)
