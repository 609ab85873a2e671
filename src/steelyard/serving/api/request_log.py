"""One line in the service's log for each request, whoever answers it: a route, the guard, or nobody.

{"event": "request", "key", "method", "route", "status", "prompt_tokens", "completion_tokens", "ms",
"streamed", "left"}. No text, no header, no id of an object: `route` is the template. Not here: connections
that never sent a whole head (connections.py), lines of batches, which come from inside.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from starlette.routing import BaseRoute, Match
from starlette.types import Message, Receive, Scope, Send

from ..base.access import Access
from ..base.guard import Caller, Guard
from ..base.measures import Measures
from ..base.transport import streams

LEFT = 499  # nginx's word for a client that went before it had a status
Write = Callable[..., None]


class RequestLog:
    """Around the guard. `routes`: what templates are read from; `write` None: requests are only counted."""

    def __init__(
        self, guard: Guard, routes: Sequence[BaseRoute], measures: Measures, write: Write | None
    ) -> None:
        self.guard, self.routes, self.measures, self.write = guard, routes, measures, write
        self.inner = guard.inner

    def on(self, access: Access, quiet: bool = False) -> RequestLog:
        """The same application on another address; `quiet`: without lines."""
        write = None if quiet else self.write
        return RequestLog(self.guard.on(access), self.routes, self.measures, write)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.guard(scope, receive, send)
        scope.setdefault("state", {})
        exchange = _Exchange(receive, send)
        try:
            await self.guard(scope, exchange.receive, exchange.send)
        finally:
            self._ended(scope, exchange)

    def _ended(self, scope: Scope, exchange: _Exchange) -> None:
        state = scope["state"]
        caller: Caller | None = state.get("caller")
        key: str | None = state.get("key_id") or (caller.key_id if caller else None)
        route, status = self._route(scope), exchange.status or LEFT
        self.measures.request(route, status, key, exchange.left)
        if self.write is None:
            return
        used = caller.used if caller else None
        self.write(
            "request",
            key=key,
            method=scope["method"] if scope["method"] in METHODS else "other",
            route=route,
            status=status,
            prompt_tokens=used.prompt if used else 0,
            completion_tokens=used.completion if used else 0,
            ms=round((time.perf_counter() - exchange.began_s) * 1000, 1),
            streamed=exchange.streamed,
            left=exchange.left,
        )

    def _route(self, scope: Scope) -> str | None:
        """The template, for refused requests too, which reached none; None: there is no such route."""
        if route := scope.get("route"):
            return str(route.path)
        found: str | None = None
        for route in self.routes:
            match, _ = route.matches(scope)
            if match is Match.FULL:
                return str(route.path)  # type: ignore[attr-defined]
            if match is Match.PARTIAL and found is None:  # another method
                found = str(route.path)  # type: ignore[attr-defined]
        return found


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class _Exchange:
    """What passes between client and application, looked at on its way."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.began_s = time.perf_counter()
        self.status: int | None = None
        self.streamed = self.left = self.over = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self.over:
            self.left = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.streamed = streams(message.get("headers", ()))
        elif not message.get("more_body", False):
            self.over = True
        await self._send(message)
