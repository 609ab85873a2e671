"""All settings of a training job on one device at once, by factors.

A layer's time depends on few settings (tensor, context and expert split, micro-batch, recomputation), so it
is taken once on that small grid in float64. It is then broadcast over (p, v) and over (ZeRO, offload, d,
global batch) in float32 blocks of at most BLOCK elements (planner.md section 10), several splits in one. A
candidate is one element: step time, memory, cost and its rank among the best KEPT are all taken of it.

Not here: which axes a request has and which plan is taken (train_search.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import product
from typing import Any

import numpy as np

from ..physics.sizes import Array, Hardware, Sizes, total
from ..physics.training import (
    TrainSetup,
    bounded_layer_s,
    head_s,
    offloaded_bytes,
    step_of,
    train_memory_parts,
    train_step_s,
)
from .train_stacks import TrainStack, runnable, uneven

BLOCK = 262_144  # a block costs a millisecond beside its elements: small ones spend most of it there
# A device's share of its host's memory, for an optimiser that is kept there: of AWS hosts of eight, 96 GB
# beside an A10G, 144 beside an A100, 256 beside an H100.
HOST_BYTES = 96e9
KEPT = 16
TABLES = 2  # embedding and head may stand in a pipeline as a layer each
# One array of this size, freed untouched: glibc then keeps blocks that are freed instead of handing their
# pages back after each operation (its dynamic mmap threshold goes up to 32 MiB): a third of the time.
KEEP_BYTES = 28 * 2**20
SETTINGS = (
    "t", "c", "e", "micro_batch", "recompute", "sp", "p", "v", "zero", "offload", "d", "global_batch",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """The values of each setting. Not every combination divides; `sweep` counts those that do."""

    t: tuple[int, ...] = (1,)
    c: tuple[int, ...] = (1,)
    e: tuple[int, ...] = (1,)
    micro_batch: tuple[int, ...] = (1,)
    recompute: tuple[int, ...] = (0,)
    sp: tuple[int, ...] = (0,)
    p: tuple[int, ...] = (1,)
    v: tuple[int, ...] = (1,)
    zero: tuple[int, ...] = (1,)
    offload: tuple[int, ...] = (0,)
    d: tuple[int, ...] = (1,)
    global_batch: tuple[int, ...] = (32,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What all candidates share. `wall_s(step_s, devices, global_batch)` gives the whole job's seconds."""

    sizes: Sizes
    hardware: Hardware
    usual: Hardware | None  # in 16 bits, where a narrower format is bounded by what published runs gained
    constant: Mapping[str, float]
    fixed: Mapping[str, float]  # of TrainSetup: seq_len, lora, weight_bits, extra_forward, low_precision
    room: float  # bytes a device may hold
    max_devices: int
    least_devices: int
    stacks: tuple[TrainStack, ...]  # that run this job on this device
    wall_s: Callable[[Array, Array, Array], Array]
    high_s: Callable[[Array, Array], Array]  # the high end of so many seconds on so many devices
    latest_s: Callable[[Array], Array]  # of so many devices, the most that a job's seconds may be
    frozen_params: float = 0.0  # of a reference or teacher model, held in 16 bits beside the trained one


@dataclass(slots=True)
class Swept:
    """Counts, the best candidates, and for each number of devices the fastest cell."""

    considered: int = 0
    divide: int = 0
    fit: int = 0
    least_bytes: float = float("inf")  # of those that are possible
    least: dict[str, np.ndarray] = field(default_factory=dict)  # settings of that one
    best: dict[str, np.ndarray] = field(default_factory=dict)  # settings of the KEPT cheapest in time
    score: np.ndarray = field(
        default_factory=lambda: np.full(0, np.inf, np.float32)
    )  # device-seconds of them
    cells: list[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]] = field(default_factory=list)


def sweep(job: Job, axes: Axes) -> Swept:
    """Evaluate every combination of the axes."""
    swept, small = Swept(), _small(job)
    np.empty(KEEP_BYTES, np.uint8)
    for block in _blocks(axes, job):
        _take(swept, block, _evaluated(block, job, small), job)
    return swept


