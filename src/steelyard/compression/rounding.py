"""Matrices rounded to the nearest integers: int8 by row, int4 by group. numpy alone; no rows are looked at.

What looks at the user's rows: calibrate.py, over the same levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor

import numpy as np

from ..errors import WrongUse
from ..model import ByRow, Grouped, Rounding, Weights, group_of

LEVELS = 15  # the largest 4-bit code
# Shares of a group's range that are tried in turn: clipping the few outermost weights makes the steps of all
# others finer.
SHRINKS = tuple(1 - 0.04 * i for i in range(11))
# To nearest, no group of three of SmolLM2's matrices took one beyond the sixth; where rows weigh the errors,
# narrower ranges win.
NEAREST_SHRINKS = SHRINKS[:8]
SMALLEST = np.float32(6e-8)  # the least f16: a scale is never zero
ROWS = 2048  # rows rounded to groups at a time: bounds memory
BAND = 2**18  # numbers rounded by row at a time: in f32 they stay in the second-level cache


def rounding(calibrated: Mapping[str, Grouped] | None = None) -> Rounding:
    """To the nearest, but for the matrices that a calibration has rounded, by name."""
    fixed = calibrated or {}

    def by_group(weights: Weights, name: str, largest: int) -> Grouped:
        return fixed[name] if name in fixed else rounded_groups(weights.f32(name), largest, name)

    return Rounding(rounded_rows, by_group, calibrated=bool(fixed))


def refuse_unless(finite: bool, name: str) -> None:
    """A matrix that cannot be rounded would be served as zeros. Raises WrongUse."""
    if not finite:
        raise WrongUse(
            "compress.not_finite",
            f"{name} holds a value that is no number, or one that no f16 scale reaches",
            why="rounding it would serve zeros in its place",
            hint="fetch or train the checkpoint anew",
        )


# ------------------------------------------------------------------ int8


def rounded_rows(weights: Weights, names: Sequence[str], pool: Executor) -> ByRow:
    """The matrices one below the other: symmetric, one scale a row, band by band on all of the pool."""
    rows, width = [weights.shape(name)[0] for name in names], weights.shape(names[0])[1]
    codes, scale = np.empty((sum(rows), width), np.int8), np.empty((sum(rows), 1), np.float16)
    step = max(BAND // width, 1)

    def band(name: str, start: int, at: int) -> None:
        w = weights.f32_rows(name, start, start + step)
        here = slice(at, at + len(w))
        with np.errstate(over="ignore"):  # beyond f16: refused
            scale[here] = np.maximum(np.abs(w).max(1, keepdims=True) / 127, 1e-7)
        refuse_unless(bool(np.isfinite(scale[here]).all()), name)
        w /= scale[here].astype(np.float32)
        codes[here] = np.clip(np.rint(w, out=w), -127, 127, out=w)

    tops = [sum(rows[:i]) for i in range(len(rows))]
    bands = [
        (name, start, top + start)
        for name, count, top in zip(names, rows, tops, strict=True)
        for start in range(0, count, step)
    ]
    list(pool.map(lambda each: band(*each), bands))
    return ByRow(codes, scale)


# ------------------------------------------------------------------ int4


def rounded_groups(weight: np.ndarray, largest: int, name: str = "the matrix") -> Grouped:
    """[O, I] f32 to the nearest of each group's levels, its range clipped where that costs less.

    Raises WrongUse, with the matrix's `name`, where a value is no number or out of reach.
    """
    size = group_of(weight.shape[1], largest)
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of such values: refused
        parts = [_rounded(weight[i : i + ROWS], size, name) for i in range(0, len(weight), ROWS)]
    return Grouped(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("codes", "scale", "zero")))


def _rounded(weight: np.ndarray, size: int, name: str) -> Grouped:
    w = weight.reshape(len(weight), -1, size)
    low, high = np.minimum(w.min(-1), 0), np.maximum(w.max(-1), 0)
    least = np.full(low.shape, np.inf, np.float32)
    scale, zero = np.zeros_like(low), np.zeros_like(low)
    for shrink in NEAREST_SHRINKS:
        s, z = grid(low * np.float32(shrink), high * np.float32(shrink))
        q = codes(w, s[..., None], z[..., None])
        error = (((q - z[..., None]) * s[..., None] - w) ** 2).sum(-1)
        better = error < least
        least = np.where(better, error, least)
        scale, zero = np.where(better, s, scale), np.where(better, z, zero)
    refuse_unless(bool(np.isfinite(least).all()), name)
    q = codes(w, scale[..., None], zero[..., None]).reshape(weight.shape)
    return Grouped(q.astype(np.uint8), scale.astype(np.float16), zero.astype(np.uint8))


def grid(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale (an f16's value, as f32) and zero point (as f32) that span low..high."""
    scale = np.maximum((high - low) / LEVELS, SMALLEST).astype(np.float16).astype(np.float32)
    return scale, np.clip(np.rint(-low / scale), 0, LEVELS)


def codes(w: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """The nearest levels, as f32."""
    return np.clip(np.rint(w / scale) + zero, 0, LEVELS)
