"""Shares, paired differences, and the rule that turns an interval into a verdict. Pure.

Not here: what a right answer is (metrics.py), where the answers come from (scores.py), how many rows a
verdict needs and how several looks share one error (sample_size.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import Any, Literal

from ...sample_size import restricted_variance, smallest

# Two-sided 90 %: each bound holds at 95 %, as in an equivalence test by two one-sided tests
# (Schuirmann 1987): "passes" and "fails" are each wrong in at most one case in twenty.
CONFIDENCE = 0.90
MOST_ROWS = 1_000_000

Outcome = Literal["passed", "failed", "undecided"]
Quantiles = tuple[float, float]  # one-sided normal quantiles of the lower and of the upper bound


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


def share_of(values: Sequence[float], confidence: float = 0.95) -> Share:
    """Mean of scores from 0 to 1 with its interval: Wilson's for right or wrong, else Student's, as wide."""
    if len(values) < 2 or all(v in (0, 1) for v in values):
        return share(sum(values), len(values), confidence)
    z, mean = quantile(confidence), fmean(values)
    rows = len(values) + z * z
    middle = (sum(values) + z * z / 2) / rows
    variance = (sum(v * v for v in values) + z * z / 2) / rows - middle * middle
    half = student(z, len(values) - 1) * math.sqrt(max(0.0, variance) / rows)
    low, high = max(0.0, min(mean, middle - half)), min(1.0, max(mean, middle + half))
    return Share(value=mean, low=low, high=high, rows=len(values))


def difference(
    first: Sequence[float],
    second: Sequence[float],
    confidence: float = CONFIDENCE,
    z: Quantiles | None = None,
) -> Difference:
    """Second minus first, row by row. Right or wrong rows: Tango's interval; graded ones: `of_gaps`.

    `z` gives each bound its own level in place of `confidence`. Raises ValueError where the two do not pair.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} rows do not pair with {len(second)}")
    gaps = [b - a for a, b in zip(first, second, strict=True)]
    if all(g in (-1, 0, 1) for g in gaps):
        return of_counts(gaps.count(1), gaps.count(-1), len(gaps), confidence, z)
    return of_gaps(gaps, z or both(confidence))


def both(confidence: float) -> Quantiles:
    """The quantiles of a two-sided interval."""
    return quantile(confidence), quantile(confidence)


def of_counts(
    gained: float, lost: float, rows: int, confidence: float = CONFIDENCE, z: Quantiles | None = None
) -> Difference:
    """Tango's score interval for the difference of paired proportions (Statistics in Medicine, 1998).

    Unlike Wald's it has a width where no row moved. A continuity correction of half a row keeps each bound at
    its level in small samples: without it a loss of the whole tolerance passes in up to 6.0 % of the cases
    instead of 5 (enumerated over 130 to 420 rows), with it in at most 4.8 %. Where no row was lost, the lower
    bound is no lower than the exact one, and so above: else one gained row would lower it at the levels of
    early looks (enumerated over 24 to 400 rows, 5 % to 0.1 %: each bound keeps its level).
    """
    if rows <= 0:
        return Difference(value=0.0, low=-1.0, high=1.0, rows=0, gained=0, lost=0)
    (z_low, z_high), value = z or both(confidence), (gained - lost) / rows
    if not gained and not lost:
        low, high = -_none_moved(rows, z_low), _none_moved(rows, z_high)
        return Difference(value=0.0, low=low, high=high, rows=int(rows), gained=0, lost=0)

    def score(delta: float) -> float:
        return _tango(gained, lost, rows, delta)

    low = _root(lambda d: score(d) - z_low, -1.0, value)
    high = _root(lambda d: score(d) + z_high, value, 1.0)
    low = low if lost else max(low, -_none_moved(rows, z_low))
    high = high if gained else min(high, _none_moved(rows, z_high))
    return Difference(value=value, low=low, high=high, rows=rows, gained=gained, lost=lost)


def _none_moved(rows: float, z: float) -> float:
    """The share of rows that may be lost though none was, exactly: (1 - share) ** rows = the level."""
    return 1 - (1 - NormalDist().cdf(z)) ** (1 / rows)


def _tango(gained: float, lost: float, rows: float, delta: float) -> float:
    """Score statistic of "the difference is delta", half a row nearer to 0; falls as delta grows."""
    gap = gained - lost - rows * delta
    gap = math.copysign(max(0.0, abs(gap) - 0.5), gap)
    variance = rows * restricted_variance(gained / rows, lost / rows, delta)
    if variance <= 0:
        return 0.0 if gap == 0 else math.copysign(math.inf, gap)
    return gap / math.sqrt(variance)


def of_gaps(gaps: Sequence[float], z: Quantiles) -> Difference:
    """Interval of the mean of differences that lie between -1 and 1, such as those of chrF scores.

    Student's t on the differences and z**2 / 2 more at either end of the range, as Agresti and Coull (1998)
    do for shares: where nothing moved it equals Tango's interval, and rare large differences that a sample
    has not met are allowed for. Coverage over skewed and zero-heavy differences: tests/gate.
    """
    rows = len(gaps)
    if rows < 2:
        return Difference(value=sum(gaps), low=-1.0, high=1.0, rows=rows, gained=0.0, lost=0.0)
    value, (z_low, z_high) = fmean(gaps), z
    gained, lost = sum(g for g in gaps if g > 0), -sum(g for g in gaps if g < 0)
    low, high = _graded_bound(gaps, -z_low), _graded_bound(gaps, z_high)
    low, high = max(-1.0, min(low, value)), min(1.0, max(high, value))
    return Difference(value=value, low=low, high=high, rows=rows, gained=gained, lost=lost)


def _graded_bound(gaps: Sequence[float], z: float) -> float:
    rows = len(gaps) + z * z
    mean = sum(gaps) / rows
    variance = (sum(g * g for g in gaps) + z * z) / rows - mean * mean
    jump = 0.5 * max(map(abs, gaps)) / rows  # continuity, as in `_tango`
    half = student(abs(z), len(gaps) - 1) * math.sqrt(max(0.0, variance) / rows) + jump
    return mean + math.copysign(half, z)


def student(z: float, freedom: int) -> float:
    """Student's quantile at the level of a normal one (Abramowitz and Stegun 26.7.5, four terms)."""
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    for _ in range(42):  # to 1e-12
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def verdict_on(change: Difference, tolerance: float) -> Outcome:
    """Failed: the loss is beyond the tolerance for sure. Passed: the interval lies within it. Else open."""
    if change.high < -tolerance:
        return "failed"
    return "passed" if change.low >= -tolerance else "undecided"


def rows_needed(
    change: Difference, tolerance: float, confidence: float = CONFIDENCE, z: Quantiles | None = None
) -> int:
    """How many rows more would decide, if they moved as these did. 0 where it is decided."""
    if verdict_on(change, tolerance) != "undecided":
        return 0

    def decided(rows: int) -> bool:
        grown = rows / max(1, change.rows)
        gained, lost = change.gained * grown, change.lost * grown
        return verdict_on(of_counts(gained, lost, rows, confidence, z), tolerance) != "undecided"

    rows = smallest(decided, change.rows, max(1, change.rows) * 2, MOST_ROWS)
    return MOST_ROWS if rows is None else rows - change.rows
