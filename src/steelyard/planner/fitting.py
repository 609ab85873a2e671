"""Fit the constants to published results: robust least squares on log errors, with priors.

Few constants, each shrunk to its parent: a family or stack with few rows stays near the base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from steelyard.hardware import Devices

from .cells import Models, Row
from .constants import PRIORS, Constants, prior
from .results import Table, by_source, log_values, read_rows

NOISE = 0.2  # log sd of one published row about the model
SOURCE_WEIGHT_ROWS = 60  # a source counts like so many rows at most: one benchmark holds 1,668 of 2,286
HUBER = 1.5
STEPS = 25
STEP = 1e-4  # of a logarithm, for slopes by differences


def fit(
    rows: Sequence[Row], devices: Devices, models: Models, *, source: str = "", beside: Sequence[Row] = ()
) -> Constants:
    """Constants from measured rows, with the spreads that left-out sources show.

    An interval is the 80 % quantile of absolute log errors when each source is predicted by constants
    fitted on the others and on `beside`, each source counting equally: of rows whose stack and family
    were seen, of those whose stack was not, of those whose family was not.
    """
    fitted = fit_logs([*rows, *beside], devices, models)
    left_out = _left_out(rows, devices, models, beside)
    phases = sorted({phase for phase, *_ in left_out})
    return Constants(
        logs=fitted,
        spreads={level: wide for phase in phases for level, wide in _spreads(phase, left_out).items()},
        provenance="fitted",
        source=source,
        rows={phase: sum(len(e) for p, _, e, _ in left_out if p == phase) for phase in phases},
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
    rows: Sequence[Row], devices: Devices, models: Models, beside: Sequence[Row] = ()
) -> dict[str, dict[str, np.ndarray]]:
    """Log errors of each source under constants fitted on all others: {phase: {source: errors}}."""
    found: dict[str, dict[str, np.ndarray]] = {"train": {}, "serve": {}}
    for phase, name, errors, _ in _left_out(rows, devices, models, beside):
        found[phase][name] = errors
    return found


LeftOut = list[tuple[str, str, np.ndarray, np.ndarray]]  # phase, source, log errors, levels of ignorance


def _left_out(rows: Sequence[Row], devices: Devices, models: Models, beside: Sequence[Row]) -> LeftOut:
    truth, found = log_values(rows), []
    for name, kin in by_source(rows).items():
        rest = [r for r in rows if (r.get("source") or "") != name]
        known = Constants(logs=fit_logs([*rest, *beside], devices, models))
        tables, _ = read_rows([r for r in kin if r["id"] in truth], devices, models)
        for phase, table in tables.items():
            errors = np.log(table.predict(table.constants(known.logs)))
            errors = errors - np.array([truth[i] for i in table.ids])
            found.append((phase, name, errors, np.array([known.unseen(phase, g) for g in table.groups])))
    return found


def _spreads(phase: str, left_out: LeftOut) -> dict[str, float]:
    """The 80 % quantile of each level of ignorance that has rows; a level is never below the one before."""
    found, wide = {}, 0.0
    for level, suffix in enumerate(("", ":stack", ":family")):
        errors = {n: e[at == level] for p, n, e, at in left_out if p == phase and (at == level).any()}
        if errors:
            wide = max(wide, quantile(errors, 0.8))
            found[phase + suffix] = wide
    return found


def quantile(errors: Mapping[str, np.ndarray], share: float) -> float:
    """The weighted quantile of absolute errors, each source counting equally."""
    values = np.concatenate([np.abs(e) for e in errors.values()])
    weights = np.concatenate([np.full(len(e), 1 / len(e)) for e in errors.values()])
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][np.searchsorted(reached, share)])


def _fit_table(table: Table, truth: Mapping[str, float], weight: Mapping[str, float]) -> dict[str, float]:
    """Robust least squares with priors; what a source does differently is estimated beside and dropped."""
    names, index = _names(table)
    start, sd = np.array([prior(n) for n in names]).T
    padded = np.append(start, 0.0)  # the last entry stands for "no such group"
    base = {n: np.exp(padded[at].sum(axis=0)) for n, at in index.items()}
    y = np.array([truth[i] for i in table.ids])
    w = np.array([weight[i] for i in table.ids]) / NOISE
    found = start + descend(table, base, index, np.zeros(len(names)), sd, y, w)
    return {n: v for n, v in zip(names, found.tolist(), strict=True) if "@source:" not in n}


def descend(
    table: Table,
    base: dict[str, np.ndarray],
    index: Mapping[str, np.ndarray],
    theta: np.ndarray,
    sd: np.ndarray,
    truth: np.ndarray,
    weight: np.ndarray,
) -> np.ndarray:
    """Gauss-Newton with Huber weights and priors N(0, sd) of logarithmic moves of `base`.

    `index` holds for each constant the places of its moves: [parts, rows], -1 = none.
    """
    for _ in range(STEPS):
        padded = np.append(theta, 0.0)
        constant = base | {n: base[n] * np.exp(padded[at].sum(axis=0)) for n, at in index.items()}
        now, jacobian = _linear(table, constant, index, len(theta))
        error = (now - truth) * weight
        robust = weight * np.sqrt(np.minimum(1.0, HUBER / np.maximum(np.abs(error), 1e-9)))
        scaled = jacobian * robust[:, None]
        a = scaled.T @ scaled + np.diag(1 / sd**2)
        move = np.linalg.solve(a, scaled.T @ ((truth - now) * robust) - theta / sd**2)
        theta = theta + np.clip(move, -0.5, 0.5)
        if np.abs(move).max() < 1e-3:
            break
    return theta


def _linear(
    table: Table, constant: dict[str, np.ndarray], index: Mapping[str, np.ndarray], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Log predictions and their slope by each key.

    One difference a constant serves all its groups: a row's key moves it exactly as its constant does.
    """
    now = np.log(np.maximum(table.predict(constant), 1e-300))
    jacobian = np.zeros((len(now), count + 1))
    rows = np.arange(len(now))
    for name, at in index.items():
        moved = constant | {name: constant[name] * np.exp(STEP)}
        slope = (np.log(np.maximum(table.predict(moved), 1e-300)) - now) / STEP
        for places in at:
            jacobian[rows, places] += slope
    return now, jacobian[:, :-1]


def _names(table: Table) -> tuple[list[str], dict[str, np.ndarray]]:
    """All keys that the rows need, and for each constant the places of its parts: [parts, rows]."""
    bases = [n for n in PRIORS if n.startswith(table.phase)]
    kin = [{k: v for k, v in g.items() if k != "own"} for g in table.groups]
    keys = {n: [Constants.keys(n, g) for g in kin] for n in bases}
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
