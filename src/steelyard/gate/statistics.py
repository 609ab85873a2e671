"""Shares, paired differences, and the rule that turns an interval into a verdict. Pure.

Not here: what a right answer is (metrics.py), where the answers come from (scores.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import Any, Literal

# Two-sided 90 %: each bound holds at 95 %, as in an equivalence test by two one-sided tests
# (Schuirmann 1987): "passes" and "fails" are each wrong in at most one case in twenty.
CONFIDENCE = 0.90
# A look before all rows are in must be surer, or many looks add up to a wrong stop.
EARLY_CONFIDENCE = 0.998
MOST_ROWS = 1_000_000

Outcome = Literal["passed", "failed", "undecided"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share of rows, 0 to 1, with its interval."""

    value: float
    low: float
    high: float
    rows: int

    def as_json(self) -> dict[str, Any]:
        return {"value": self.value, "low": self.low, "high": self.high, "rows": self.rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Second minus first over the same rows, -1 to 1, with its interval.

    `gained` and `lost` count the rows that moved; both are what a paired test stands on.
    """

    value: float
    low: float
    high: float
    rows: int
    gained: float
    lost: float

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("value", "low", "high", "rows", "gained", "lost")}


def quantile(confidence: float) -> float:
    """Normal quantile of a two-sided interval."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def share(right: float, rows: int, confidence: float = 0.95) -> Share:
    """Wilson's score interval (1927): keeps its coverage near 0 and 1, where scores live."""
    if rows <= 0:
        return Share(value=0.0, low=0.0, high=1.0, rows=0)
    z2 = quantile(confidence) ** 2
    p = right / rows
    middle = (p + z2 / (2 * rows)) / (1 + z2 / rows)
    half = math.sqrt(z2 * (p * (1 - p) / rows + z2 / (4 * rows * rows))) / (1 + z2 / rows)
    return Share(
        value=p, low=max(0.0, min(p, middle - half)), high=min(1.0, max(p, middle + half)), rows=rows
    )


def difference(first: Sequence[float], second: Sequence[float], confidence: float = CONFIDENCE) -> Difference:
    """Second minus first, row by row. Right-or-wrong rows: Tango's interval; others: normal on the means.

    Raises ValueError where the two do not pair.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} rows do not pair with {len(second)}")
    gaps = [b - a for a, b in zip(first, second, strict=True)]
    gained, lost = sum(g for g in gaps if g > 0), -sum(g for g in gaps if g < 0)
    if all(g in (-1, 0, 1) for g in gaps):
        return of_counts(gained, lost, len(gaps), confidence)
    middle = fmean(gaps)
    half = quantile(confidence) * stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else 2.0
    low, high = max(-1.0, middle - half), min(1.0, middle + half)
    return Difference(value=middle, low=low, high=high, rows=len(gaps), gained=gained, lost=lost)


def of_counts(gained: float, lost: float, rows: int, confidence: float = CONFIDENCE) -> Difference:
    """Tango's score interval for the difference of paired proportions (Statistics in Medicine, 1998).

    Unlike Wald's it has a width where no row moved, and holds its level in small samples.
    """
    if rows <= 0:
        return Difference(value=0.0, low=-1.0, high=1.0, rows=0, gained=0, lost=0)
    z, value = quantile(confidence), (gained - lost) / rows

    def score(delta: float) -> float:
        return _tango(gained, lost, rows, delta)

    low = _root(lambda d: score(d) - z, -1.0, value)
    high = _root(lambda d: score(d) + z, value, 1.0)
    return Difference(value=value, low=low, high=high, rows=rows, gained=gained, lost=lost)


def _tango(gained: float, lost: float, rows: float, delta: float) -> float:
    """Score statistic of the hypothesis "the difference is delta"; falls as delta grows."""
    a = 2.0 * rows
    b = -gained - lost + (2 * rows - gained + lost) * delta
    c = -lost * delta * (1 - delta)
    q = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)  # P(lost) at its likeliest under delta
    variance = rows * (2 * q + delta * (1 - delta))
    gap = gained - lost - rows * delta
    if variance <= 0:
        return 0.0 if gap == 0 else math.copysign(math.inf, gap)
    return gap / math.sqrt(variance)


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def verdict_on(change: Difference, tolerance: float) -> Outcome:
    """Failed: the loss is beyond the tolerance for sure. Passed: the interval lies within it. Else open."""
    if change.high < -tolerance:
        return "failed"
    return "passed" if change.low >= -tolerance else "undecided"


def rows_needed(change: Difference, tolerance: float, confidence: float = CONFIDENCE) -> int:
    """How many rows more would decide, if they moved as these did. 0 where it is decided."""
    if verdict_on(change, tolerance) != "undecided":
        return 0

    def decided(rows: int) -> bool:
        grown = rows / max(1, change.rows)
        gained, lost = change.gained * grown, change.lost * grown
        return verdict_on(of_counts(gained, lost, rows, confidence), tolerance) != "undecided"

    low, high = change.rows, max(1, change.rows) * 2
    while not decided(high):
        low, high = high, high * 2
        if high > MOST_ROWS:
            return MOST_ROWS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return high - change.rows
