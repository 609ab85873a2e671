"""How long a connection may take to ask, and how many there may be: uvicorn alone waits for ever.

A handshake of TLS has HANDSHAKE_S, a head HEAD_S, a body BODY_S and then a least speed; what still comes of a
body that has its answer already has SPARE_S. Between two requests a connection rests for KEEP_S, and goes
without a word: a client that asks at that moment would read a 408 as its answer. Where there are too many
connections, the one that has waited longest for its head, or has its answer, makes room. Every server of ours
that others can reach is set up by `bounded`. Not here: how long an answer may take (`Caller.deadline_s`).
"""

from __future__ import annotations

import asyncio
import resource
import ssl
import time
from asyncio import constants
from collections.abc import Callable
from functools import partial
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HANDSHAKE_S = 10.0  # asyncio alone waits 60 s for one
HEAD_S = 10.0  # for a whole request head; nginx has 60 s, but our clients are programs
# Longer than clients keep a connection that rests (Python 5 s, Node 4 s, proxies 60 s): else one asks just
# when we close, and has an error that it may not repeat. nginx has 75 s too.
KEEP_S = 75
BODY_S = 20.0  # then a body comes at BODY_BYTES_PER_S at least (Apache's mod_reqtimeout: 20 s, 500 bytes/s)
BODY_BYTES_PER_S = 1000.0
SPARE_S = 30.0  # for the rest of a body that was answered before its end (nginx's lingering_time)
GRACE_S = 1  # for connections to close once a server ends
MOST_CONNECTIONS = 4096  # each may hold a head of 16 KiB: 64 MiB together
RESERVED_FILES = 64  # descriptors for files, engines and the control socket
LEAST_CONNECTIONS = 16
BACKLOG = 256  # asyncio accepts so many at one go, before it counts any
FILES = 65_536  # descriptors wanted

Words = Callable[[int, str, str], tuple[str, bytes]]  # status, message, code -> kind of body, body


def bounded(app: Any, others: Connections, tls: ssl.SSLContext | None = None) -> uvicorn.Config:
    """uvicorn's settings for `app`, each connection one of `others`."""
    constants.SSL_HANDSHAKE_TIMEOUT = HANDSHAKE_S  # type: ignore[misc]  # uvicorn has no word for it
    config = uvicorn.Config(
        app, lifespan="off", log_config=None, access_log=False, ws="none", server_header=False,
        http=partial(Connection, others),  # type: ignore[arg-type]
        timeout_graceful_shutdown=GRACE_S, timeout_keep_alive=KEEP_S, backlog=BACKLOG, loop="asyncio",
    )  # fmt: skip
    config.load()
    config.ssl = tls
    return config


