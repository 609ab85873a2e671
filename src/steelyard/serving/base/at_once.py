"""How many requests are under way, of a key and in all, and how that comes to its end.

Each holds a body and a connection before it is in a queue. Once the service ends none may begin, and those
under way have their time. Not here: who says that it ends (service/front.py), how answers are ended
(host/generation.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import ApiError
from .guard import Caller
from .keys import KeyRing

REQUESTS = 256  # four full batches
ENDING = "the service is ending: ask again"
START_S = 5.0  # of a successor: a process, a model that is in the page cache


class Drain:
    """Counts the work under way: requests, lines of batches, responses made in the background."""

    def __init__(self) -> None:
        self.under_way = 0
        self.ends_at_s: float | None = None  # of the monotonic clock; None: not ending
        self._idle, self._busy = asyncio.Event(), asyncio.Event()
        self._idle.set()

    @property
    def begun(self) -> bool:
        return self.ends_at_s is not None

    def begin(self, limit_s: float) -> None:
        self.ends_at_s = time.monotonic() + limit_s

    def check(self) -> None:
        """Raises ApiError 503 where no new work is taken."""
        if self.ends_at_s is not None:
            left_s = max(0.0, self.ends_at_s - time.monotonic())
            raise ApiError(503, ENDING, code="draining", retry_after=left_s + START_S)

    @contextmanager
    def work(self) -> Iterator[None]:
        """One piece of work, to its end."""
        self.under_way += 1
        self._idle.clear()
        self._busy.set()
        try:
            yield
        finally:
            self.under_way -= 1
            if not self.under_way:
                self._busy.clear()
                self._idle.set()

    async def idle(self) -> None:
        """Until nothing is under way."""
        await self._idle.wait()

    async def changes(self) -> AsyncIterator[bool]:
        """Whether anything is under way: now, and whenever that changes."""
        while True:
            busy = self._busy.is_set()
            yield busy
            await (self._idle if busy else self._busy).wait()


class AtOnce:
    """Behind the guard, which says who asks. Batches' own lines come through it too."""

    def __init__(self, inner: ASGIApp, keys: KeyRing, usual: int, drain: Drain) -> None:
        """`usual`: for a key that has no number of its own."""
        self.inner, self.keys, self.usual, self.drain = inner, keys, usual, drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.inner(scope, receive, send)
        if scope["method"] != "POST":
            with self.drain.work():
                return await self.inner(scope, receive, send)
        caller: Caller = scope.get("state", {}).get("caller") or Caller()
        try:
            self.drain.check()
            with self.keys.account(caller.key_id).one_more(self.usual), self.drain.work():
                return await self.inner(scope, receive, send)
        except ApiError as e:  # the application answers its own
            return await e.response(scope["path"])(scope, receive, send)
