"""Lines of a stream, ended by line feeds alone: httpx ends them at U+2028 too, which JSON may hold."""

from __future__ import annotations

import math
import os
import select
from collections.abc import AsyncIterator, Callable, Iterator

POLL_S = 0.1


class LineTooLong(ValueError):
    """More bytes without a line feed than may be."""


class Lines:
    """Bytes as they come, in whole lines; `rest` has no end yet. The cost grows with the bytes alone."""

    def __init__(self, most_bytes: float = math.inf) -> None:
        """`most_bytes`: of a line."""
        self.most_bytes = most_bytes
        self._held = bytearray()

    @property
    def rest(self) -> bytes:
        return bytes(self._held)

    def of(self, chunk: bytes) -> list[bytes]:
        """Those that this chunk ends. Raises LineTooLong."""
        first, *more = chunk.split(b"\n")
        self._held += first
        if max(map(len, (self._held, *more))) > self.most_bytes:
            raise LineTooLong
        if not more:
            return []
        whole = [self.rest, *more[:-1]]
        self._held = bytearray(more[-1])
        return whole


def each_line(chunks: Iterator[bytes]) -> Iterator[bytes]:
    lines = Lines()
    for chunk in chunks:
        yield from lines.of(chunk)
    yield lines.rest


def each_line_of_pipe(fd: int, tick: Callable[[], None]) -> Iterator[bytes]:
    """Whole lines until the last writer has closed it; `tick` is called at least every POLL_S meanwhile."""
    lines = Lines()
    while True:
        tick()
        if not select.select([fd], [], [], POLL_S)[0]:
            continue
        piece = os.read(fd, 1 << 16)
        if not piece:
            return
        yield from lines.of(piece)


async def each_line_soon(chunks: AsyncIterator[bytes], most_bytes: float = math.inf) -> AsyncIterator[bytes]:
    """The same of a stream that is waited for. Raises LineTooLong for a line of more than `most_bytes`."""
    lines = Lines(most_bytes)
    async for chunk in chunks:
        for line in lines.of(chunk):
            yield line
    yield lines.rest
