"""Lines of a stream as its server ends them: httpx ends them at U+2028 too, which JSON may hold."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator


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


async def each_line_soon(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same of a stream that is waited for."""
    lines = Lines()
    async for chunk in chunks:
        for line in lines.of(chunk):
            yield line
    yield lines.rest
