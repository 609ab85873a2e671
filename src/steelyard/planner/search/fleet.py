"""Steps of a job placed on different hardware: exact, by dynamic programming over steps and pools.

A pool is hardware of one kind at one site. A chain of steps is placed so that money (or energy) is least
within the limits; what one step leaves is carried to the next one's pool, at a time and a price. For each
pool the labels (time, cost, weight) that no other beats are kept: with limits on both time and cost the best
whole may begin with a dearer, faster part (Hansen 1980, bicriterion paths; Bellman 1957 without limits).

Not here: how long a step takes on a pool (stages.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..job.cost import EGRESS_USD_PER_BYTE, WAN_BYTES_PER_S

LAN_BYTES_PER_S = 1.25e9  # 10 Gb/s between hosts of one site, as most cloud machines have at least
PROVISION_S = 90.0  # until a rented machine answers; modelled
TIME, COST, WEIGHT = 0, 1, 2
CHUNK = 256  # labels compared with all before them at once
SAME = 1e-12  # relative: sums in another order differ by so much


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Hardware of one kind at one site. `usd_per_h` of one device pays while a machine starts.

    `weight_per_usd` is 1 where money decides, 0 where energy does.
    """

    name: str
    site: str  # a provider, or "own"
    usd_per_h: float = 0.0
    weight_per_usd: float = 1.0

    @property
    def own(self) -> bool:
        """Whether it stands at the user's: it needs no start and sends for nothing."""
        return self.site == "own"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One way to do a step on a pool. `weight` decides: dollars or kWh, with what the choice should weigh."""

    pool: int
    devices: int
    time_s: float
    cost_usd: float
    weight: float
    figures: Mapping[str, Any] = field(default_factory=dict)
    why_not: str | None = None  # where it misses a limit of its own
    shortfalls: Mapping[str, float] = field(default_factory=dict)  # by which factors


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A step with its ways, and the bytes it leaves to the next."""

    name: str
    options: tuple[Option, ...]
    bytes_out: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A way for each stage; `transfers` are seconds and dollars before each stage."""

    options: tuple[Option, ...]
    transfers: tuple[tuple[float, float], ...]
    time_s: float
    cost_usd: float
    weight: float
    within: bool  # the limits


def transfer(moved_bytes: float, source: Pool, target: Pool) -> tuple[float, float]:
    """Seconds and dollars to hand over to another pool; a rented one must start first."""
    if (source.name, source.site) == (target.name, target.site):
        return 0.0, 0.0
    start = 0.0 if target.own else PROVISION_S
    apart = source.site != target.site
    seconds = start + moved_bytes / (WAN_BYTES_PER_S if apart else LAN_BYTES_PER_S)
    egress = moved_bytes * EGRESS_USD_PER_BYTE if apart and not source.own else 0.0
    return seconds, egress + start * target.usd_per_h / 3600


def place(
    stages: Sequence[Stage],
    pools: Sequence[Pool],
    deadline_s: float | None = None,
    budget_usd: float | None = None,
) -> Placement | None:
    """The placement of least weight within the limits; where none is, the one that breaks them least."""
    placed = _forward(stages, pools, _axes(deadline_s, budget_usd))
    return _taken(placed, stages, pools, deadline_s, budget_usd)


def anchored(
    stages: Sequence[Stage],
    at: int,
    pools: Sequence[Pool],
    deadline_s: float | None = None,
    budget_usd: float | None = None,
) -> dict[int, Placement]:
    """For each pool that can do stage `at` the best placement with that stage on it.

    One pass over the stages before, one backwards over those after, joined at every pool.
    """
    axes = _axes(deadline_s, budget_usd)
    before = _forward(stages[:at], pools, axes)
    after = _backward(stages[at:], pools, axes)
    anchors = {}
    for pool in sorted({o.pool for o in stages[at].options}):
        here = _step(before, stages[at], pools, stages[at - 1].bytes_out if at else 0.0, axes, only=pool)
        whole = _joined(here, after, stages, at, pools, pool, axes)
        if placed := _taken(whole, stages, pools, deadline_s, budget_usd):
            anchors[pool] = placed
    return anchors


# ------------------------------------------------------------------ labels


@dataclass(frozen=True, slots=True)
class _Labels:
    """Ways so far: their values [n, 3], the option taken at each stage [n, stages], the pool they end on."""

    values: np.ndarray
    path: np.ndarray
    pool: np.ndarray


def _axes(deadline_s: float | None, budget_usd: float | None) -> tuple[int, ...]:
    """Which values a label must be kept for."""
    limited = [TIME] if deadline_s is not None else []
    return (*limited, *([COST] if budget_usd is not None else []), WEIGHT)


def _forward(stages: Sequence[Stage], pools: Sequence[Pool], axes: tuple[int, ...]) -> _Labels:
    labels = _Labels(np.zeros((1, 3)), np.zeros((1, 0), int), np.full(1, -1))
    moved = 0.0
    for stage in stages:
        labels = _step(labels, stage, pools, moved, axes)
        moved = stage.bytes_out
    return labels


def _backward(stages: Sequence[Stage], pools: Sequence[Pool], axes: tuple[int, ...]) -> _Labels:
    """Ways from the end back to the stage after the first of `stages`; paths are in the stages' order."""
    labels = _Labels(np.zeros((1, 3)), np.zeros((1, 0), int), np.full(1, -1))
    for i in range(len(stages) - 1, 0, -1):
        moved = stages[i].bytes_out if i < len(stages) - 1 else 0.0
        labels = _step(labels, stages[i], pools, moved, axes, back=True)
    return labels


