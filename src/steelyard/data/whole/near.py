"""Near-duplicates: MinHash proposes, the true Jaccard index of the shingles decides, pairs join to clusters.

126 minima in 42 bands of 3: two texts that share half of their shingles meet in a band in 99.6 % of cases. A
pair is then held against its whole signature, and what passes against the shingles themselves, so no two
texts are merged that are not alike.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..facts import mixed
from .store import Ragged

BANDS, BAND_ROWS = 42, 3
PERMUTATIONS = BANDS * BAND_ROWS
MOST_IN_BUCKET = 64  # a bucket of more is a phrase that all use: each text meets its next neighbours
GLANCE = 48  # minima compared first
SLACK = 0.17  # below the threshold, in the signature: 4 standard deviations
AT_ONCE = 1 << 16  # pairs

_seeds = mixed(np.arange(1, 2 * PERMUTATIONS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
FACTORS = (_seeds[:PERMUTATIONS] >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
SHIFTS = (_seeds[PERMUTATIONS:] >> np.uint64(32)).astype(np.uint32)


def signatures(shingles: Ragged) -> np.ndarray:
    """uint32 [rows, PERMUTATIONS]; each row has a shingle."""
    out = np.zeros((len(shingles.lengths), PERMUTATIONS), dtype=np.uint32)
    if not len(shingles.lengths):
        return out
    starts = np.cumsum(shingles.lengths) - shingles.lengths
    values = (shingles.values >> np.uint64(32)).astype(np.uint32)
    scratch = np.empty_like(values)
    for number in range(PERMUTATIONS):
        np.bitwise_xor(values, SHIFTS[number], out=scratch)
        np.multiply(scratch, FACTORS[number], out=scratch)
        out[:, number] = np.minimum.reduceat(scratch, starts)
    return out


def alike(
    signature: np.ndarray, shingles: np.ndarray, spans: np.ndarray, threshold: float
) -> list[tuple[int, int, float]]:
    """Pairs of rows whose Jaccard index is at least the threshold, with it; rising.

    `spans` [rows, 2]: where the shingles of each begin and end.
    """
    pairs = sorted(set(proposed(signature, threshold)))
    held: dict[int, np.ndarray] = {}
    out = []
    for one, other in pairs:
        mine, its = (unique_of(shingles, spans, row, held) for row in (one, other))
        common = len(np.intersect1d(mine, its, assume_unique=True))
        index = common / (len(mine) + len(its) - common)
        if index >= threshold:
            out.append((one, other, index))
    return out


def unique_of(shingles: np.ndarray, spans: np.ndarray, row: int, held: dict[int, np.ndarray]) -> np.ndarray:
    if row not in held:
        if len(held) > 4096:
            held.clear()
        held[row] = np.unique(shingles[spans[row, 0] : spans[row, 1]])
    return held[row]


def proposed(signature: np.ndarray, threshold: float) -> Iterator[tuple[int, int]]:
    """Pairs that meet in a band and whose signatures are nearly alike enough."""
    for band in range(BANDS):
        columns = np.asarray(signature[:, band * BAND_ROWS : (band + 1) * BAND_ROWS]).astype(np.uint64)
        keys = mixed(mixed(columns[:, 0] << np.uint64(32) | columns[:, 1]) + columns[:, 2])
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        for lag in range(1, MOST_IN_BUCKET + 1):
            same = np.flatnonzero(ordered[lag:] == ordered[:-lag])
            if not len(same):
                break
            yield from likely(signature, order[same], order[same + lag], threshold)


def likely(
    signature: np.ndarray, one: np.ndarray, other: np.ndarray, threshold: float
) -> Iterator[tuple[int, int]]:
    for start in range(0, len(one), AT_ONCE):
        a, b = one[start : start + AT_ONCE], other[start : start + AT_ONCE]
        for count, slack in ((GLANCE, SLACK * 1.4), (PERMUTATIONS, SLACK)):
            equal = (signature[a, :count] == signature[b, :count]).sum(axis=1)
            near = equal >= (threshold - slack) * count
            a, b = a[near], b[near]
        yield from zip(np.minimum(a, b).tolist(), np.maximum(a, b).tolist(), strict=True)


def clusters(pairs: list[tuple[int, int, float]]) -> dict[int, list[int]]:
    """Rows that hang together, by their first; union-find."""
    root: dict[int, int] = {}

    def find(row: int) -> int:
        while root.setdefault(row, row) != row:
            root[row] = root[root[row]]
            row = root[row]
        return row

    for one, other, _ in pairs:
        a, b = find(one), find(other)
        root[max(a, b)] = min(a, b)
    out: dict[int, list[int]] = {}
    for row in sorted(root):
        out.setdefault(find(row), []).append(row)
    return out
