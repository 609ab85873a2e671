"""Lines of a stream, ended by line feeds alone: httpx ends them at U+2028 too, which JSON may hold."""

from __future__ import annotations

import os
import select
from collections.abc import AsyncIterator, Callable, Iterator

POLL_S = 0.1


class Lines:
    """Bytes as they come, in whole lines; `rest` has no end yet."""

    def __init__(self) -> None:
        self.rest = b""

    def of(self, chunk: bytes) -> list[bytes]:
        """Those that this chunk ends."""
        *whole, self.rest = (self.rest + chunk).split(b"\n")
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


async def each_line_soon(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same of a stream that is waited for."""
    lines = Lines()
    async for chunk in chunks:
        for line in lines.of(chunk):
            yield line
    yield lines.rest
