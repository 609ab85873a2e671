"""Which services of this machine have work, told as it changes: each says so over its control socket.

The driver counts it (`Listening`: what `Load` is made of), a step stands still for it (`run`).
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
Told = Callable[[str, bool], float]


class Following(threading.Thread):
    """Calls `told`, in a thread of its own: with a service and whether it has work, whenever it says so or is
    gone; and with "" and False, whenever time has passed. `told` answers in how many seconds at the latest it
    wants to be called again."""

    def __init__(self, name: str, services: Services, told: Told) -> None:
        super().__init__(daemon=True, name=name)
        self.services, self.told = services, told
        self.followed: dict[str, socket.socket] = {}
        self.selector = selectors.DefaultSelector()
        self.woken, self.wakes = os.pipe()
        self.selector.register(self.woken, selectors.EVENT_READ)
        self.ended = False
        self.start()

    def run(self) -> None:
        next_look_s = wait_s = 0.0
        while not self.ended:
            if time.monotonic() >= next_look_s:
                self._look()
                next_look_s = time.monotonic() + LOOK_EVERY_S
            for key, _ in self.selector.select(max(0.0, min(wait_s, next_look_s - time.monotonic()))):
                if key.data:
                    self._hear(key.data)
            wait_s = self.told("", False)
        for followed in self.followed.values():
            followed.close()
        self.selector.close()
        os.close(self.woken)
        os.close(self.wakes)

    def end(self) -> bool:
        """`told` is called no more; False where that was so already."""
        if self.ended:
            return False
        self.ended = True
        os.write(self.wakes, b"x")
        self.join()
        return True

    def _look(self) -> None:
        """Follow the services that are new."""
        for control in self.services():
            if control not in self.followed:
                with suppress(OSError):
                    self.followed[control] = followed = _follow(control)
                    self.selector.register(followed, selectors.EVENT_READ, control)

    def _hear(self, control: str) -> None:
        """Of all that a service has said since, the last line counts; one that is gone has no work."""
        heard = b""
        with suppress(OSError):
            heard = self.followed[control].recv(1 << 12)
        if not heard:
            self.selector.unregister(self.followed[control])
            self.followed.pop(control).close()
        self.told(control, bool(heard) and _says_busy(heard.splitlines()[-1]))


class Listening:
    """Counts the seconds in which any service had work."""

    def __init__(self, services: Services) -> None:
        self.busy: set[str] = set()
        self.busy_s, self.since_s, self.counted_s = 0.0, time.monotonic(), time.monotonic()
        self.lock = threading.Lock()
        self.following = Following("listening", services, self._told)

    def share(self) -> float:
        """Of the time since it was last asked: the share in which a service had work."""
        with self.lock:
            self._count()
            now_s = time.monotonic()
            share = self.busy_s / max(now_s - self.since_s, 1e-9)
            self.busy_s, self.since_s = 0.0, now_s
        return min(1.0, share)

    def end(self) -> None:
        self.following.end()

    def _told(self, control: str, busy: bool) -> float:
        with self.lock:
            self._count()
            (self.busy.add if busy else self.busy.discard)(control)
        return LOOK_EVERY_S

    def _count(self) -> None:
        now_s = time.monotonic()
        if self.busy:
            self.busy_s += now_s - self.counted_s
        self.counted_s = now_s


def _follow(control: str) -> socket.socket:
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


def _says_busy(line: bytes) -> bool:
    with suppress(ValueError, TypeError, KeyError):
        return bool(json.loads(line)["busy"])
    return False
