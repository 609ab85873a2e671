"""Arrays that grow batch by batch: in memory while they are small, then in a file without a name."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

IN_MEMORY = 32 << 20  # bytes of one array


@dataclass(slots=True)
class Growing:
    """One array, appended to; `width` > 1 makes rows of it. Reading it ends the writing."""

    dtype: Any
    width: int = 1
    folder: Path | None = None  # where its file lies; None = it stays in memory
    pieces: list[np.ndarray] = field(default_factory=list)
    held: int = 0
    file: BinaryIO | None = None

    def append(self, values: np.ndarray) -> None:
        if not values.size:
            return
        self.pieces.append(np.ascontiguousarray(values, dtype=self.dtype))
        self.held += self.pieces[-1].nbytes
        if self.held > IN_MEMORY and self.folder is not None:
            self.spill()

    def spill(self) -> None:
        if self.file is None:
            self.file = tempfile.TemporaryFile(dir=self.folder)  # type: ignore[assignment]  # noqa: SIM115
        assert self.file
        for piece in self.pieces:
            self.file.write(piece.data)
        self.pieces, self.held = [], 0

    def read(self) -> np.ndarray:
        """All of it, [n] or [n, width]; mapped where it lies in a file."""
        if self.file is not None:
            self.spill()
            self.file.flush()
            flat: np.ndarray = np.memmap(self.file, dtype=self.dtype, mode="r")
        else:
            flat = (
                np.concatenate([p.reshape(-1) for p in self.pieces])
                if self.pieces
                else np.zeros(0, self.dtype)
            )
            self.pieces = [flat]
        return flat.reshape(-1, self.width) if self.width > 1 else flat


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows of different lengths: row n is values[ends[n - 1]:ends[n]]."""

    values: np.ndarray
    lengths: np.ndarray  # int64

    @staticmethod
    def of(values: np.ndarray, group: np.ndarray, groups: int) -> Ragged:
        """`group` rises."""
        return Ragged(values, np.bincount(group, minlength=groups))

    def take(self, rows: np.ndarray) -> Ragged:
        ends = np.cumsum(self.lengths)
        pieces = [self.values[ends[r] - self.lengths[r] : ends[r]] for r in rows]
        return Ragged(np.concatenate(pieces) if pieces else self.values[:0], self.lengths[rows])


@dataclass(slots=True)
class GrowingRagged:
    """Ragged rows, appended to."""

    values: Growing
    lengths: Growing

    @staticmethod
    def of(dtype: Any, folder: Path | None) -> GrowingRagged:
        return GrowingRagged(Growing(dtype, folder=folder), Growing(np.int64, folder=folder))

    def append(self, rows: Ragged) -> None:
        self.values.append(rows.values)
        self.lengths.append(rows.lengths)

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """(values, where each row begins, one more at the end)."""
        lengths = self.lengths.read()
        starts = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=starts[1:])
        return self.values.read(), starts
