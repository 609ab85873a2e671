"""Arrays that grow batch by batch: their end in memory, the rest in a file without a name.

What lies in the file is read in pieces and never mapped: mapped pages count as memory of the process.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

IN_MEMORY = 2 << 20  # bytes of one array
AT_ONCE = 1 << 18  # values of ragged rows that are looked at together
ROWS_AT_ONCE, NEAR_BY = 1 << 10, 16


@dataclass(slots=True)
class Growing:
    """One array, appended to; `width` > 1 makes rows of it. It can be read at any time."""

    dtype: Any
    width: int = 1
    folder: Path | None = None  # where its file lies; None = it stays in memory
    tail: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.uint8))  # flat
    used: int = 0  # values of `tail`
    before: int = 0  # values in the file
    file: BinaryIO | None = None

    def __len__(self) -> int:
        return (self.before + self.used) // self.width

    def append(self, values: np.ndarray) -> None:
        flat = np.ascontiguousarray(values, dtype=self.dtype).reshape(-1)
        if self.folder is not None and (self.used + len(flat)) * flat.itemsize > IN_MEMORY:
            self.write(self.tail[: self.used])
            self.used = 0
        if self.folder is not None and flat.nbytes > IN_MEMORY:
            self.write(flat)
            return
        self.tail = with_room(self.tail, self.used, len(flat), self.dtype)
        self.tail[self.used : self.used + len(flat)] = flat
        self.used += len(flat)

    def write(self, flat: np.ndarray) -> None:
        if self.file is None:
            self.file = tempfile.TemporaryFile(dir=self.folder)  # type: ignore[assignment]  # noqa: SIM115
        assert self.file
        self.file.write(flat.data)
        self.file.flush()
        self.before += len(flat)

    def part(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop: [n] or [n, width]. Not to be written to."""
        first, last = start * self.width, stop * self.width
        pieces = []
        if first < self.before:
            pieces.append(self.from_file(first, min(last, self.before)))
        if last > self.before:
            pieces.append(self.tail[max(0, first - self.before) : last - self.before])
        flat = (pieces[0] if len(pieces) == 1 else np.concatenate(pieces)) if pieces else self.nothing()
        return flat.reshape(-1, self.width) if self.width > 1 else flat

    def from_file(self, first: int, last: int) -> np.ndarray:
        assert self.file
        size = np.dtype(self.dtype).itemsize
        out = np.empty(last - first, dtype=self.dtype)
        view, done = out.view(np.uint8).data if len(out) else memoryview(b""), 0
        while done < len(view):
            done += os.preadv(self.file.fileno(), [view[done:]], first * size + done)
        return out

    def parts(self, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """(number of the first, rows) of so many rows each."""
        for start in range(0, len(self), rows):
            yield start, self.part(start, min(start + rows, len(self)))

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """These rows: [n] or [n, width]."""
        if not self.before:
            return self.part(0, len(self))[numbers]
        assert self.file
        out = np.empty((len(numbers), self.width), dtype=self.dtype)
        written = self.before // self.width
        late = np.flatnonzero(numbers >= written)
        out[late] = self.tail[: self.used].reshape(-1, self.width)[numbers[late] - written]
        view, size, file = out.reshape(-1).view(np.uint8).data, out.itemsize * self.width, self.file.fileno()
        for place in np.flatnonzero(numbers < written).tolist():
            os.preadv(file, [view[place * size : (place + 1) * size]], int(numbers[place]) * size)
        return out if self.width > 1 else out[:, 0]

    def read(self) -> np.ndarray:
        """All of it."""
        return self.part(0, len(self))

    def nothing(self) -> np.ndarray:
        return np.zeros(0, dtype=self.dtype)


def with_room(tail: np.ndarray, used: int, more: int, dtype: Any) -> np.ndarray:
    """`tail` itself where so many values fit in, else a longer copy."""
    if tail.dtype == dtype and used + more <= len(tail):
        return tail
    longer = np.empty(max(used + more, 2 * used, 64), dtype=dtype)
    longer[:used] = tail[:used]
    return longer


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows of different lengths: row n is values[ends[n - 1]:ends[n]]."""

    values: np.ndarray
    lengths: np.ndarray  # int64

    @staticmethod
    def of(values: np.ndarray, group: np.ndarray, groups: int) -> Ragged:
        """`group` rises."""
        return Ragged(values, np.bincount(group, minlength=groups))

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def row(self) -> np.ndarray:
        """Of each value the number of its row."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def take(self, rows: np.ndarray) -> Ragged:
        lengths = self.lengths[rows]
        starts = (np.cumsum(self.lengths) - self.lengths)[rows]
        shift = starts - (np.cumsum(lengths) - lengths)
        return Ragged(self.values[np.repeat(shift, lengths) + np.arange(lengths.sum())], lengths)


@dataclass(slots=True)
class GrowingRagged:
    """Ragged rows, appended to."""

    values: Growing
    ends: Growing

    @staticmethod
    def of(dtype: Any, folder: Path | None) -> GrowingRagged:
        return GrowingRagged(Growing(dtype, folder=folder), Growing(np.int64, folder=folder))

    def __len__(self) -> int:
        return len(self.ends)

    def append(self, rows: Ragged) -> None:
        self.ends.append(len(self.values) + np.cumsum(rows.lengths))
        self.values.append(rows.values)

    def starts(self, start: int, stop: int) -> np.ndarray:
        """Where each of the rows start to stop begins among the values; one more at the end."""
        ends = self.ends.part(max(0, start - 1), stop)
        return np.concatenate(([0], ends)) if start == 0 else ends

    def part(self, start: int, stop: int) -> Ragged:
        """Rows start to stop."""
        starts = self.starts(start, stop)
        return Ragged(self.values.part(int(starts[0]), int(starts[-1])), np.diff(starts))

    def parts(self, values: int = AT_ONCE) -> Iterator[tuple[int, Ragged]]:
        """(number of the first, rows) of about so many values each, a row never cut."""
        for first, ends in self.ends.parts(AT_ONCE):
            starts = self.starts(first, first + len(ends))
            at = 0
            while at < len(ends):
                to = max(at + 1, int(np.searchsorted(starts, starts[at] + values, side="right")) - 1)
                yield first + at, self.part(first + at, first + to)
                at = to

    def rows(self, numbers: np.ndarray) -> Ragged:
        """These rows, in their order."""
        pieces = [self.some(numbers[n : n + ROWS_AT_ONCE]) for n in range(0, len(numbers), ROWS_AT_ONCE)]
        return joined_rows(pieces, self.values.nothing())

    def some(self, numbers: np.ndarray) -> Ragged:
        """Read in one where they lie near each other."""
        low, high = int(numbers.min()), int(numbers.max()) + 1
        if high - low <= NEAR_BY * len(numbers):
            return self.part(low, high).take(numbers - low)
        return joined_rows([self.part(n, n + 1) for n in numbers.tolist()], self.values.nothing())


def joined_rows(pieces: Sequence[Ragged], nothing: np.ndarray) -> Ragged:
    values = np.concatenate([nothing, *(piece.values for piece in pieces)])
    return Ragged(values, np.concatenate([np.zeros(0, dtype=np.int64), *(piece.lengths for piece in pieces)]))
