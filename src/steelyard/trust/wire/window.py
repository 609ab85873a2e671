"""Each sealed request once: its time is near the service's, and its encapsulated key was not met before.

In memory alone: the sealing key is new with each process, so what an earlier one has met opens nowhere.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from email.utils import parsedate_to_datetime

WINDOW_S = 120.0  # either way: clocks differ, and a request may have waited at a relay
MOST = 1_000_000  # 100 MB


class Replayed(Exception):
    """This very request came before."""


class WrongClock(Exception):
    """The request has no time, or one too far from this machine's."""


class Window:
    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._met: OrderedDict[bytes, float] = OrderedDict()  # by when they came

    def take(self, enc: bytes, date: bytes | None) -> None:
        """Raises WrongClock, Replayed."""
        now = self._clock()
        if (sent := moment(date)) is None or abs(now - sent) > WINDOW_S:
            raise WrongClock
        while self._met and next(iter(self._met.values())) < now - 2 * WINDOW_S:
            self._met.popitem(last=False)
        name = hashlib.sha256(enc).digest()[:16]
        if name in self._met or len(self._met) >= MOST:
            raise Replayed
        self._met[name] = now


def moment(date: bytes | None) -> float | None:
    """Seconds since 1970 of a Date field, None where it is none."""
    try:
        return parsedate_to_datetime((date or b"").decode("ascii")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