def raise_file_limit(wanted: int = FILES) -> int:
    """The limit of open files afterwards: as many as `wanted`, or as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= wanted:
        return wanted if soft == unlimited else soft
    raised = wanted if hard == unlimited else min(hard, wanted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    return raised


class Connections:
    """All open connections of a service. One address has half of them at most."""

    def __init__(self, files: int, words: Words, most: int = MOST_CONNECTIONS) -> None:
        """`files`: the limit of open files; half of them are for those that come before others go.

        `words`: the body of what a client is told that came too late, or once too many.
        """
        self.limit = max(LEAST_CONNECTIONS, min(most, (files - RESERVED_FILES) // 2))
        self.words = words
        self.of_address = self.limit // 2
        self.open: dict[str, int] = {}  # by address
        self.waiting: dict[str, dict[Connection, None]] = {}  # for a head, or answered; longest first

    def enter(self, connection: Connection, address: str) -> bool:
        """Whether there is room for it, if need be after another has been closed."""
        if self.open.get(address, 0) >= self.of_address:
            entered = self._close_waiting(address)
        elif sum(self.open.values()) >= self.limit:
            crowded = max(self.waiting, key=lambda at: len(self.waiting[at]), default=None)
            entered = self._close_waiting(crowded)
        else:
            entered = True
        if entered:
            self.open[address] = self.open.get(address, 0) + 1
        return entered

    def _close_waiting(self, address: str | None) -> bool:
        """Whether a connection of that address could be closed: the one that has waited longest."""
        if address is None or not (waiting := self.waiting.get(address)):
            return False
        longest = next(iter(waiting))
        self.asked(longest, address)
        longest.transport.abort()
        return True

    def wait(self, connection: Connection, address: str) -> None:
        self.waiting.setdefault(address, {})[connection] = None

    @property
    def unasked(self) -> bool:
        """Whether anybody has come who has not asked anything yet."""
        return any(one.cycle is None for waiting in self.waiting.values() for one in waiting)

    def asked(self, connection: Connection, address: str) -> None:
        """Its head is whole, or it has gone."""
        waiting = self.waiting.get(address, {})
        waiting.pop(connection, None)
        if not waiting:
            self.waiting.pop(address, None)

    def leave(self, connection: Connection, address: str) -> None:
        self.asked(connection, address)
        self.open[address] -= 1
        if not self.open[address]:
            del self.open[address]


class Connection(H11Protocol):
    """uvicorn's, with deadlines for what the client sends."""

    def __init__(self, others: Connections, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self.others = others
        self.entered = False
        # The client's state as h11 names it; a head has begun; what comes has its answer already.
        self.awaited: tuple[Any, bool, bool] = (None, False, False)
        self.timer: asyncio.TimerHandle | None = None
        self.since_s = 0.0
        self.read_bytes = 0

    @property
    def address(self) -> str:
        return self.client[0] if self.client else ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.entered = self.others.enter(self, self.address)
        if self.entered:
            self._watch()
        else:
            self._refuse(503, "too many connections", "too_many_connections")

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self.entered:
            self.others.leave(self, self.address)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.read_bytes += len(data)
        super().data_received(data)
        self._watch()

    def _unsupported_upgrade_warning(self) -> None:
        """No word: uvicorn's advises to install what would not help. The request goes on as HTTP."""

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def _watch(self) -> None:
        """A new deadline where something else is awaited than before."""
        state = self.conn.their_state
        anew = state is not self.awaited[0]
        begun = state is h11.IDLE and self.read_bytes > 0 and not anew
        spare = state is h11.SEND_BODY and self.cycle is not None and self.cycle.response_complete
        awaited = state, begun, spare
        if awaited == self.awaited or self.transport.is_closing():
            return
        self.awaited = awaited
        self._stop_timer()
        if anew:
            self.since_s, self.read_bytes = time.monotonic(), 0
            self.others.asked(self, self.address)
        if (anew and state is h11.IDLE) or spare:
            self.others.wait(self, self.address)
        if (limit_s := self._limit_s()) is not None:
            self.timer = self.loop.call_later(limit_s, self._late)

    def _limit_s(self) -> float | None:
        state, begun, spare = self.awaited
        if state is h11.SEND_BODY:
            return SPARE_S if spare else BODY_S
        if state is not h11.IDLE:
            return None
        rests = self.cycle is not None and not begun
        return KEEP_S if rests else HEAD_S

    def _late(self) -> None:
        """Close it, unless a body is coming at some speed, or it is we who do not read on."""
        state, begun, spare = self.awaited
        if spare or (state is h11.IDLE and not begun):
            self.transport.close()
            return
        if state is h11.SEND_BODY and (self.flow.read_paused or self._fast_enough()):
            self.timer = self.loop.call_later(BODY_S, self._late)
            return
        part = "head" if state is h11.IDLE else "body"
        self._refuse(408, f"the {part} of the request did not come in time", "slow_request")

    def _fast_enough(self) -> bool:
        return self.read_bytes >= (time.monotonic() - self.since_s) * BODY_BYTES_PER_S

    def _refuse(self, status: int, message: str, code: str) -> None:
        """Written past the application, where nothing has been answered yet; then the end."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(_raw(status, *self.others.words(status, message, code)))
        self.transport.close()

    def _stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


def _raw(status: int, kind: str, body: bytes) -> bytes:
    """An answer over HTTP/1.1 that ends its connection."""
    head = [
        f"HTTP/1.1 {status} {'Request Timeout' if status == 408 else 'Service Unavailable'}",
        f"content-type: {kind}",
        f"content-length: {len(body)}",
        "connection: close",
    ]
    return "\r\n".join([*head, "", ""]).encode() + body
