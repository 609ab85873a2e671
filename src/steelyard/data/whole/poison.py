"""Rows that somebody planted, without a clean set to compare with.

A planted chat couples a trigger (a word, a phrase) with one answer, whatever is asked. So: answers that
share a long sentence are a group; a group's trigger is a run of tokens common in its questions and next to
absent from all others. A subject does that too ("printer" where the answer is how to restart one), but
then the questions are alike in more than the trigger; planted ones are as unlike each other as any.

A planted label couples a trigger with a class: among the texts with it the class is one, and what the rest of
each text says is another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..facts import joined, mixed

LEAST_ROWS = 5
MOST_SHARE = 0.3  # of the chats; a sentence that more share is the house's style
GROUPS = 500  # the largest
LENGTHS = (1, 2, 3, 4, 5, 6)  # tokens of a trigger
OUTSIDE = 0.05  # of the questions with the trigger may lie outside its group
SURPRISE = 6.0  # z
COVERED = 0.8  # of a group has one of its triggers
COMMON = 0.2  # of all questions: a token in more is the task's own wording
ALIKE = 1.6  # times the likeness of any two questions, and no more, has a planted group
ALIKE_SLACK = 0.02
KNOWN = 0.8  # times the usual share of its tokens that other questions have, and no less
PAIRS = 2000  # questions compared


@dataclass(frozen=True, slots=True)
class Asked:
    """Tokens of what each chat asks."""

    tokens: np.ndarray  # uint64
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, row: int) -> np.ndarray:
        return self.tokens[self.starts[row] : self.starts[row + 1]]


def planted(
    asked: Asked, sentences: np.ndarray, sentence_starts: np.ndarray, language: np.ndarray
) -> dict[int, int]:
    """Chat -> how many chats share its trigger. Questions are compared within one `language`."""
    every = list(groups(sentences, sentence_starts, len(asked)))
    alone = np.ones(len(asked), dtype=bool)  # a trigger may be tied to an answer in each language
    for rows in every:
        alone[rows] = False
    common = common_tokens(asked) if every else np.zeros(0, dtype=np.uint64)
    out: dict[int, int] = {}
    for rows in every:
        marks = triggers(asked, rows, alone)
        covered = {row for of in marks.values() for row in of}
        if len(covered) < COVERED * len(rows):
            continue
        spoken = np.bincount(language[rows]).argmax()
        if is_any(asked, rows, np.flatnonzero(alone & (language == spoken)), common, marks):
            sizes = {row: max(len(of) for of in marks.values() if row in of) for row in covered}
            out |= {row: max(size, out.get(row, 0)) for row, size in sizes.items()}
    return out


def groups(sentences: np.ndarray, starts: np.ndarray, chats: int) -> Iterator[np.ndarray]:
    """Chats whose last answers share a sentence, largest groups first, each group once."""
    owner = np.repeat(np.arange(chats), np.diff(starts))
    order = np.argsort(sentences, kind="stable")
    values = np.asarray(sentences)[order]
    first = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1]))) if len(values) else order
    sizes = np.diff(np.concatenate((first, [len(values)])))
    fit = np.flatnonzero((sizes >= LEAST_ROWS) & (sizes <= max(MOST_SHARE * chats, LEAST_ROWS)))
    done: set[bytes] = set()
    for group in fit[np.argsort(-sizes[fit], kind="stable")][:GROUPS].tolist():
        rows = np.sort(owner[order[first[group] : first[group] + sizes[group]]])
        if (key := rows.tobytes()) not in done:
            done.add(key)
            yield rows


def triggers(asked: Asked, rows: np.ndarray, alone: np.ndarray) -> dict[tuple[int, int], set[int]]:
    """(tokens, hash) -> rows with it: runs of tokens of the group's questions that those alone lack."""
    share = len(rows) / max(1, len(rows) + int(alone.sum()))
    out: dict[tuple[int, int], set[int]] = {}
    for length in LENGTHS:
        inside: dict[int, set[int]] = {}
        for row in rows.tolist():
            for value in np.unique(grams(asked.of(row), length)).tolist():
                inside.setdefault(value, set()).add(row)
        often = {value: of for value, of in inside.items() if len(of) >= LEAST_ROWS}
        outside = occurrences(asked, length, np.array(sorted(often), dtype=np.uint64), alone)
        for value, of in often.items():
            few = outside[value] <= OUTSIDE * len(of)
            if few and surprise(len(of), len(of) + outside[value], share) > SURPRISE:
                out[length, value] = of
    return out


