"""4-bit weights in groups along the input: rounded, packed, and widened again. numpy alone.

A group of `size` neighbouring inputs of one row shares a scale (f16) and a zero point (u4):
w = (q - zero) * scale, q from 0 to 15. Not here: rounding that looks at data (compression).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEVELS = 15
SHRINKS = tuple(1 - 0.04 * i for i in range(8))  # of a group's range, tried in turn
ROWS = 2048  # rows rounded at a time: bounds memory
SMALLEST = np.float32(6e-8)  # the least f16: a scale is never zero


@dataclass(frozen=True, slots=True)
class Grouped:
    """One matrix [O, I]: `codes` [O, I] u8 below 16, `scale` [O, G] f16, `zero` [O, G] u8 below 16."""

    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray

    @property
    def size(self) -> int:
        return self.codes.shape[1] // self.scale.shape[1]


def group_of(inputs: int, largest: int) -> int:
    """The largest power of two up to `largest` that divides `inputs`; 0 where even 16 does not."""
    size = largest
    while size >= 16 and inputs % size:
        size //= 2
    return size if size >= 16 else 0


def rounded(weight: np.ndarray, largest: int) -> Grouped:
    """[O, I] f32 to the nearest of each group's levels, its range clipped where that costs less."""
    size = group_of(weight.shape[1], largest)
    parts = [_rounded(weight[i : i + ROWS], size) for i in range(0, len(weight), ROWS)]
    return Grouped(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("codes", "scale", "zero")))


def _rounded(weight: np.ndarray, size: int) -> Grouped:
    w = weight.reshape(len(weight), -1, size)
    low, high = np.minimum(w.min(-1), 0), np.maximum(w.max(-1), 0)
    best = scale = zero = None
    for shrink in SHRINKS:
        s, z = grid(low * np.float32(shrink), high * np.float32(shrink))
        q = codes(w, s[..., None], z[..., None])
        error = (((q - z[..., None]) * s[..., None] - w) ** 2).sum(-1)
        if best is None or scale is None or zero is None:
            best, scale, zero = error, s, z
            continue
        better = error < best
        best = np.where(better, error, best)
        scale, zero = np.where(better, s, scale), np.where(better, z, zero)
    assert scale is not None and zero is not None
    q = codes(w, scale[..., None], zero[..., None]).reshape(weight.shape)
    return Grouped(q.astype(np.uint8), scale.astype(np.float16), zero.astype(np.uint8))


def grid(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale (an f16's value, as f32) and zero point (as f32) that span low..high."""
    scale = np.maximum((high - low) / LEVELS, SMALLEST).astype(np.float16).astype(np.float32)
    return scale, np.clip(np.rint(-low / scale), 0, LEVELS)


def codes(w: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """The nearest levels, as f32."""
    return np.clip(np.rint(w / scale) + zero, 0, LEVELS)


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
