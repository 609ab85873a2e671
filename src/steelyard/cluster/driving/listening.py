"""How much of a period the services of this machine had work: what `Load` is made of."""

from __future__ import annotations

import threading
import time

from .following import LOOK_EVERY_S, Following, Services


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
