"""What calibration rows teach about this machine: seconds and bytes per unit of physical work.

A fit has one coefficient a physical term (GEMM operations, bytes moved, layers launched), never negative,
pulled towards what the machine's own FP32 GEMM and memory rates suggest; few rows suffice, and sizes that
no row had are reached by physics rather than by a table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Row = Mapping[str, Any]
Terms = dict[str, float]
ROW_SD = 0.03  # relative spread of one calibration row
OUTLIER = 3.0  # spreads from which on a row counts less: other programs interrupt some measurements
ROUNDS = 8  # of reweighting (Huber 1964)
PRIOR_SD = 0.7  # relative spread of a coefficient about its prior
SURE_SD = 0.03  # where it is counted, not estimated: bytes of weights, of an optimiser's state


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Coefficients by term; `error` is the mean relative error on the rows they come from."""

    of: Mapping[str, float]
    rows: int
    error: float

    def cost(self, terms: Terms) -> dict[str, float]:
        """Each term's share; their sum is the prediction."""
        return {name: amount * self.of.get(name, 0.0) for name, amount in terms.items()}

    def total(self, terms: Terms) -> float:
        """The prediction."""
        return sum(self.cost(terms).values())

    @property
    def provenance(self) -> str:
        return "calibrated" if self.rows else "modelled"


def fit_rates(
    rows: Sequence[Row],
    terms: Callable[[Row], Terms],
    priors: Terms,
    value: str = "s",
    sure: Collection[str] = (),
) -> Rates:
    """Non-negative, robust ridge regression of `value` on the terms, in relative errors.

    Priors are the coefficients expected before any row, with no rows they stand as they are; few rows move
    those that are `sure` by little: what they cannot tell apart is then no fault of what is counted.
    """
    usable = [row for row in rows if row.get(value, 0) > 0]
    names = list(priors)
    prior = np.array([priors[n] for n in names])
    if not usable:
        return Rates(of=dict(priors), rows=0, error=0.3)
    y = np.array([float(row[value]) for row in usable])
    x = np.array([[t.get(n, 0.0) for n in names] for t in map(terms, usable)])
    # Unknowns are multiples of the priors, so that the pull is relative too.
    relative = x * prior / y[:, None] / ROW_SD
    pull = np.diag([1 / (SURE_SD if n in sure else PRIOR_SD) for n in names])
    weight, scale = np.ones(len(y)), np.ones(len(names))
    for _ in range(ROUNDS):
        a = np.vstack([relative * weight[:, None], pull])
        b = np.concatenate([weight / ROW_SD, np.diag(pull)])
        scale = nonnegative(a, b)
        off = np.abs(relative @ scale - 1 / ROW_SD)
        weight = np.sqrt(np.minimum(1.0, OUTLIER / np.maximum(off, 1e-9)))
    error = float(np.mean(np.abs(x @ (prior * scale) / y - 1)))
    return Rates(of=dict(zip(names, (prior * scale).tolist(), strict=True)), rows=len(usable), error=error)


def nonnegative(a: np.ndarray, b: np.ndarray, rounds: int = 2000) -> np.ndarray:
    """x >= 0 that minimises |a x - b|: coordinate descent on the normal equations (Franc et al. 2005)."""
    h, f = a.T @ a, a.T @ b
    x = np.maximum(0.0, np.linalg.lstsq(a, b, rcond=None)[0])
    for _ in range(rounds):
        before = x.copy()
        for i in range(len(x)):
            x[i] = max(0.0, x[i] - (h[i] @ x - f[i]) / h[i, i])
        if np.abs(x - before).max() < 1e-9:
            break
    return x


def line(rows: Sequence[Row], at: Callable[[Row], float], value: str, default: tuple[float, float]) -> Rates:
    """value = start + each * amount, with a default for (start, each)."""
    return fit_rates(
        rows, lambda r: {"start": 1.0, "each": at(r)}, {"start": default[0], "each": default[1]}, value
    )