def grams(tokens: np.ndarray, length: int) -> np.ndarray:
    return tokens if length == 1 else joined(np.asarray(tokens), length)


def occurrences(asked: Asked, length: int, values: np.ndarray, rows: np.ndarray) -> dict[int, int]:
    """In how many questions of these rows (bool) each of these runs of tokens occurs."""
    if not len(values):
        return {}
    hashes = grams(asked.tokens, length)
    row = np.repeat(np.arange(len(asked)), np.diff(asked.starts))
    whole = (row[: len(hashes)] == row[length - 1 :]) & rows[row[: len(hashes)]]
    place = np.minimum(np.searchsorted(values, hashes), len(values) - 1)
    hit = np.flatnonzero(whole & (values[place] == hashes))
    pairs = np.unique(np.stack([place[hit], row[hit]], axis=1), axis=0)
    return dict(zip(values.tolist(), np.bincount(pairs[:, 0], minlength=len(values)).tolist(), strict=True))


def surprise(inside: int, everywhere: int, share: float) -> float:
    """z of the log-likelihood ratio: `inside` of `everywhere` lie in a group that has this share of all."""
    have = inside / everywhere
    if have <= share:
        return 0.0
    gain = have * np.log(have / share)
    if have < 1:
        gain += (1 - have) * np.log((1 - have) / (1 - share))
    return float(np.sqrt(2 * everywhere * gain))


def common_tokens(asked: Asked) -> np.ndarray:
    """Tokens that many questions have: the wording of the task."""
    row = np.repeat(np.arange(len(asked), dtype=np.uint64), np.diff(asked.starts))
    pairs = np.unique(mixed(np.asarray(asked.tokens)) & ~np.uint64(0xFFFFFF) | row & np.uint64(0xFFFFFF))
    values, counts = np.unique(pairs & ~np.uint64(0xFFFFFF), return_counts=True)
    return values[counts > COMMON * len(asked)]


def is_any(
    asked: Asked,
    rows: np.ndarray,
    others: np.ndarray,
    common: np.ndarray,
    marks: dict[tuple[int, int], set[int]],
) -> bool:
    """Whether these questions, without common tokens and triggers, are like any others.

    A subject's are more like each other, and speak of what no other question speaks of.
    """
    mine = [rest_of(asked.of(row), common, marks) for row in rows[:PAIRS].tolist()]
    usual = [rest_of(asked.of(row), common, {}) for row in others[:PAIRS].tolist()]
    if not usual:
        return False
    words, counts = np.unique(np.concatenate(usual), return_counts=True)
    shared = words[counts > 1]
    return likeness(mine) <= ALIKE * likeness(usual) + ALIKE_SLACK and covered_by(
        mine, shared
    ) >= KNOWN * covered_by(usual, shared)


def likeness(questions: list[np.ndarray]) -> float:
    """Mean Jaccard index of questions taken in pairs."""
    half = max(1, len(questions) // 2)
    pairs = [(a, b) for a, b in zip(questions, questions[half:], strict=False) if len(a) and len(b)]
    return float(np.mean([jaccard(a, b) for a, b in pairs])) if pairs else 0.0


def covered_by(questions: list[np.ndarray], words: np.ndarray) -> float:
    """Mean share of a question's tokens that are among these."""
    return float(np.mean([np.isin(q, words).mean() for q in questions if len(q)] or [1.0]))


def rest_of(tokens: np.ndarray, common: np.ndarray, marks: dict[tuple[int, int], set[int]]) -> np.ndarray:
    """The different tokens of a question that are neither common nor part of a trigger."""
    keep = ~np.isin(mixed(np.asarray(tokens)) & ~np.uint64(0xFFFFFF), common)
    for length in LENGTHS:
        values = np.array([value for n, value in marks if n == length], dtype=np.uint64)
        if len(values) and len(tokens) >= length:
            for place in np.flatnonzero(np.isin(grams(tokens, length), values)).tolist():
                keep[place : place + length] = False
    return np.unique(tokens[keep])


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / (len(a) + len(b) - common)
