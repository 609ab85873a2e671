"""Which row had a key first: a table of 16 bytes a row in memory, the keys themselves in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .store import Growing

FULL = 0.6  # of the places of the table
LEAST = 1 << 12
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
AT_ONCE = 1 << 16  # keys put in together


class Keys:
    """Keys of 16 bytes that are hashes; the n-th new one is that of row n.

    A place holds 32 bits of the key and the row's number plus one; equal bits are checked against the key.
    """

    def __init__(self, folder: Path | None) -> None:
        self.kept = Growing(np.uint64, 2, folder)
        self.places = np.zeros(LEAST, dtype=np.uint64)

    def __len__(self) -> int:
        return len(self.kept)

    def first(self, keys: Sequence[bytes]) -> list[int]:
        """Of each key the number of the row that had it first; a new one gets the next number."""
        number: dict[bytes, int] = dict.fromkeys(keys, -1)
        pairs = np.frombuffer(b"".join(number), dtype=np.uint64).reshape(-1, 2)
        rows = self.rows_of(pairs)
        new = np.flatnonzero(rows < 0)
        rows[new] = len(self) + np.arange(len(new))
        self.put(pairs[new], rows[new])
        self.kept.append(pairs[new])
        number = dict(zip(number, rows.tolist(), strict=True))
        return [number[key] for key in keys]

    def rows_of(self, pairs: np.ndarray) -> np.ndarray:
        """int64, -1 where the key is new."""
        out = np.full(len(pairs), -1, dtype=np.int64)
        open_ = np.arange(len(pairs))
        place = self.place_of(pairs)
        while len(open_):
            held = self.places[place]
            alike = np.flatnonzero((held >> HALF == pairs[open_, 0] >> HALF) & (held > 0))
            rows = (held[alike] & LOW).astype(np.int64) - 1
            equal = (self.kept.rows(rows) == pairs[open_[alike]]).all(axis=1)
            out[open_[alike[equal]]] = rows[equal]
            goes_on = (held > 0) & (out[open_] < 0)
            open_, place = open_[goes_on], self.next_to(place[goes_on])
        return out

    def put(self, pairs: np.ndarray, rows: np.ndarray) -> None:
        """Different keys that are new."""
        if len(self) + len(pairs) > FULL * len(self.places):
            self.enlarge(len(self) + len(pairs))
        place = self.place_of(pairs)
        values = (pairs[:, 0] >> HALF << HALF) | (rows.astype(np.uint64) + np.uint64(1))
        while len(values):
            free = self.places[place] == 0
            self.places[place[free]] = values[free]  # of two at one place the last stays
            lost = self.places[place] != values
            place, values = self.next_to(place[lost]), values[lost]

    def enlarge(self, keys: int) -> None:
        size = len(self.places)
        while keys > FULL * size / 2:
            size *= 2
        self.places = np.zeros(size, dtype=np.uint64)
        for start, pairs in self.kept.parts(AT_ONCE):
            self.put(pairs, start + np.arange(len(pairs)))

    def place_of(self, pairs: np.ndarray) -> np.ndarray:
        return (pairs[:, 1] & np.uint64(len(self.places) - 1)).astype(np.int64)

    def next_to(self, places: np.ndarray) -> np.ndarray:
        return (places + 1) & (len(self.places) - 1)
