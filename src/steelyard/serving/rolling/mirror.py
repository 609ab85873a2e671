"""Copies of live requests and of their answers, for a candidate that follows; nobody waits for it.

Around the routes, behind guard and queue. Without a follower requests pass by one look. A copy lies in
memory alone, and goes over a socket of this user's own; a follower that is slow loses copies.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..base.transport import streams
from .stream_errors import error_in, is_of_the_request

PATHS = ("/v1/chat/completions", "/v1/completions")
RESPONSES = "/v1/responses"
WATCHED = (*PATHS, RESPONSES, "/v1/messages")
MOST_BYTES = 256 * 1024  # of a body, and of an answer: what is longer is not copied
WAITING = 16  # copies that a follower has not taken yet
COMMENT = b":"  # a stream's sign of life while nothing has come yet
INSIDE = "inside"  # the server's name in requests that come from within: batches, copies
TOO_SLOW = 408  # the deadline that a client gave has passed

Ended = Callable[[bool, float, bool], None]


@dataclass(eq=False, slots=True)
class Follower:
    """Who gets copies of a share of the requests."""

    share: float
    due: float = 0.0  # a copy is taken when it reaches 1: the share holds exactly, and without chance
    queue: asyncio.Queue[dict[str, Any]] = field(default_factory=lambda: asyncio.Queue(WAITING))

    def wants(self) -> bool:
        self.due += self.share
        if self.due < 1.0:
            return False
        self.due -= 1.0
        return True

    def give(self, copy: dict[str, Any]) -> None:
        with suppress(asyncio.QueueFull):
            self.queue.put_nowait(copy)


class Mirror:
    """Around the application. `ended` hears of each answer that says something of the model, in any dialect:
    did it fail, when did it begin, has its client left."""

    def __init__(self, inner: ASGIApp) -> None:
        self.inner = inner
        self.followers: set[Follower] = set()
        self.ended: Ended | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not (self.followers or self.ended) or not _is_live(scope):
            return await self.inner(scope, receive, send)
        takers = [one for one in self.followers if one.wants()] if scope["path"] in PATHS else []
        exchange = Exchange(receive, send, keep=bool(takers))
        try:
            await self.inner(scope, exchange.receive, exchange.send)
        finally:
            if self.ended and exchange.counts(scope["path"]):
                self.ended(exchange.failed, exchange.began_after_s, exchange.left)
            for taker in takers if exchange.whole else ():
                taker.give(exchange.copy(scope["path"]))

    async def copies(self, share: float) -> AsyncIterator[dict[str, Any]]:
        """Until the reader leaves."""
        with self._following(share) as follower:
            while True:
                yield await follower.queue.get()

    @contextmanager
    def _following(self, share: float) -> Any:
        follower = Follower(share)
        self.followers.add(follower)
        try:
            yield follower
        finally:
            self.followers.discard(follower)


def _is_live(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in WATCHED:
        return False
    return (scope.get("server") or ("",))[0] != INSIDE


class Exchange:
    """One request and its answer, as they pass."""

    def __init__(self, receive: Receive, send: Send, keep: bool) -> None:
        self._receive, self._send, self.keep = receive, send, keep
        self.body, self.answer = bytearray(), bytearray()
        self.began_s = time.perf_counter()
        self.first_s: float | None = None
        self.whole_s = 0.0
        self.status = 0
        self.over = self.gone = self.streamed = self.later = False
        self.error: dict[str, Any] | None = None  # told within a stream, whose status was sound

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._take(self.body, message)
            self.later = self.later or b'"background"' in message.get("body", b"")
        elif not self.over:
            self.gone = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.streamed = streams(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            now_s, data = time.perf_counter() - self.began_s, message.get("body", b"")
            if self.first_s is None and data and not data.startswith(COMMENT):
                self.first_s = now_s
            if self.streamed and self.error is None:
                self.error = error_in(data)
            self._take(self.answer, message)
            if not message.get("more_body", False):
                self.over, self.whole_s = True, now_s
        await self._send(message)

    def _take(self, into: bytearray, message: Message) -> None:
        if self.keep:
            into.extend(message.get("body", b""))
            self.keep = len(into) <= MOST_BYTES

    @property
    def failed(self) -> bool:
        """It is the service's fault: a status of 500 and above, an error within the stream, an answer that
        broke off while its client stayed."""
        return self.status >= 500 or self.error is not None or not (self.over or self.left)

    @property
    def left(self) -> bool:
        """Its client waits no more: gone, or by the deadline that it gave."""
        return self.gone or self.status == TOO_SLOW

    def counts(self, path: str) -> bool:
        """It says something of the model: neither a refused request does, nor one that is answered later."""
        if self.error is not None:
            return not is_of_the_request(self.error)
        if path == RESPONSES and self.later:
            return False
        return self.status in (0, 200, TOO_SLOW) or self.status >= 500

    @property
    def began_after_s(self) -> float:
        """Seconds to the first piece of the answer; of one that has none, until now."""
        return self.first_s if self.first_s is not None else time.perf_counter() - self.began_s

    @property
    def whole(self) -> bool:
        """A copy says something: the client stayed, nothing was cut, the request was no fault."""
        return self.keep and self.over and not self.gone and (self.status == 200 or self.status >= 500)

    def copy(self, path: str) -> dict[str, Any]:
        return {
            "path": path,
            "body": self.body.decode("utf-8", "replace"),
            "status": self.status,
            "streamed": self.streamed,
            "answer": self.answer.decode("utf-8", "replace"),
            "first_s": self.first_s,
            "whole_s": self.whole_s,
        }


def as_line(copy: dict[str, Any]) -> bytes:
    return orjson.dumps(copy) + b"\n"
