"""A stretch of bytes in a file or in memory: read at any place, never past its end, never too much at once.

Archives are walked through views of views, so that a stored member costs no copy.
"""

from __future__ import annotations

import io
import os
from typing import BinaryIO

from .limits import TooMuch

READ_BYTES_MAX = 64 << 20
BUFFER_BYTES = 1 << 16


class View(io.RawIOBase):
    """`size` bytes of `file` from `start`. Also a file of its own, for zipfile and tarfile."""

    def __init__(self, file: BinaryIO, start: int = 0, size: int | None = None) -> None:
        super().__init__()
        if size is None:
            size = file.seek(0, os.SEEK_END) - start
        self.file, self.start, self.size, self.place = file, start, size, 0

    def read_at(self, at: int, count: int) -> bytes:
        """Up to `count` bytes from `at`, none from before the view; a file may claim any place in itself.

        Raises TooMuch where that is more than one read may hold.
        """
        count = max(0, min(count, self.size - at)) if at >= 0 else 0
        if count > READ_BYTES_MAX:
            raise TooMuch("too_large")
        self.file.seek(self._within(at))
        return self.file.read(count)

    def read_into(self, at: int, buffer: memoryview) -> int:
        """Bytes of `buffer` that were filled from `at`."""
        if at < 0:
            return 0
        self.file.seek(self._within(at))
        return self.file.readinto(buffer[: max(0, min(len(buffer), self.size - at))])  # type: ignore[attr-defined]

    def part(self, at: int, size: int) -> View:
        size = max(0, min(size, self.size - at)) if at >= 0 else 0
        return View(self.file, self._within(at), size)

    def _within(self, at: int) -> int:
        """The place in the file; a claimed one may be larger than any file can have."""
        return self.start + min(max(0, at), self.size)

    def whole(self) -> bytes:
        return self.read_at(0, self.size)

    # as a file

    def read(self, count: int | None = -1, /) -> bytes:
        left = self.size - self.place
        data = self.read_at(self.place, left if count is None or count < 0 else min(count, left))
        self.place += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError("negative seek")
        self.place = base + offset
        return self.place

    def tell(self) -> int:
        return self.place

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def in_memory(data: bytes) -> View:
    return View(io.BytesIO(data), 0, len(data))


class Cut(Exception):
    """More bytes were wanted than there are."""


class Reader:
    """Reads a view from front to back through one small buffer. Raises Cut at its end."""

    def __init__(self, view: View, at: int = 0) -> None:
        self.view, self.base, self.place, self.buffer = view, at, 0, b""

    @property
    def at(self) -> int:
        return self.base + self.place

    @property
    def left(self) -> int:
        return self.view.size - self.at

    def take(self, count: int) -> bytes:
        end = self.place + count
        if end > len(self.buffer):
            self._fill(count)
            end = self.place + count
        data = self.buffer[self.place : end]
        self.place = end
        return data

    def _fill(self, count: int) -> None:
        if count > self.left:
            raise Cut
        self.base, self.place = self.at, 0
        self.buffer = self.view.read_at(self.base, max(count, BUFFER_BYTES))
        if len(self.buffer) < count:
            raise Cut

    def skip(self, count: int) -> None:
        if count > self.left:
            raise Cut
        self.place += count

    def line(self) -> bytes:
        """Up to and without the next newline. Raises TooMuch where that is longer than one read may hold."""
        end = self.buffer.find(b"\n", self.place) if self.place <= len(self.buffer) else -1
        for size in (BUFFER_BYTES, min(self.left, READ_BYTES_MAX + 1)):
            if end >= 0:
                break
            self.base, self.place = self.at, 0
            self.buffer = self.view.read_at(self.base, size)
            end = self.buffer.find(b"\n")
        if end < 0:
            raise Cut
        data, self.place = self.buffer[self.place : end], end + 1
        return data
