"""Fit the constants to published results: robust least squares on log errors, with priors.

Few constants, each shrunk to its parent: a family or stack with few rows stays near the base.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from steelyard.hardware import Devices

from .cells import Models, Row
from .constants import NO_FAMILY, PRIORS, WIDER, Constants, prior
from .results import Table, by_source, log_values, read_rows, source_of

NOISE = 0.2  # log sd of one published row about the model
SOURCE_WEIGHT_ROWS = 60  # a source counts like so many rows at most: one benchmark holds 1,668 of 2,286
LEVELS = ("", ":stack", ":family")
LEVEL_SOURCES = 3  # that the spread of all left-out rows counts for beside those of one level
HUBER = 1.5
STEPS = 25
DROPPED = ("@source", "@run")  # estimated beside the rest, and of no use to the next source
STEP = 1e-4  # of a logarithm, for slopes by differences


def fit(
    rows: Sequence[Row], devices: Devices, models: Models, *, source: str = "", beside: Sequence[Row] = ()
) -> Constants:
    """Constants from measured rows, with the spreads that left-out sources show.

    An interval is the 80 % quantile of absolute log errors when each source is predicted by constants
    fitted on the others and on `beside`, each source counting equally: of rows whose stack and family
    were seen, of those whose stack was not, of those whose family was not.
    """
    published = _published(rows, devices, models, beside)
    logs: dict[str, float] = {}
    spreads: dict[str, float] = {}
    counted = {}
    for phase in sorted(published):
        constants = published[phase].without(frozenset())
        logs, spreads = logs | dict(constants.logs), spreads | dict(constants.spreads)
        counted[phase] = len(published[phase].own)
    return Constants(logs=logs, spreads=spreads, provenance="fitted", source=source, rows=counted)


def fit_logs(rows: Sequence[Row], devices: Devices, models: Models) -> dict[str, float]:
    """Logarithms of all constants, both phases."""
    logs_fitted: dict[str, float] = {}
    for part in _published(rows, devices, models).values():
        logs_fitted |= part.logs(frozenset())
    return logs_fitted


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Rows of one phase and one group, predicted by constants that were fitted without the group."""

    phase: str
    group: str
    ids: list[str]
    errors: np.ndarray  # log of predicted over measured
    wide: np.ndarray  # half width of the 80 % interval in logs, by spreads without the group; nan: not asked


def leave_out(
    rows: Sequence[Row],
    devices: Devices,
    models: Models,
    *,
    beside: Sequence[Row] = (),
    group: Callable[[Row], str] | None = None,
    intervals: bool = True,
) -> list[LeftOut]:
    """Each group of rows (by default each source) under constants fitted on all others and on `beside`.

    With `intervals` a group's are as one gets them who never saw it: the spreads of its left-out others,
    each under constants without both. That takes a fit for each pair of groups.
    """
    errors_by_part = []
    for phase, part in _published(rows, devices, models, beside, group).items():
        for name in sorted(set(part.own.tolist())):
            constants = part.without(frozenset([name]), intervals)
            table = taken(part.table, part.names == name)
            wide = [constants.spread(phase, g) if intervals else np.nan for g in table.groups]
            errors = part.errors(constants, name)
            errors_by_part.append(
                LeftOut(phase=phase, group=name, ids=table.ids, errors=errors, wide=np.array(wide))
            )
    return errors_by_part


