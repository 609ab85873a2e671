"""Near-duplicates: MinHash proposes, the true Jaccard index of the shingles decides, pairs join to clusters.

126 minima in 42 bands of 3: two texts that share half of their shingles meet in a band in 99.6 % of cases. A
pair is then held against its whole signature, and what passes against the shingles themselves, so no two
texts are merged that are not alike.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..facts import mixed
from .store import Growing, GrowingRagged, Ragged

BANDS, BAND_ROWS = 42, 3
PERMUTATIONS = BANDS * BAND_ROWS
MOST_IN_BUCKET = 64  # a bucket of more is a phrase that all use: each text meets its next neighbours
GLANCE = 48  # minima compared first
SLACK = 0.17  # below the threshold, in the signature: 4 standard deviations
AT_ONCE = 1 << 14  # rows whose signatures are looked at together
KEYS_AT_ONCE = 1 << 21  # of bands
PAIRS_AT_ONCE = 1 << 20
HELD_VALUES = 1 << 20  # shingles kept for the pairs to come

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


@dataclass(slots=True)
class Pairs:
    """Pairs of rows, `one` before `other`, rising, and their Jaccard index."""

    one: Growing
    other: Growing
    index: Growing

    @staticmethod
    def none(folder: Path | None) -> Pairs:
        one, other = Growing(np.uint32, folder=folder), Growing(np.uint32, folder=folder)
        return Pairs(one, other, Growing(np.float64, folder=folder))

    def append(self, one: np.ndarray, other: np.ndarray, index: np.ndarray) -> None:
        self.one.append(one)
        self.other.append(other)
        self.index.append(index)

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for start, one in self.one.parts(PAIRS_AT_ONCE):
            stop = start + len(one)
            yield (
                one.astype(np.int64),
                self.other.part(start, stop).astype(np.int64),
                self.index.part(start, stop),
            )


def alike(signature: Growing, shingles: GrowingRagged, threshold: float) -> Pairs:
    """Pairs of rows whose Jaccard index is at least the threshold."""
    folder = shingles.values.folder
    met = Growing(np.uint64, folder=folder)
    for one, other in proposed(signature, threshold):
        met.append(one.astype(np.uint64) << np.uint64(32) | other.astype(np.uint64))
    out = Pairs.none(folder)
    held = Held(shingles)
    for one, other in each_once(met, len(signature)):
        index = np.array([held.index(a, b) for a, b in zip(one.tolist(), other.tolist(), strict=True)])
        enough = index >= threshold
        out.append(one[enough], other[enough], index[enough])
    return out


def each_once(met: Growing, rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every pair of `met` once, rising."""
    pieces = len(met) // PAIRS_AT_ONCE + 1
    bounds = np.linspace(0, rows, pieces + 1).astype(np.uint64) << np.uint64(32)
    for low, high in pairwise(bounds):
        own = [np.unique(part[(part >= low) & (part < high)]) for _, part in met.parts(PAIRS_AT_ONCE)]
        pairs = np.unique(np.concatenate(own)) if own else met.nothing()
        if len(pairs):
            yield (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)


class Held:
    """The different shingles of rows, those of the last rows at hand."""

    def __init__(self, shingles: GrowingRagged) -> None:
        self.shingles = shingles
        self.of: dict[int, np.ndarray] = {}
        self.values = 0

    def __getitem__(self, row: int) -> np.ndarray:
        held = self.of.get(row)
        if held is None:
            if self.values > HELD_VALUES:
                self.of, self.values = {}, 0
            held = self.of[row] = np.unique(self.shingles.part(row, row + 1).values)
            self.values += len(held)
        return held

    def index(self, one: int, other: int) -> float:
        mine, its = self[one], self[other]
        common = len(np.intersect1d(mine, its, assume_unique=True))
        return common / (len(mine) + len(its) - common)


def proposed(signature: Growing, threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs that meet in a band and whose signatures are nearly alike enough; a pair may come again."""
    for keys, rows in buckets(signature):
        for start in range(0, len(rows), AT_ONCE):
            near = slice(start, start + AT_ONCE + MOST_IN_BUCKET)
            yield from likely(signature.rows(rows[near]), rows[near], keys[near], threshold)


def buckets(signature: Growing) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(keys, rows) of the rows that meet another in a band, in the order of the keys, then of the rows."""
    count = len(signature)
    bands = max(1, min(BANDS, KEYS_AT_ONCE // max(1, count)))
    shares = count // KEYS_AT_ONCE + 1
    for first in range(0, BANDS, bands):
        some = range(first, min(first + bands, BANDS))
        for share in range(shares):
            for keys, rows in keys_of(signature, some, share, shares):
                order = np.argsort(keys, kind="stable")
                keys, rows = keys[order], rows[order]
                same = keys[1:] == keys[:-1]
                meets = np.concatenate((same, [False])) | np.concatenate(([False], same))
                yield keys[meets], rows[meets]


def keys_of(signature: Growing, bands: range, share: int, shares: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each of these bands (keys, rows): every key of one `share` of all."""
    out: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in bands]
    for first, part in signature.parts(AT_ONCE):
        for place, band in enumerate(bands):
            columns = part[:, band * BAND_ROWS : (band + 1) * BAND_ROWS].astype(np.uint64)
            keys = mixed(mixed(columns[:, 0] << np.uint64(32) | columns[:, 1]) + columns[:, 2])
            mine = np.flatnonzero(keys % np.uint64(shares) == share)
            out[place].append((keys[mine], (first + mine).astype(np.uint32)))
    return [(np.concatenate([k for k, _ in of]), np.concatenate([r for _, r in of])) for of in out if of]


def likely(
    signature: np.ndarray, rows: np.ndarray, keys: np.ndarray, threshold: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of the first AT_ONCE of `rows` with those behind them of the same key."""
    for lag in range(1, MOST_IN_BUCKET + 1):
        a = np.flatnonzero(keys[lag:] == keys[:-lag])
        a = a[a < AT_ONCE]
        if not len(a):
            break
        for count, slack in ((GLANCE, SLACK * 1.4), (PERMUTATIONS, SLACK)):
            equal = (signature[a, :count] == signature[a + lag, :count]).sum(axis=1)
            a = a[equal >= (threshold - slack) * count]
        yield rows[a], rows[a + lag]


def roots(count: int, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Of each row the first of those that it hangs together with; union-find."""
    root = array("q", range(count))

    def find(row: int) -> int:
        while root[row] != row:
            root[row] = root[root[row]]
            row = root[row]
        return row

    for some, others in pairs:
        for one, other in zip(some.tolist(), others.tolist(), strict=True):
            a, b = find(one), find(other)
            root[max(a, b)] = min(a, b)
    out = np.array(root, dtype=np.int64)
    while (out[out] != out).any():
        out = out[out]
    return out
