"""How much of a period the services of this machine had work: what `Load` is made of.

A service says over its control socket when its work begins and ends. A thread of the driver listens; one that
is gone has no work.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

LOOK_EVERY_S = 3.0  # for services that have started since
CONNECT_S = 1.0

Services = Callable[[], Iterable[str]]  # the control sockets of those that live now


def follow(control: str) -> socket.socket:
    """A connection on which a service says whether it has work: now, and whenever that changes. Raises
    OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(CONNECT_S)
        connection.connect(control)
        connection.sendall(b'{"op":"follow"}\n')
    except OSError:
        connection.close()
        raise
    connection.setblocking(False)
    return connection


def says_busy(line: bytes) -> bool:
    with suppress(ValueError, TypeError, KeyError):
        return bool(json.loads(line)["busy"])
    return False


class Listening(threading.Thread):
    """Counts the seconds in which any service had work."""

    def __init__(self, services: Services) -> None:
        super().__init__(daemon=True, name="listening")
        self.services = services
        self.busy: set[str] = set()
        self.busy_s, self.since_s, self.counted_s = 0.0, time.monotonic(), time.monotonic()
        self.lock = threading.Lock()
        self.followed: dict[str, socket.socket] = {}
        self.selector = selectors.DefaultSelector()
        self.woken, self.wakes = os.pipe()
        self.selector.register(self.woken, selectors.EVENT_READ)
        self.ended = False
        self.start()

    def share(self) -> float:
        """Of the time since it was last asked: the share in which a service had work."""
        with self.lock:
            self._count()
            now_s = time.monotonic()
            share = self.busy_s / max(now_s - self.since_s, 1e-9)
            self.busy_s, self.since_s = 0.0, now_s
        return min(1.0, share)

    def _count(self) -> None:
        now_s = time.monotonic()
        if self.busy:
            self.busy_s += now_s - self.counted_s
        self.counted_s = now_s

    def run(self) -> None:
        next_look_s = 0.0
        while not self.ended:
            if time.monotonic() >= next_look_s:
                self._look()
                next_look_s = time.monotonic() + LOOK_EVERY_S
            for key, _ in self.selector.select(max(0.0, next_look_s - time.monotonic())):
                if key.data:
                    self._hear(key.data)
        for followed in self.followed.values():
            followed.close()
        self.selector.close()
        os.close(self.woken)
        os.close(self.wakes)

    def end(self) -> None:
        if not self.ended:
            self.ended = True
            os.write(self.wakes, b"x")
            self.join()

    def _look(self) -> None:
        for control in self.services():
            if control not in self.followed:
                with suppress(OSError):
                    self.followed[control] = followed = follow(control)
                    self.selector.register(followed, selectors.EVENT_READ, control)

    def _hear(self, control: str) -> None:
        """Each line counts: an answer may be over before it is read."""
        heard = b""
        with suppress(OSError):
            heard = self.followed[control].recv(1 << 12)
        if not heard:
            self.selector.unregister(self.followed[control])
            self.followed.pop(control).close()
        busy = bool(heard) and says_busy(heard.splitlines()[-1])
        with self.lock:
            self._count()
            (self.busy.add if busy else self.busy.discard)(control)
