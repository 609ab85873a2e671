"""Fit the constants to published results: robust least squares on log errors, with priors.

Few constants, each shrunk to its parent: a family or stack with few rows stays near the base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log
from typing import Any

import numpy as np

from steelyard.hardware import Devices

from .cells import Models, Row
from .constants import GROUP_SD, PRIORS, Constants
from .results import Table, by_source, log_values, read_rows

NOISE = 0.2  # log sd of one published row about the model
SOURCE_WEIGHT_ROWS = 60  # a source counts like so many rows at most: one benchmark holds 1,668 of 2,286
HUBER = 1.5
STEPS = 25


def fit(rows: Sequence[Row], devices: Devices, models: Models, *, source: str = "") -> Constants:
    """Constants from measured rows, with the spread that left-out sources show.

    The interval is the 80 % quantile of absolute log errors when each source is predicted by constants
    fitted on the others, each source counting equally.
    """
    fitted = fit_logs(rows, devices, models)
    left_out = {k: v for k, v in leave_sources_out(rows, devices, models).items() if v}
    spreads = {phase: quantile(found, 0.8) for phase, found in left_out.items()}
    return Constants(
        logs=fitted,
        spreads=spreads,
        provenance="fitted",
        source=source,
        rows={phase: sum(map(len, found.values())) for phase, found in left_out.items()},
    )


def fit_logs(rows: Sequence[Row], devices: Devices, models: Models) -> dict[str, float]:
    """Logarithms of all constants, both phases."""
    truth = log_values(rows)
    tables, _ = read_rows([r for r in rows if r["id"] in truth], devices, models)
    weight = {
        r["id"]: min(1.0, SOURCE_WEIGHT_ROWS / len(kin)) ** 0.5
        for kin in by_source(rows).values()
        for r in kin
    }
    found: dict[str, float] = {}
    for table in tables.values():
        found |= _fit_table(table, truth, weight)
    return found


def leave_sources_out(
    rows: Sequence[Row], devices: Devices, models: Models
) -> dict[str, dict[str, np.ndarray]]:
    """Log errors of each source under constants fitted on all others: {phase: {source: errors}}."""
    truth, found = log_values(rows), {"train": {}, "serve": {}}  # type: ignore[var-annotated]
    for name, kin in by_source(rows).items():
        logs = fit_logs([r for r in rows if r.get("source") != name], devices, models)
        tables, _ = read_rows([r for r in kin if r["id"] in truth], devices, models)
        for phase, table in tables.items():
            values = np.log(table.predict(table.constants(logs)))
            found[phase][name] = values - np.array([truth[i] for i in table.ids])
    return found


def quantile(errors: Mapping[str, np.ndarray], share: float) -> float:
    """The weighted quantile of absolute errors, each source counting equally."""
    values = np.concatenate([np.abs(e) for e in errors.values()])
    weights = np.concatenate([np.full(len(e), 1 / len(e)) for e in errors.values()])
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][np.searchsorted(reached, share)])


def _fit_table(table: Table, truth: Mapping[str, float], weight: Mapping[str, float]) -> dict[str, float]:
    """Gauss-Newton with Huber weights; the Jacobian by differences, one constant at a time."""
    names, index = _names(table)
    start = np.array([log(PRIORS[n][0]) if n in PRIORS else 0.0 for n in names])
    sd = np.array([PRIORS[n][1] if n in PRIORS else GROUP_SD[n.split("@")[1].split(":")[0]] for n in names])
    y = np.array([truth[i] for i in table.ids])
    w = np.array([weight[i] for i in table.ids]) / NOISE

    def predict(theta: np.ndarray) -> np.ndarray:
        constant = {n: np.exp(theta[at].sum(axis=0)) for n, at in index.items()}
        return np.log(np.maximum(table.predict(constant), 1e-300))

    padded = np.append(start, 0.0)  # the last entry stands for "no such group"
    for _ in range(STEPS):
        now = predict(padded)
        error = (now - y) * w
        robust = w * np.sqrt(np.minimum(1.0, HUBER / np.maximum(np.abs(error), 1e-9)))
        jacobian = np.stack([_slope(predict, padded, now, i) for i in range(len(names))], axis=1)
        a = np.concatenate([jacobian * robust[:, None], np.diag(1 / sd)])
        b = np.concatenate([(y - now) * robust, (start - padded[:-1]) / sd])
        move = np.linalg.lstsq(a, b, rcond=None)[0]
        padded[:-1] += np.clip(move, -0.5, 0.5)
        if np.abs(move).max() < 1e-4:
            break
    return dict(zip(names, padded[:-1].tolist(), strict=True))


def _slope(predict: Any, theta: np.ndarray, now: np.ndarray, at: int) -> np.ndarray:
    moved = theta.copy()
    moved[at] += 1e-4
    return (predict(moved) - now) / 1e-4


def _names(table: Table) -> tuple[list[str], dict[str, np.ndarray]]:
    """All keys that the rows need, and for each constant the places of its parts: [parts, rows]."""
    bases = [n for n in PRIORS if n.startswith(table.phase)]
    keys = {n: [Constants.keys(n, g) for g in table.groups] for n in bases}
    names = sorted({key for rows in keys.values() for parts in rows for key in parts})
    at = {name: i for i, name in enumerate(names)}
    index = {}
    for n, rows in keys.items():
        deep = max(len(parts) for parts in rows)
        padded = [[*(at[k] for k in parts), *([-1] * (deep - len(parts)))] for parts in rows]
        index[n] = np.array(padded).T
    return names, index


def with_provenance(constants: Constants, provenance: str) -> Constants:
    """The same numbers under another origin."""
    return replace(constants, provenance=provenance)