@dataclass(frozen=True, slots=True)
class _Published:
    """Measured rows of one phase, read once; what is fitted without some of their groups is kept."""

    table: Table
    names: np.ndarray  # the group of each row, "" of rows that are never left out
    truth: np.ndarray  # log of the measured value
    weight: np.ndarray
    fits: dict[frozenset[str], dict[str, float]] = field(default_factory=dict)  # with what is dropped

    @property
    def own(self) -> np.ndarray:
        """Groups of the rows that may be left out."""
        return self.names[self.names != ""]

    def logs(self, out: frozenset[str]) -> dict[str, float]:
        """Constants fitted without the groups `out`."""
        if out not in self.fits:
            use = ~np.isin(self.names, sorted(out))
            near = self.fits.get(frozenset(), {})
            self.fits[out] = (
                _fit_table(taken(self.table, use), self.truth[use], self.weight[use], near)
                if use.any()
                else {}
            )
        return {n: v for n, v in self.fits[out].items() if not n.split(":")[0].endswith(DROPPED)}

    def without(self, out: frozenset[str], intervals: bool = True) -> Constants:
        """Constants fitted without the groups `out`, with the spreads that the other groups show."""
        constants = Constants(logs=self.logs(out))
        rest = sorted(set(self.own.tolist()) - out) if intervals else []
        left_out = []
        for name in rest:
            less = Constants(logs=self.logs(out | {name}))
            kin = [g for g, n in zip(self.table.groups, self.names, strict=True) if n == name]
            levels = np.array([less.unseen(self.table.phase, g) for g in kin])
            families = np.array([g["family"] for g in kin])
            left_out.append(_LeftOut(name, self.errors(less, name), levels, families))
        return replace(constants, spreads=_spreads(self.table.phase, left_out))

    def errors(self, constants: Constants, name: str) -> np.ndarray:
        """Log of predicted over measured of one group's rows."""
        at = self.names == name
        table = taken(self.table, at)
        return np.log(table.predict(table.constants(constants.logs))) - self.truth[at]


def _published(
    rows: Sequence[Row],
    devices: Devices,
    models: Models,
    beside: Sequence[Row] = (),
    group: Callable[[Row], str] | None = None,
) -> dict[str, _Published]:
    """The measured rows that can be predicted, by phase."""
    everything = [*rows, *beside]
    truth, name_of = log_values(everything), group or source_of
    names = {r["id"]: "" for r in beside} | {r["id"]: name_of(r) or "?" for r in rows}
    tables, _ = read_rows([r for r in everything if r["id"] in truth], devices, models)
    weight = {
        r["id"]: min(1.0, SOURCE_WEIGHT_ROWS / len(kin)) ** 0.5
        for kin in by_source(everything).values()
        for r in kin
    }
    return {
        phase: _Published(
            table,
            np.array([names[i] for i in table.ids]),
            np.array([truth[i] for i in table.ids]),
            np.array([weight[i] for i in table.ids]),
        )
        for phase, table in tables.items()
    }


def taken(table: Table, which: np.ndarray) -> Table:
    """The rows of a table where `which` holds."""
    places = np.flatnonzero(which)

    def cut(part: Any) -> Any:
        columns = {n: getattr(part, n) for n in part.__slots__}
        return type(part)(**{n: v[places] if np.ndim(v) else v for n, v in columns.items()})

    return replace(
        table,
        ids=[table.ids[i] for i in places],
        groups=[table.groups[i] for i in places],
        metrics=table.metrics[places],
        sizes=cut(table.sizes),
        hardware=cut(table.hardware),
        setup=cut(table.setup),
        extra={n: v[places] for n, v in table.extra.items()},
    )


@dataclass(frozen=True, slots=True)
class _LeftOut:
    """Rows of one group under constants without it; arrays are [rows]."""

    name: str
    errors: np.ndarray  # logarithms
    levels: np.ndarray  # of ignorance, see Constants.unseen
    families: np.ndarray


def _spreads(phase: str, left_out: Sequence[_LeftOut]) -> dict[str, float]:
    """The 80 % quantile of each level of ignorance that has rows; a level is never below the one before.

    Few sources tell little of a level, so its logarithm is drawn to that of all levels together. Families
    that were left out happen to be well known ones, so a new one is wider than a new stack by WIDER.
    """
    spreads: dict[str, float] = {}
    wide = 0.0
    together = quantile({g.name: g.errors for g in left_out}, 0.8) if left_out else 0.0
    for level, suffix in enumerate(LEVELS):
        errors = {g.name: g.errors[g.levels == level] for g in left_out if (g.levels == level).any()}
        if errors:
            own = len(errors) / (len(errors) + LEVEL_SOURCES)
            least = wide * (WIDER if level == NO_FAMILY else 1.0)
            wide = max(least, quantile(errors, 0.8) ** own * together ** (1.0 - own))
            spreads[phase + suffix] = wide
    return spreads | _of_families(phase, left_out, spreads)