def _step(
    labels: _Labels,
    stage: Stage,
    pools: Sequence[Pool],
    moved: float,
    axes: tuple[int, ...],
    only: int | None = None,
    back: bool = False,
) -> _Labels:
    """Every way so far, carried to each pool, with each option of the stage there."""
    extended = []
    places: dict[int, list[int]] = {}
    for i, option in enumerate(stage.options):
        if only is None or option.pool == only:
            places.setdefault(option.pool, []).append(i)
    for pool, options in places.items():
        arrived = _pruned(labels, labels.values + _carried(labels.pool, pool, pools, moved, back), axes)
        own = np.array([_values(stage.options[i]) for i in options])
        values = (arrived.values[:, None, :] + own[None]).reshape(-1, 3)
        taken = np.tile(options, len(arrived.pool))[:, None]
        path = np.repeat(arrived.path, len(options), axis=0)
        path = np.hstack([taken, path] if back else [path, taken])
        extended.append(_front(_Labels(values, path, np.full(len(values), pool)), axes))
    if not extended:
        return _Labels(np.zeros((0, 3)), np.zeros((0, labels.path.shape[1] + 1), int), np.zeros(0, int))
    return _Labels(*(np.concatenate([getattr(m, n) for m in extended]) for n in ("values", "path", "pool")))


def _values(option: Option) -> tuple[float, float, float]:
    return option.time_s, option.cost_usd, option.weight


def _carried(source: np.ndarray, target: int, pools: Sequence[Pool], moved: float, back: bool) -> np.ndarray:
    """Time, cost and weight of each hand-over to `target`; backwards the roles are the other way round."""
    table = np.zeros((len(pools) + 1, 3))  # the last row, index -1: nothing came before
    for i in np.unique(source[source >= 0]):
        pool = pools[i]
        pair = (pools[target], pool) if back else (pool, pools[target])
        seconds, dollars = transfer(moved, *pair)
        table[i] = seconds, dollars, dollars * pool.weight_per_usd
    return table[source]


def _pruned(labels: _Labels, values: np.ndarray, axes: tuple[int, ...]) -> _Labels:
    return _front(_Labels(values, labels.path, labels.pool), axes)


def _front(labels: _Labels, axes: tuple[int, ...]) -> _Labels:
    """The labels that no other beats in all axes."""
    points = labels.values[:, axes]
    order = np.lexsort(points.T)  # by the last axis, the weight, first
    at = order[_unbeaten(points[order])]
    return _Labels(labels.values[at], labels.path[at], labels.pool[at])


def _unbeaten(points: np.ndarray) -> np.ndarray:
    """Places of the points that none before them equals or beats; they are sorted by their last axis."""
    if points.shape[1] == 1 or len(points) < 2:
        return np.arange(min(1, len(points)))
    if points.shape[1] == 2:
        least = np.minimum.accumulate(points[:, 0])
        return np.flatnonzero(np.concatenate([[True], points[1:, 0] < least[:-1]]))
    keep = np.ones(len(points), bool)
    for start in range(0, len(points), CHUNK):
        some = points[start : start + CHUNK]
        before = np.arange(start + len(some))[None, :] < np.arange(start, start + len(some))[:, None]
        beaten = np.all(points[None, : start + len(some)] <= some[:, None], axis=2) & before
        keep[start : start + CHUNK] = ~beaten.any(axis=1)
    return np.flatnonzero(keep)


def _joined(
    here: _Labels,
    after: _Labels,
    stages: Sequence[Stage],
    at: int,
    pools: Sequence[Pool],
    pool: int,
    axes: tuple[int, ...],
) -> _Labels:
    """Ways up to `pool` with each way onward from it."""
    if at == len(stages) - 1:
        return here
    carried = _carried(after.pool, pool, pools, stages[at].bytes_out, back=True)
    onward = _pruned(after, after.values + carried, axes)
    values = (here.values[:, None, :] + onward.values[None]).reshape(-1, 3)
    path = np.hstack(
        [np.repeat(here.path, len(onward.pool), axis=0), np.tile(onward.path, (len(here.pool), 1))]
    )
    return _front(_Labels(values, path, np.repeat(here.pool, len(onward.pool))), axes)


def _taken(
    labels: _Labels,
    stages: Sequence[Stage],
    pools: Sequence[Pool],
    deadline_s: float | None,
    budget_usd: float | None,
) -> Placement | None:
    if not len(labels.values):
        return None
    worst = np.zeros(len(labels.values))
    for limit, axis in ((deadline_s, TIME), (budget_usd, COST)):
        if limit is not None:
            worst = np.maximum(worst, labels.values[:, axis] / max(limit, 1e-9))
    within = worst <= 1 + SAME
    weight = labels.values[:, WEIGHT]
    best = int(np.argmin(np.where(within, weight, np.inf))) if within.any() else int(np.argmin(worst))
    options = tuple(stage.options[i] for stage, i in zip(stages, labels.path[best], strict=True))
    return Placement(
        options=options,
        transfers=_transfers(stages, options, pools),
        time_s=float(labels.values[best, TIME]),
        cost_usd=float(labels.values[best, COST]),
        weight=float(labels.values[best, WEIGHT]),
        within=bool(within[best]),
    )


def _transfers(
    stages: Sequence[Stage], options: Sequence[Option], pools: Sequence[Pool]
) -> tuple[tuple[float, float], ...]:
    between = [
        transfer(stage.bytes_out, pools[a.pool], pools[b.pool])
        for stage, a, b in zip(stages[:-1], options[:-1], options[1:], strict=True)
    ]
    return ((0.0, 0.0), *between)
