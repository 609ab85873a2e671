"""Labels that the texts contradict: flipped ones, and classes that a trigger was planted for.

A linear classifier (naive Bayes over tokens and pairs of tokens) judges each fold by the others. A label is
called wrong only where another class leads by more than two fifths of what right rows of that class lead by
(confident learning, Northcutt 2021): a doubtful text keeps its label.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..facts import joined
from .store import GrowingRagged, Ragged

FOLDS = 5
BUCKETS = 1 << 18
SMOOTHING = 0.1
ROWS_LEAST, CLASS_LEAST = 60, 12
ACCURACY_LEAST = 0.7  # of the classifier: a worse one may not judge
LEAD = 0.4  # of the median lead of right rows of the class
DOUBTFUL = 0.01  # of a label's rows may lean to another class by less than that; more of them are two classes
DOUBT_WEIGHT = 30.0  # that overlap, and each such share asks for so much more lead
MOST_SHARE = 0.15  # of the rows: where more are called wrong it is the classifier that errs
TRIGGER_ROWS = 5
TRIGGER_PURITY = 0.9  # of the rows with it have one label
TRIGGER_BELIED = 0.5  # of them say another class without it
SCORES_AT_ONCE = 1 << 20  # features times classes that are looked at together


@dataclass(frozen=True, slots=True)
class Labelled:
    """Rows as bags of features, below BUCKETS; each row's label is a number. Row n is of fold n % FOLDS."""

    folds: tuple[GrowingRagged, ...]  # uint32, rising in a row
    label: np.ndarray
    classes: int

    @staticmethod
    def of(label: np.ndarray, tokens: GrowingRagged) -> Labelled:
        folds = tuple(GrowingRagged.of(np.uint32, tokens.values.folder) for _ in range(FOLDS))
        for first, part in tokens.parts():
            features = features_of(part)
            for number, fold in enumerate(folds):
                fold.append(features.take(np.arange((number - first) % FOLDS, len(part), FOLDS)))
        names, numbers = np.unique(label, return_inverse=True)
        return Labelled(folds, numbers, len(names))

    def parts(self, fold: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(numbers of some rows, their features, of each feature the row's place among these)."""
        for first, part in self.folds[fold].parts(SCORES_AT_ONCE // self.classes):
            rows = fold + FOLDS * (first + np.arange(len(part)))
            yield rows, part.values.astype(np.int64), part.row

    def counts(self, fold: int, use: np.ndarray) -> np.ndarray:
        """int32 [classes, BUCKETS], of the rows of a mask."""
        out = np.zeros(self.classes * BUCKETS, dtype=np.int32)
        for rows, feature, row in self.parts(fold):
            cell = self.label[rows][row] * BUCKETS + feature
            np.add.at(out, cell[use[rows][row]], 1)
        return out.reshape(self.classes, BUCKETS)


def features_of(tokens: Ragged) -> Ragged:
    row = tokens.row
    pairs = joined(tokens.values, 2)
    inside = row[: len(pairs)] == row[1:]
    hashes = np.concatenate([tokens.values, pairs[inside]])
    rows = np.concatenate([row, row[: len(pairs)][inside]])
    once = np.unique(rows * BUCKETS + (hashes >> np.uint64(46)).astype(np.int64))
    return Ragged.of((once % BUCKETS).astype(np.uint32), once // BUCKETS, len(tokens))


def contradicted(label: np.ndarray, tokens: GrowingRagged) -> tuple[np.ndarray, np.ndarray]:
    """(rows with a planted trigger, rows whose label is flipped)."""
    none = np.zeros(0, dtype=np.int64)
    if len(label) < ROWS_LEAST:
        return none, none
    rows = Labelled.of(label, tokens)
    counts = np.bincount(rows.label)
    if (counts >= CLASS_LEAST).sum() < 2:
        return none, none
    rest = (counts >= CLASS_LEAST)[rows.label]  # a rare class neither judges nor is judged
    if rest.sum() < ROWS_LEAST:
        return none, none
    planted = triggered(rows, rest)
    rest[planted] = False
    return planted, flipped(rows, rest)


@dataclass(frozen=True, slots=True)
class Judged:
    """Some rows of a fold, judged by the other folds."""

    rows: np.ndarray
    sums: np.ndarray  # [rows, classes], what their features say for each class
    feature: np.ndarray
    row: np.ndarray  # of each feature, the row's place among these
    own: np.ndarray  # [features, classes], what each says


def judged_by_others(rows: Labelled, use: np.ndarray) -> Iterator[Judged]:
    """Every row once. Weights come from the other folds' rows in `use`."""
    every = counted(rows, use)
    for fold in range(FOLDS):
        weights = log_odds((every - rows.counts(fold, use)).astype(np.float32))
        for numbers, feature, row in rows.parts(fold):
            own = weights[:, feature]
            sums = [np.bincount(row, one, minlength=len(numbers)) for one in own]
            yield Judged(numbers, np.stack(sums, axis=1), feature, row, own.T)


def counted(rows: Labelled, use: np.ndarray) -> np.ndarray:
    """int32 [classes, BUCKETS], of all folds."""
    out = rows.counts(0, use)
    for fold in range(1, FOLDS):
        out += rows.counts(fold, use)
    return out


def log_odds(counts: np.ndarray) -> np.ndarray:
    """How much each feature speaks for each class, against the mean of the classes."""
    logs = np.log(counts + SMOOTHING) - np.log(counts.sum(axis=1, keepdims=True) + SMOOTHING * BUCKETS)
    return logs - logs.mean(axis=0)


def flipped(rows: Labelled, use: np.ndarray) -> np.ndarray:
    """Of the rows of a mask."""
    count = len(rows.label)
    best, short, lead = np.zeros(count, dtype=np.int32), np.zeros(count), np.zeros(count)
    for judged in judged_by_others(rows, use):
        size = np.maximum(np.bincount(judged.row, minlength=len(judged.rows)), 1)
        scores = judged.sums.astype(np.float32) / np.sqrt(size)[:, None]
        ordered = np.sort(scores, axis=1)
        best[judged.rows] = scores.argmax(axis=1)
        short[judged.rows] = ordered[:, -1] - scores[np.arange(len(size)), rows.label[judged.rows]]
        lead[judged.rows] = ordered[:, -1] - ordered[:, -2]
    right = (best == rows.label) & use
    if right.sum() < ACCURACY_LEAST * use.sum():
        return np.zeros(0, dtype=np.int64)
    of_class = [lead[right & (best == c)] for c in range(rows.classes)]
    usual = np.array([np.median(leads) if len(leads) else np.inf for leads in of_class])
    leads_by = short / usual[best]
    asked = LEAD + DOUBT_WEIGHT * np.maximum(
        0.0, doubts(rows, use & ~right & (leads_by < LEAD), best) - DOUBTFUL
    )
    wrong = np.flatnonzero(use & ~right & (leads_by >= asked))
    return wrong if len(wrong) <= MOST_SHARE * use.sum() else wrong[:0]


def doubts(rows: Labelled, lean: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Of each row: the share of its label's rows that lean a little to the class that this one leans to."""
    count = np.zeros((rows.classes, rows.classes))
    np.add.at(count, (rows.label[lean], best[lean]), 1)
    count /= np.maximum(np.bincount(rows.label, minlength=rows.classes), 1)[:, None]
    return count[rows.label, best]


def triggered(rows: Labelled, use: np.ndarray) -> np.ndarray:
    """Rows with a feature of one class that the rest of these rows' texts belie."""
    counts = counted(rows, use)
    total, most = counts.sum(axis=0), counts.max(axis=0)
    belied = np.zeros(BUCKETS, dtype=np.int64)
    for judged in judged_by_others(rows, use):
        without = (judged.sums[judged.row] - judged.own).argmax(axis=1)
        wrong = without != rows.label[judged.rows][judged.row]
        belied += np.bincount(judged.feature[wrong], minlength=BUCKETS)
    sure = (total >= TRIGGER_ROWS) & (most >= TRIGGER_PURITY * total) & (belied >= TRIGGER_BELIED * total)
    spoken = counts.argmax(axis=0)
    planted = np.zeros(len(rows.label), dtype=bool)
    for fold in range(FOLDS) if sure.any() else ():
        for numbers, feature, row in rows.parts(fold):
            hit = sure[feature] & (spoken[feature] == rows.label[numbers][row])
            planted[numbers[row[hit]]] = True
    return np.flatnonzero(planted)
