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
from .constants import DISTANCES, KNOWN, PRIORS, WIDER, Constants, prior
from .results import Table, by_source, log_values, read_rows, source_of

Known = Mapping[str, tuple[float, float]]  # see constants.KNOWN
NOISE = 0.2  # log sd of one published row about the model
SOURCE_WEIGHT_ROWS = 60  # a source counts like so many rows at most: one benchmark holds 1,668 of 2,286
LEVEL_SOURCES = 3  # that the spread of all left-out rows counts for beside those of one distance
COUNTED = (
    0.5  # a source of n rows counts as n^0.5 in a spread: its rows err alike, yet they are what is asked
)
HUBER = 1.5
STEPS = 40
ENOUGH = 1e-4  # of the misfit: a step that takes less of it is the last
HALVES = 6
DROPPED = ("@source", "@run")  # estimated beside the rest, and of no use to the next source
STEP = 1e-4  # of a logarithm, for slopes by differences


def fit(
    rows: Sequence[Row], devices: Devices, models: Models, *, source: str = "", beside: Sequence[Row] = ()
) -> Constants:
    """Constants from measured rows, with the spreads that left-out sources show.

    An interval is the 80 % quantile of absolute log errors when each source is predicted by constants
    fitted on the others and on `beside`: of rows whose device, stack and family were seen, of those whose
    device was not, whose stack, whose family.
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
    known: Known = KNOWN,
) -> list[LeftOut]:
    """Each group of rows (by default each source) under constants fitted on all others and on `beside`.

    With `intervals` a group's are as one gets them who never saw it: the spreads of its left-out others,
    each under constants without both. That takes a fit for each pair of groups.
    `known`: deviations known before any row; {} asks what is left without those that were set by hand.
    """
    errors_by_part = []
    for phase, part in _published(rows, devices, models, beside, group, known).items():
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
    known: Known
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
                _fit_table(taken(self.table, use), self.truth[use], self.weight[use], near, self.known)
                if use.any()
                else {}
            )
        return {n: v for n, v in self.fits[out].items() if not n.split(":")[0].endswith(DROPPED)}

    def without(self, out: frozenset[str], intervals: bool = True) -> Constants:
        """Constants fitted without the groups `out`, with the spreads that the other groups show."""
        constants = Constants(logs=self.logs(out), known=self.known)
        rest = sorted(set(self.own.tolist()) - out) if intervals else []
        left_out = []
        for name in rest:
            less = Constants(logs=self.logs(out | {name}), known=self.known)
            kin = [g for g, n in zip(self.table.groups, self.names, strict=True) if n == name]
            distances = np.array([less.distance(self.table.phase, g) for g in kin])
            families = np.array([g["family"] for g in kin])
            left_out.append(_LeftOut(name, self.errors(less, name), distances, families))
        return replace(constants, spreads=_spreads(self.table.phase, left_out))

    def errors(self, constants: Constants, name: str) -> np.ndarray:
        """Log of predicted over measured of one group's rows."""
        at = self.names == name
        table = taken(self.table, at)
        return np.log(table.predict(table.constants(constants))) - self.truth[at]


def _published(
    rows: Sequence[Row],
    devices: Devices,
    models: Models,
    beside: Sequence[Row] = (),
    group: Callable[[Row], str] | None = None,
    known: Known = KNOWN,
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
            known,
        )
        for phase, table in tables.items()
        if phase != "memory"  # there is no constant in it
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
    distances: np.ndarray  # places in DISTANCES
    families: np.ndarray