def exact(job: Job, settings: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Parts, memory and wall time in float64 of candidates given as flat columns of SETTINGS."""
    columns = {k: np.asarray(v, float) for k, v in settings.items()}
    devices = columns["t"] * columns["c"] * columns["p"] * columns["d"]
    setup = TrainSetup(devices=devices, **columns, **job.fixed)
    parts = train_step_s(job.sizes, setup, job.hardware, job.constant, job.usual)
    memory = memory_parts(job, job.sizes, setup)
    step_s = total(parts)
    return {
        "devices": devices,
        "parts": parts,
        "memory_parts": memory,
        "memory": total(memory),
        "step_s": step_s,
        "wall_s": job.wall_s(step_s, devices, columns["global_batch"]),
    }


def memory_parts(job: Job, sizes: Sizes, setup: TrainSetup) -> dict[str, Array]:
    """Bytes of the trained model's parts, and of the frozen one beside it, split alike."""
    parts = train_memory_parts(sizes, setup)
    if not job.frozen_params:
        return parts
    sharded = np.equal(setup.zero, 3).astype(np.asarray(setup.zero).dtype)
    over = setup.t * setup.p * (1 + sharded * (setup.d - 1))
    return parts | {"frozen": 2.0 * job.frozen_params / over}


# ------------------------------------------------------------------ blocks


@dataclass(frozen=True, slots=True)
class _Block:
    """Splits (t, c, e) x rows (micro-batch, recomputation, sp) x stages (p, v) x tails (ZeRO, offload, d,
    batch). Small splits share a block: what is done once a block takes a millisecond."""

    splits: np.ndarray  # [3, splits]
    rows: np.ndarray  # [3, rows]
    stages: np.ndarray  # [2, stages]
    tails: np.ndarray  # [4, schemes * places]; schemes outside
    places: int  # pairs of d and global batch
    columns: dict[str, np.ndarray]  # the settings, each along its own axis of [splits, rows, stages, tails]
    able: np.ndarray  # [splits, rows or 1, stages, tails]: what some stack runs
    layer: np.ndarray  # [splits, rows] seconds
    free: np.ndarray  # of its compute, what may hide data-parallel traffic
    head: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Splits, rows, stages, tails."""
        return tuple(axis.shape[1] for axis in (self.splits, self.rows, self.stages, self.tails))

    def at(self, place: np.ndarray) -> dict[str, np.ndarray]:
        """The settings of candidates by their flat places."""
        axes = (self.splits, self.rows, self.stages, self.tails)
        where = np.unravel_index(place, self.shape)
        values = (value for axis, at in zip(axes, where, strict=True) for value in axis[:, at])
        return dict(zip(SETTINGS, values, strict=True))


def _columns(*axes: np.ndarray) -> dict[str, np.ndarray]:
    """Settings of splits, rows, stages and tails, each along its own axis."""
    shapes = ((-1, 1, 1, 1), (1, -1, 1, 1), (1, 1, -1, 1), (1, 1, 1, -1))
    named = (v.reshape(shape) for values, shape in zip(axes, shapes, strict=True) for v in values)
    return dict(zip(SETTINGS, named, strict=True))


@dataclass(frozen=True, slots=True)
class _Grid:
    """What does not depend on pipeline, ZeRO and data-parallel splits, taken once."""

    splits: list[tuple[int, int, int]]
    rows: np.ndarray  # [3, rows]
    layers: np.ndarray  # [splits, rows] seconds
    free: np.ndarray
    heads: np.ndarray


def _grid(axes: Axes, job: Job) -> _Grid:
    splits = list(product(axes.t, axes.c, axes.e))
    rows = np.array(list(product(axes.micro_batch, axes.recompute, axes.sp)), np.float64).T
    grid = np.array([np.repeat(s, rows.shape[1]) for s in zip(*splits, strict=True)], np.float64)
    wide = np.tile(rows, len(splits))
    setup = TrainSetup(
        devices=1.0, t=grid[0], c=grid[1], e=grid[2],
        micro_batch=wide[0], recompute=wide[1], sp=wide[2], **job.fixed,
    )  # fmt: skip
    parts, free_s = bounded_layer_s(job.sizes, setup, job.hardware, job.constant, job.usual)
    heads = head_s(job.sizes, setup, job.hardware, job.constant)
    each = (_by_split(seconds, grid) for seconds in (total(parts), free_s, heads))
    return _Grid(splits, rows, *each)


def _blocks(axes: Axes, job: Job) -> Iterator[_Block]:
    """Blocks of splits with the same stages and places; what a split leaves no devices for is left out."""
    grid, stages = _grid(axes, job), np.array(list(product(axes.p, axes.v)), np.float32).T
    schemes = list(product(axes.zero, axes.offload))
    able = _Runs(job, grid.rows, stages, schemes)
    for (split, fitting, places), some in _alike(grid, axes, job, stages).items():
        rows = np.arange(grid.rows.shape[1]) if split else np.flatnonzero(grid.rows[2] == min(axes.sp))
        here = stages[:, list(fitting)]
        each = len(rows) * len(fitting) * len(places)
        together = max(1, BLOCK // (each * len(schemes)))
        for start in range(0, len(some), together):
            at = some[start : start + together]
            for part in _parted(schemes, each * len(at)):
                tails = np.array([(*s, *place) for s in part for place in places], np.float32).T
                runs = able.of([grid.splits[i] for i in at], list(fitting), part, len(places))
                most = max(1, BLOCK // (len(at) * len(fitting) * tails.shape[1]))
                for first in range(0, len(rows), most):
                    yield _block(grid, at, rows[first : first + most], here, tails, len(places), runs)


def _alike(
    grid: _Grid, axes: Axes, job: Job, stages: np.ndarray
) -> dict[tuple[bool, tuple[int, ...], tuple[tuple[int, int], ...]], list[int]]:
    """Splits by whether a tensor group is more than a device, the stages that fit, pairs of d and batch."""
    alike: dict[tuple[bool, tuple[int, ...], tuple[tuple[int, int], ...]], list[int]] = {}
    for i, (t, c, e) in enumerate(grid.splits):
        room = job.max_devices // (t * c)
        fitting = tuple(np.flatnonzero(stages[0] <= room).tolist())
        pairs = product(axes.d, axes.global_batch)
        places = tuple((d, b) for d, b in pairs if d <= min(room, b) and d * c >= e)
        if places and fitting:
            alike.setdefault((t > 1, fitting, places), []).append(i)
    return alike


def _block(
    grid: _Grid, at: list[int], rows: np.ndarray, stages: np.ndarray, tails: np.ndarray, places: int,
    runs: np.ndarray,
) -> _Block:  # fmt: skip
    splits = np.array([grid.splits[i] for i in at], np.float32).T
    some_rows = grid.rows[:, rows].astype(np.float32)
    able = runs if runs.shape[1] == 1 else runs[:, rows]
    own = (seconds[at][:, rows] for seconds in (grid.layers, grid.free, grid.heads))
    columns = _columns(splits, some_rows, stages, tails)
    return _Block(splits, some_rows, stages, tails, places, columns, able, *own)


class _Runs:
    """What some stack runs; of a split it matters what is above 1, so that few answers serve all."""

    def __init__(
        self, job: Job, rows: np.ndarray, stages: np.ndarray, schemes: list[tuple[int, int]]
    ) -> None:
        self.job, self.rows, self.stages, self.schemes = job, rows, stages, schemes
        self.answers: dict[tuple[bool, ...], np.ndarray] = {}

    def of(
        self, splits: list[tuple[int, int, int]], fitting: list[int], part: list[tuple[int, int]], places: int
    ) -> np.ndarray:
        """[splits or 1, rows or 1, stages, tails] for some stages, schemes and so many places of each."""
        kinds = [tuple(value > 1 for value in split) for split in splits]
        each = [self._kind(kind, split) for kind, split in zip(kinds, splits, strict=True)]
        able = np.stack(each[:1] if len(set(kinds)) == 1 else each)
        return np.repeat(able[:, :, fitting][..., [self.schemes.index(s) for s in part]], places, axis=3)

    def _kind(self, kind: tuple[bool, ...], split: tuple[int, int, int]) -> np.ndarray:
        """[rows or 1, stages, schemes]"""
        if kind not in self.answers:
            tails = np.array([(*scheme, 1, 1) for scheme in self.schemes], np.float32).T
            columns = _columns(np.array([split], np.float32).T, self.rows, self.stages, tails)
            able = runnable(self.job.stacks, columns)[0]
            self.answers[kind] = np.broadcast_to(able, (len(able), self.stages.shape[1], len(self.schemes)))
        return self.answers[kind]


def _parted(schemes: list[tuple[int, int]], each: int) -> list[list[tuple[int, int]]]:
    """ZeRO 3 apart, whose traffic takes most arithmetic, where a block is full without it."""
    if each * len(schemes) <= BLOCK:
        return [schemes]
    parts = [[s for s in schemes if s[0] < 3], [s for s in schemes if s[0] == 3]]
    return [part for part in parts if part]


def _by_split(seconds: Array, grid: np.ndarray) -> np.ndarray:
    whole = np.broadcast_to(seconds, grid[0].shape)
    changes = np.flatnonzero(np.any(np.diff(grid, axis=1), axis=0)) + 1
    return whole.astype(np.float32).reshape(len(changes) + 1, -1)


def _small(job: Job) -> tuple[Sizes, Hardware, dict[str, Any], dict[str, Any]]:
    """Sizes, rates and constants as float32 scalars: a float64 scalar would widen every block."""
    constants = {k: np.float32(v) for k, v in job.constant.items()}
    unused = {f.name: f.default for f in fields(TrainSetup) if f.name not in (*SETTINGS, "devices")}
    columns = {k: np.full((1, 1, 1, 1), v, np.float32) for k, v in (unused | dict(job.fixed)).items()}
    return Sizes(**_narrow(job.sizes)), Hardware(**_narrow(job.hardware)), constants, columns


def _narrow(thing: Any) -> dict[str, Any]:
    return {f.name: np.float32(getattr(thing, f.name)) for f in fields(thing)}


def _evaluated(block: _Block, job: Job, small: tuple[Any, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of a step and bytes of a device, [splits, rows, stages, tails]."""
    sizes, hardware, constant, fixed = small
    columns = block.columns
    devices = columns["t"] * columns["c"] * columns["p"] * columns["d"]
    setup = TrainSetup(devices=devices, **columns, **fixed)
    layer, free, head = (x[:, :, None, None] for x in (block.layer, block.free, block.head))
    step = _sum(step_of(layer, free, head, sizes, setup, hardware, constant))
    return step, _sum(memory_parts(job, sizes, setup))


def _sum(parts: Mapping[str, Array]) -> np.ndarray:
    """The sum, small arrays first: most parts do not vary along every axis."""
    ordered = sorted(parts.values(), key=np.size)
    whole = ordered[0]
    for part in ordered[1:]:
        whole = whole + part
    return np.asarray(whole)


# ------------------------------------------------------------------ masks and the best


def _take(swept: Swept, block: _Block, values: tuple[np.ndarray, np.ndarray], job: Job) -> None:
    """Count the block and keep its best."""
    step_s, memory = values
    shape = block.shape
    memory = np.broadcast_to(memory, shape)
    columns = block.columns
    devices = columns["t"] * columns["c"] * columns["p"] * columns["d"]
    able = np.broadcast_to(block.able & divides(job, columns), shape)
    fits = able & (memory <= np.float32(job.room))
    fit = int(np.count_nonzero(fits))
    swept.considered += fits.size
    swept.divide += int(np.count_nonzero(able))
    swept.fit += fit
    if not swept.fit:
        _least(swept, block, np.where(able, memory, np.float32(np.inf)))
    if not fit:
        return
    wall = np.where(fits, job.wall_s(step_s, devices, columns["global_batch"]), np.float32(np.inf))
    _fastest_cells(swept, block, wall, devices)
    spent = wall * devices
    spent[wall > job.latest_s(devices)] = np.inf
    _best(swept, block, spent)


def possible(job: Job, columns: Mapping[str, Array]) -> Array:
    """Which candidates split evenly in a way that a public stack runs."""
    return divides(job, columns) & runnable(job.stacks, columns)


def divides(job: Job, columns: Mapping[str, Array]) -> Array:
    """Which candidates split evenly, on devices that there are; settings as arrays that broadcast.

    Layers fill the stages' chunks, the tables of words being a layer or two where a stack has uneven stages
    (Megatron-LM's --account-for-embedding-in-pipeline-split and its like for the loss), and without
    interleaving some stages may lack one; the batch fills micro-batches; interleaving takes whole rounds of p
    micro-batches (Narayanan et al. 2021, section 2.2); experts spread over whole data-parallel groups; an
    optimiser kept in the host's memory has room there.
    """
    p, v, d = columns["p"], columns["v"], columns["d"]
    devices = columns["t"] * columns["c"] * p * d
    pairs = _fill_stages(job, p, v) & ((v == 1) | (p > 1))
    pairs = pairs & (devices <= job.max_devices) & (devices >= job.least_devices)
    pairs = pairs & (np.mod(d * columns["c"], columns["e"]) == 0)
    if np.any(columns["offload"]):
        pairs = pairs & (offloaded_bytes(job.sizes, _held_by(job, columns)) <= HOST_BYTES)
    rounds = columns["global_batch"] / (d * columns["micro_batch"])
    whole = rounds == np.floor(rounds)
    if not (v > 1).any():
        return whole & pairs
    turns = rounds * (1 / p)
    return whole & pairs & ((v == 1) | (turns == np.floor(turns)))


def _fill_stages(job: Job, p: Array, v: Array) -> Array:
    """Which pipelines the layers fill evenly, tables of words counted in where stages may be uneven."""
    counted = np.arange(TABLES + 1 if uneven(job.stacks) else 1) + np.float32(job.sizes.layers)
    alike = np.any([np.mod(layers, p * v) == 0 for layers in counted], axis=0)
    return alike | ((v == 1) & (p <= job.sizes.layers)) if uneven(job.stacks) else alike


def _held_by(job: Job, columns: Mapping[str, Array]) -> TrainSetup:
    """Settings that what a device holds depends on."""
    return TrainSetup(devices=1.0, lora=job.fixed["lora"], **columns)


def _least(swept: Swept, block: _Block, memory: np.ndarray) -> None:
    """The candidate with the least memory, where none fits yet."""
    at = int(memory.argmin())
    least = float(memory.reshape(-1)[at])
    if least < swept.least_bytes:
        swept.least_bytes, swept.least = least, block.at(np.array([at]))


def _fastest_cells(swept: Swept, block: _Block, wall: np.ndarray, devices: np.ndarray) -> None:
    """For each (split, stages, place) of the block the fastest over rows and schemes."""
    splits, _, stages, _ = block.shape
    fastest = wall.min(axis=1).reshape(splits, stages, -1, block.places).min(axis=2)
    split, stage, place = np.nonzero(np.isfinite(fastest))
    if not len(stage):
        return
    where = dict(zip(("t", "c", "e"), block.splits[:, split], strict=True))
    where |= dict(zip(("p", "v"), block.stages[:, stage], strict=True))
    where |= dict(zip(("d", "global_batch"), block.tails[2:, place], strict=True))
    swept.cells.append((devices[split, 0, stage, place], fastest[split, stage, place], where))


def _best(swept: Swept, block: _Block, spent: np.ndarray) -> None:
    """Merge the block's KEPT cheapest into those found so far."""
    flat = spent.reshape(-1)
    bar = swept.score[-1] if len(swept.score) == KEPT else np.inf
    if not flat.min() < bar:
        return
    at = np.argpartition(flat, KEPT)[:KEPT] if flat.size > KEPT else np.arange(flat.size)
    at = at[np.isfinite(flat[at])]
    columns = block.at(at)
    score = np.concatenate([swept.score, flat[at]])
    order = np.argsort(score, kind="stable")[:KEPT]
    swept.score = score[order]
    swept.best = {
        k: np.concatenate([swept.best.get(k, np.zeros(0, np.float32)), v])[order] for k, v in columns.items()
    }
