"""Labels that the texts contradict: flipped ones, and classes that a trigger was planted for.

A linear classifier (naive Bayes over tokens and pairs of tokens) judges each fold by the others. A label is
called wrong only where another class leads by more than a third of what right rows of that class lead by
(confident learning, Northcutt 2021): a doubtful text keeps its label.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..facts import joined

FOLDS = 5
BUCKETS = 1 << 18
SMOOTHING = 0.1
ROWS_LEAST, CLASS_LEAST = 60, 12
ACCURACY_LEAST = 0.7  # of the classifier: a worse one may not judge
LEAD = 0.35  # of the median lead of right rows of the class
MOST_SHARE = 0.15  # of the rows: where more are called wrong it is the classifier that errs
TRIGGER_ROWS = 5
TRIGGER_PURITY = 0.9  # of the rows with it have one label
TRIGGER_BELIED = 0.5  # of them say another class without it


@dataclass(frozen=True, slots=True)
class Labelled:
    """Rows as bags of features: `feature` and `row` of each occurrence, `label` of each row (a number)."""

    feature: np.ndarray  # int64, below BUCKETS
    row: np.ndarray
    label: np.ndarray
    classes: int

    @staticmethod
    def of(label: np.ndarray, tokens: np.ndarray, starts: np.ndarray) -> Labelled:
        row = np.repeat(np.arange(len(label)), np.diff(starts))
        pairs = joined(np.asarray(tokens), 2)
        inside = row[: len(pairs)] == row[1:] if len(row) else np.zeros(0, dtype=bool)
        hashes = np.concatenate([np.asarray(tokens), pairs[inside]])
        rows = np.concatenate([row, row[: len(pairs)][inside]])
        feature = (hashes >> np.uint64(46)).astype(np.int64)
        once = np.unique(rows * BUCKETS + feature)
        names, numbers = np.unique(label, return_inverse=True)
        return Labelled(once % BUCKETS, once // BUCKETS, numbers, len(names))

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """float [classes, BUCKETS], of the rows of a mask."""
        used = rows[self.row]
        cell = self.label[self.row[used]] * BUCKETS + self.feature[used]
        return (
            np.bincount(cell, minlength=self.classes * BUCKETS)
            .reshape(self.classes, BUCKETS)
            .astype(np.float32)
        )


def contradicted(label: np.ndarray, tokens: np.ndarray, starts: np.ndarray) -> tuple[list[int], list[int]]:
    """(rows with a planted trigger, rows whose label is flipped)."""
    if len(label) < ROWS_LEAST:
        return [], []
    rows = Labelled.of(label, tokens, starts)
    if rows.classes < 2 or np.bincount(rows.label).min() < CLASS_LEAST:
        return [], []
    rest = np.ones(len(label), dtype=bool)
    planted = triggered(rows, judged_by_others(rows, rest)[1])
    rest[planted] = False
    return planted, flipped(rows, judged_by_others(rows, rest)[0], rest)


def judged_by_others(rows: Labelled, use: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """([rows, classes] scores; for each occurrence of a feature the class that is best without it).

    Weights come from the other folds' rows in `use`.
    """
    count = len(rows.label)
    fold = np.arange(count) % FOLDS
    scores = np.zeros((count, rows.classes), dtype=np.float32)
    without = np.zeros(len(rows.feature), dtype=np.int64)
    for number in range(FOLDS):
        weights = log_odds(rows.counts((fold != number) & use))
        mine = np.flatnonzero(fold[rows.row] == number)
        row, own = rows.row[mine], weights[:, rows.feature[mine]]
        sums = np.stack([np.bincount(row, own[one], minlength=count) for one in range(rows.classes)], axis=1)
        scores[fold == number] = sums[fold == number]
        without[mine] = (sums[row] - own.T).argmax(axis=1)
    size = np.maximum(np.bincount(rows.row, minlength=count), 1)
    return scores / np.sqrt(size)[:, None], without


def log_odds(counts: np.ndarray) -> np.ndarray:
    """How much each feature speaks for each class, against the mean of the classes."""
    logs = np.log(counts + SMOOTHING) - np.log(counts.sum(axis=1, keepdims=True) + SMOOTHING * BUCKETS)
    return logs - logs.mean(axis=0)


def flipped(rows: Labelled, scores: np.ndarray, use: np.ndarray) -> list[int]:
    place = np.arange(len(rows.label))
    best = scores.argmax(axis=1)
    right = (best == rows.label) & use
    if right.sum() < ACCURACY_LEAST * use.sum():
        return []
    given = scores[place, rows.label]
    ordered = np.sort(scores, axis=1)
    lead = ordered[:, -1] - ordered[:, -2]
    usual = np.array(
        [
            np.median(lead[right & (best == c)]) if (right & (best == c)).any() else np.inf
            for c in range(rows.classes)
        ]
    )
    wrong = np.flatnonzero(use & ~right & (scores[place, best] - given >= LEAD * usual[best]))
    return wrong.tolist() if len(wrong) <= MOST_SHARE * use.sum() else []


def triggered(rows: Labelled, without: np.ndarray) -> list[int]:
    """Rows with a feature of one class that the rest of these rows' texts belie."""
    counts = rows.counts(np.ones(len(rows.label), dtype=bool))
    total, most = counts.sum(axis=0), counts.max(axis=0)
    belied = np.bincount(rows.feature, without != rows.label[rows.row], minlength=BUCKETS)
    pure = (total >= TRIGGER_ROWS) & (most >= TRIGGER_PURITY * total)
    out: set[int] = set()
    for one in np.flatnonzero(pure & (belied >= TRIGGER_BELIED * total)).tolist():
        inside = rows.row[rows.feature == one]
        out |= set(inside[rows.label[inside] == counts[:, one].argmax()].tolist())
    return sorted(out)
