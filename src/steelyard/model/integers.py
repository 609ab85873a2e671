"""How matrices lie in memory as integers: by row (int8) and by group (int4); packed, and widened again.

What rounds them to these integers is compression's. numpy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from .weights import Weights


@dataclass(frozen=True, slots=True)
class ByRow:
    """One matrix [O, I], w = code * scale of its row: `codes` [O, I] i8 from -127, `scale` [O, 1] f16."""

    codes: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True, slots=True)
class Grouped:
    """One matrix [O, I], w = (code - zero) * scale, both shared by a group of neighbouring inputs of one row.

    `codes` [O, I] u8 below 16, `scale` [O, G] f16, `zero` [O, G] u8 below 16.
    """

    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray

    @property
    def size(self) -> int:
        return self.codes.shape[1] // self.scale.shape[1]


@dataclass(frozen=True, slots=True)
class Rounding:
    """How a graph's matrices become integers: compression gives it, the graph's builder calls it.

    `by_row` takes the names of matrices that stand one below the other in the result and may spread its work
    over the executor; `by_group` takes one name and the largest group.
    """

    by_row: Callable[[Weights, Sequence[str], Executor], ByRow]
    by_group: Callable[[Weights, str, int], Grouped]
    calibrated: bool = False  # it looks at the user's rows


def group_of(inputs: int, largest: int) -> int:
    """The largest power of two up to `largest` that divides `inputs`; 0 where even 16 does not."""
    size = largest
    while size >= 16 and inputs % size:
        size //= 2
    return size if size >= 16 else 0


def widened(grouped: Grouped) -> np.ndarray:
    """[O, I] f32: exactly what an engine multiplies with in f32."""
    q = grouped.codes.reshape(*grouped.scale.shape, -1).astype(np.float32)
    wide = (q - grouped.zero[..., None].astype(np.float32)) * grouped.scale[..., None].astype(np.float32)
    return wide.reshape(grouped.codes.shape)


def packed(values: np.ndarray) -> np.ndarray:
    """u8 below 16 to two a byte, the earlier in the low half, as OpenVINO's u4; flat, padded by 0."""
    flat = values.reshape(-1)
    flat = np.append(flat, np.uint8(0)) if flat.size % 2 else flat
    return flat[::2] | (flat[1::2] << 4)


def unpacked(data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `packed`."""
    both = np.stack([data & 15, data >> 4], -1).reshape(-1)
    return both[: int(np.prod(shape))].reshape(shape)