def _of_families(phase: str, left_out: Sequence[_LeftOut], spreads: Mapping[str, float]) -> dict[str, float]:
    """How many times as wide rows of a device family lie, where that is wider: {"serve@amd": 1.9}.

    Drawn to 1 as a level's spread is to that of all.
    """
    by_family = {}
    for family in sorted({f for g in left_out for f in g.families.tolist()}):
        shares = {}
        for g in left_out:
            at = g.families == family
            if at.any():
                half = np.array([spreads[phase + LEVELS[i]] for i in g.levels[at]])
                shares[g.name] = g.errors[at] / half
        wider = quantile(shares, 0.8) ** (len(shares) / (len(shares) + LEVEL_SOURCES))
        if wider > 1:
            by_family[f"{phase}@{family}"] = wider
    return by_family


def quantile(errors: Mapping[str, np.ndarray], share: float) -> float:
    """The weighted quantile of absolute errors, each source counting equally."""
    values = np.concatenate([np.abs(e) for e in errors.values()])
    weights = np.concatenate([np.full(len(e), 1 / len(e)) for e in errors.values()])
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][np.searchsorted(reached, share)])


def _fit_table(
    table: Table, truth: np.ndarray, weight: np.ndarray, near: Mapping[str, float]
) -> dict[str, float]:
    """Robust least squares with priors, begun from constants `near` by.

    What a source or one run of a campaign does differently is estimated beside, to be dropped.
    """
    names, index = _names(table)
    start, sd = np.array([prior(n) for n in names]).T
    padded = np.append(start, 0.0)  # the last entry stands for "no such group"
    base = {n: np.exp(padded[at].sum(axis=0)) for n, at in index.items()}
    begun = np.array([near.get(n, s) for n, s in zip(names, start.tolist(), strict=True)]) - start
    fitted = start + descend(table, base, index, begun, sd, truth, weight / NOISE)
    return dict(zip(names, fitted.tolist(), strict=True))


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
    places = np.concatenate(list(index.values()))
    blocks = _blocks(table)
    for _ in range(STEPS):
        padded = np.append(theta, 0.0)
        constant = base | {n: base[n] * np.exp(padded[at].sum(axis=0)) for n, at in index.items()}
        now, slopes = _linear(table, constant, index)
        error = (now - truth) * weight
        robust = weight * np.sqrt(np.minimum(1.0, HUBER / np.maximum(np.abs(error), 1e-9)))
        a, b = _normal(places, slopes * robust, (truth - now) * robust, blocks, len(theta))
        move = np.linalg.solve(a + np.diag(1 / sd**2), b - theta / sd**2)
        theta = theta + np.clip(move, -0.5, 0.5)
        if np.abs(move).max() < 1e-3:
            break
    return theta


def _blocks(table: Table) -> list[np.ndarray]:
    """Places of the rows of each source or run: they share their keys."""
    blocks: dict[str, list[int]] = {}
    for place, kin in enumerate(table.groups):
        blocks.setdefault(kin.get("source") or kin.get("run", ""), []).append(place)
    return [np.array(places) for places in blocks.values()]


def _normal(
    places: np.ndarray, slopes: np.ndarray, error: np.ndarray, blocks: list[np.ndarray], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """J'J [count, count] and J'e [count], block by block: a row moves by some tens of all the keys.

    places, slopes: [parts, rows], the key of each part and the row's slope by it.
    """
    a, b = np.zeros((count + 1, count + 1)), np.zeros(count + 1)
    for rows in blocks:
        keys, at = np.unique(places[:, rows], return_inverse=True)
        jacobian = np.zeros((len(rows), len(keys)))
        for part, columns in zip(slopes[:, rows], at.reshape(len(places), -1), strict=True):
            jacobian[np.arange(len(rows)), columns] += part
        a[np.ix_(keys, keys)] += jacobian.T @ jacobian  # key -1, "no such group", is the last
        b[keys] += jacobian.T @ error[rows]
    return a[:-1, :-1], b[:-1]


def _linear(
    table: Table, constant: dict[str, np.ndarray], index: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Log predictions [rows] and their slopes by each part of each constant [parts, rows].

    One difference a constant serves all its groups: a row's key moves it exactly as its constant does.
    """
    now = np.log(np.maximum(table.predict(constant), 1e-300))
    slopes = []
    for name, at in index.items():
        moved = constant | {name: constant[name] * np.exp(STEP)}
        slope = (np.log(np.maximum(table.predict(moved), 1e-300)) - now) / STEP
        slopes += [slope] * len(at)
    return now, np.array(slopes)


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
