"""Chances: tails of counts, and several tests that share one error. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist


def two_sided(z: float) -> float:
    """Chance that a normal deviate lies further from 0 than `z`; 1 where `z` is not positive."""
    return 1.0 if z <= 0 else 2 * (1 - NormalDist().cdf(z))


def binomial_tail(count: int, n: int, p: float, *, below: bool) -> float:
    """Chance of `count` or fewer (`below`), or of `count` or more, among `n` at `p` each."""
    if not 0 < p < 1:
        return 1.0
    counts = range(count + 1) if below else range(count, n + 1)
    return min(1.0, sum(math.exp(_log_term(k, n, p)) for k in counts))


def _log_term(k: int, n: int, p: float) -> float:
    choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return choose + k * math.log(p) + (n - k) * math.log1p(-p)


def holm(p: Mapping[str, float], alpha: float) -> set[str]:
    """Names of the hypotheses to reject, with a chance of at most `alpha` that any of them is true.

    Holm 1979: the smallest p-value is held to alpha / m, the next to alpha / (m - 1), until one is larger.
    """
    rejected: set[str] = set()
    for place, name in enumerate(sorted(p, key=lambda n: p[n])):
        if p[name] > alpha / (len(p) - place):
            break
        rejected.add(name)
    return rejected
