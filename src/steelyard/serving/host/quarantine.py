"""Requests that a crash of the engine interrupted, made again so that none takes the others down twice.

Who had only just come when the engine ended, or was there at two ends, is a suspect: those run one at a time,
while no other that was interrupted runs. The others run together. Who has come since is not held up. A
server of others (`joined`) is not ended by a request in a way that could be seen: there nobody is a suspect.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Quarantine:
    """`together`: interrupted answers that run now; `alone`: the suspect that does, with `answers`."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self.together, self.answers = 0, 0
        self.alone: int | None = None

    @asynccontextmanager
    async def again(self, request: int, suspect: bool) -> AsyncIterator[None]:
        """One more attempt at an answer of an interrupted request, in its turn."""
        while not self._free(request, suspect):
            await self._changed.wait()
        self._count(request, suspect, 1)
        try:
            yield
        finally:
            self._count(request, suspect, -1)

    def _free(self, request: int, suspect: bool) -> bool:
        if self.alone is not None:
            return suspect and self.alone == request
        return not (suspect and self.together)

    def _count(self, request: int, suspect: bool, change: int) -> None:
        if suspect:
            self.answers += change
            self.alone = request if self.answers else None
        else:
            self.together += change
        self._changed.set()
        self._changed = asyncio.Event()