def _spreads(phase: str, left_out: Sequence[_LeftOut]) -> dict[str, float]:
    """The 80 % quantile of each distance that has rows; none is below that of a nearer one.

    Few sources tell little of one distance, so its logarithm is drawn to that of all together. What is new
    in stack and device, or in its family, is wider by WIDER: those left out happen to be well known ones.
    """
    spreads: dict[str, float] = {}
    wide = near = 0.0
    together = quantile({g.name: g.errors for g in left_out}, 0.8, COUNTED) if left_out else 0.0
    for distance, suffix in enumerate(DISTANCES):
        errors = {g.name: g.errors[g.distances == distance] for g in left_out}
        errors = {name: each for name, each in errors.items() if len(each)}
        if errors:
            own = len(errors) / (len(errors) + LEVEL_SOURCES)
            least = max(wide, WIDER * near) if suffix in (":both", ":family") else wide
            wide = max(least, quantile(errors, 0.8, COUNTED) ** own * together ** (1.0 - own))
            spreads[phase + suffix] = wide
            near = near if suffix in (":both", ":family") else wide
    return spreads | _of_families(phase, left_out, spreads)


def _of_families(phase: str, left_out: Sequence[_LeftOut], spreads: Mapping[str, float]) -> dict[str, float]:
    """How many times as wide rows of a device family lie, where that is wider: {"serve@amd": 1.9}.

    Drawn to 1 as a distance's spread is to that of all.
    """
    by_family = {}
    for family in sorted({f for g in left_out for f in g.families.tolist()}):
        shares = {}
        for g in left_out:
            at = g.families == family
            if at.any():
                half = np.array([spreads[phase + DISTANCES[i]] for i in g.distances[at]])
                shares[g.name] = g.errors[at] / half
        wider = quantile(shares, 0.8, COUNTED) ** (len(shares) / (len(shares) + LEVEL_SOURCES))
        if wider > 1:
            by_family[f"{phase}@{family}"] = wider
    return by_family


def quantile(errors: Mapping[str, np.ndarray], share: float, counted: float = 0.0) -> float:
    """The weighted quantile of absolute errors: a source of n rows counts n^counted times."""
    values = np.concatenate([np.abs(e) for e in errors.values()])
    weights = np.concatenate([np.full(len(e), len(e) ** (counted - 1.0)) for e in errors.values()])
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][np.searchsorted(reached, share)])


