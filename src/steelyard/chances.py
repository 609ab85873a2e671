"""Chances: tails of counts and of the normal deviate, and several tests that share one error. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping


def at_least(count: int, of: int, share: float) -> float:
    """P(X >= count) of a binomial. Its tail is summed itself, so that tiny chances keep their digits."""
    if count <= 0 or share >= 1.0:
        return 1.0
    if count > of or share <= 0.0:
        return 0.0
    return min(1.0, math.fsum(_term(k, of, share) for k in range(count, of + 1)))


def at_most(count: int, of: int, share: float) -> float:
    """P(X <= count) of a binomial."""
    if count >= of or share <= 0.0:
        return 1.0
    if count < 0 or share >= 1.0:
        return 0.0
    return min(1.0, math.fsum(_term(k, of, share) for k in range(count + 1)))


def _term(k: int, of: int, share: float) -> float:
    """P(X = k), by logarithms."""
    ways = math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1)
    return math.exp(ways + k * math.log(share) + (of - k) * math.log1p(-share))


def normal_tail(z: float) -> float:
    """Chance that a normal deviate is larger than `z`."""
    return 0.5 * math.erfc(z / math.sqrt(2.0))


def two_sided(z: float) -> float:
    """Chance that a normal deviate lies further from 0 than `z`; 1 where `z` is not positive."""
    return 1.0 if z <= 0 else 2 * normal_tail(z)


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