def _fit_table(
    table: Table, truth: np.ndarray, weight: np.ndarray, near: Mapping[str, float], known: Known
) -> dict[str, float]:
    """Robust least squares with priors, begun from constants `near` by.

    What a source or one run of a campaign does differently is estimated beside, to be dropped.
    """
    names, index = _names(table)
    start, sd = np.array([prior(n, known) for n in names]).T
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

    `index` holds for each constant the places of its moves: [parts, rows], -1 = none. A step that makes the
    whole worse is halved: from one corner of the model to the next full steps go to and fro for ever.
    """

    def constant(moves: np.ndarray) -> dict[str, np.ndarray]:
        padded = np.append(moves, 0.0)
        return base | {n: base[n] * np.exp(padded[at].sum(axis=0)) for n, at in index.items()}

    def misfit(moves: np.ndarray) -> float:
        off = np.abs((_logs(table, constant(moves)) - truth) * weight)
        huber = np.where(off < HUBER, off**2 / 2, HUBER * off - HUBER**2 / 2)
        return float(huber.sum() + ((moves / sd) ** 2).sum() / 2)

    blocks = _blocks(table, np.concatenate(list(index.values())), len(theta))
    least = misfit(theta)
    for _ in range(STEPS):
        now, slopes = _linear(table, constant(theta), index)
        error = (now - truth) * weight
        robust = weight * np.sqrt(np.minimum(1.0, HUBER / np.maximum(np.abs(error), 1e-9)))
        move = _move(blocks, slopes * robust, (truth - now) * robust, theta, sd)
        move *= min(1.0, 1.0 / np.abs(move).max())
        for _ in range(HALVES):
            if (after := misfit(theta + move)) < least:
                break
            move /= 2
        else:
            break
        theta, gained, least = theta + move, least - after, after
        if gained < ENOUGH * least:
            break
    return theta


@dataclass(frozen=True, slots=True)
class _Block:
    """Rows of one source or run: they share their keys."""

    rows: np.ndarray
    keys: np.ndarray  # that any of the rows has, sorted
    at: np.ndarray  # [parts, rows], place among the keys; len(keys) = no such group
    own: np.ndarray  # [keys], True where no other block has the key


def _blocks(table: Table, places: np.ndarray, count: int) -> list[_Block]:
    """The rows of `table` by source or run, with the keys [parts, rows] of each."""
    kin: dict[str, list[int]] = {}
    for place, group in enumerate(table.groups):
        kin.setdefault(group.get("source") or group.get("run", ""), []).append(place)
    rows = [np.array(each) for each in kin.values()]
    where = np.where(places < 0, count, places)
    keys = [np.unique(where[:, each]) for each in rows]
    keys = [each[each < count] for each in keys]
    shared = np.bincount(np.concatenate(keys), minlength=count) > 1
    return [
        _Block(each, has, np.searchsorted(has, where[:, each]), ~shared[has])
        for each, has in zip(rows, keys, strict=True)
    ]


def _move(
    blocks: Sequence[_Block], slopes: np.ndarray, error: np.ndarray, theta: np.ndarray, sd: np.ndarray
) -> np.ndarray:
    """The solution of (J'J + 1/sd^2) move = J'error - theta/sd^2, J by its parts `slopes` [parts, rows].

    Keys of one block alone are eliminated within it (Schur's complement): most keys belong to one source or
    run, and what is left is small.
    """
    own_keys = np.concatenate([block.keys[block.own] for block in blocks])
    left = np.setdiff1d(np.arange(len(theta)), own_keys)
    among = np.zeros(len(theta), int)
    among[left] = np.arange(len(left))
    a, b = np.diag(1 / sd[left] ** 2), -theta[left] / sd[left] ** 2
    solved = []
    for block in blocks:
        normal, wanted = _normal(block, slopes, error)
        own, shared = block.own, ~block.own
        inner = normal[np.ix_(own, own)] + np.diag(1 / sd[block.keys[own]] ** 2)
        wanted[own] -= theta[block.keys[own]] / sd[block.keys[own]] ** 2
        across = normal[np.ix_(own, shared)]
        gain = np.linalg.solve(inner, np.column_stack([across, wanted[own]]))
        at = among[block.keys[shared]]
        a[np.ix_(at, at)] += normal[np.ix_(shared, shared)] - across.T @ gain[:, :-1]
        b[at] += wanted[shared] - across.T @ gain[:, -1]
        solved.append((block.keys[own], at, gain))
    move = np.zeros(len(theta))
    rest = np.linalg.solve(a, b)
    move[left] = rest
    for keys, at, gain in solved:
        move[keys] = gain[:, -1] - gain[:, :-1] @ rest[at]
    return move


def _normal(block: _Block, slopes: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """J'J [keys, keys] and J'e [keys] of one block: a row moves by some tens of all the keys."""
    jacobian = np.zeros((len(block.rows), len(block.keys) + 1))
    for part, columns in zip(slopes[:, block.rows], block.at, strict=True):
        jacobian[np.arange(len(block.rows)), columns] += part
    jacobian = jacobian[:, :-1]  # the last stands for "no such group"
    return jacobian.T @ jacobian, jacobian.T @ error[block.rows]


def _linear(
    table: Table, constant: dict[str, np.ndarray], index: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Log predictions [rows] and their slopes by each part of each constant [parts, rows].

    One difference a constant serves all its groups: a row's key moves it exactly as its constant does.
    """
    now = _logs(table, constant)
    slopes = []
    for name, at in index.items():
        moved = constant | {name: constant[name] * np.exp(STEP)}
        slope = (_logs(table, moved) - now) / STEP
        slopes += [slope] * len(at)
    return now, np.array(slopes)


def _logs(table: Table, constant: dict[str, np.ndarray]) -> np.ndarray:
    """Log predictions [rows]."""
    return np.log(np.maximum(table.predict(constant), 1e-300))


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
