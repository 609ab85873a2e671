"""One request and what each server has made of it, over all attempts at an answer. Pure: no clock, no I/O.

What two servers fail alike is the request's own doing, and tells nothing of either.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple


class Gone(Exception):
    """A server has not made the answer, and another may.

    `kind`: how it failed ("status", "unreadable", "broke"); None where it is out, whatever it was asked.
    """

    def __init__(self, why: str, kind: str | None = None) -> None:
        super().__init__(why)
        self.kind = kind


class Busy(Exception):
    """It takes no more just now."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("it is busy")
        self.retry_after_s = retry_after_s


class Forbidden(Exception):
    """It refuses this request (HTTP 401, 403): its content, or what our key may ask for."""

    def __init__(self, status: int) -> None:
        super().__init__(f"it refuses the request (HTTP {status})")
        self.status = status


class Failure(NamedTuple):
    kind: str
    why: str


@dataclass(slots=True)
class Tries:
    """By the server's number."""

    failed: dict[int, Failure] = field(default_factory=dict)
    breaks: Counter[int] = field(default_factory=Counter)  # how often it broke off
    forbidden: dict[int, int] = field(default_factory=dict)  # HTTP status
    busy_until: dict[int, float] = field(default_factory=dict)
    busy_s: float = 1.0  # what a full one has said last
    rounds: int = 0  # that were waited for busy ones
    waited_s: float = 0.0  # for one to come back
    counted: dict[int, float] = field(default_factory=dict)  # errors that a breaker has heard of

    def failed_by(self, number: int, gone: Gone) -> None:
        if gone.kind is not None:
            self.failed[number] = Failure(gone.kind, str(gone))
            self.breaks[number] += gone.kind == "broke"

    def may_ask(self, number: int, alone: bool) -> bool:
        """Whether that may help. `alone`: a model's only server; where it broke off it gets one try more."""
        if number in self.forbidden:
            return False
        if number not in self.failed:
            return True
        return alone and self.failed[number].kind == "broke" and self.breaks[number] < 2

    @property
    def refused(self) -> bool:
        return bool(self.forbidden or self.failed)

    @property
    def hopeless(self) -> bool:
        """A server that was there has said no: none that is away is waited for."""
        return bool(self.forbidden) or any(one.kind != "broke" for one in self.failed.values())

    def to_count(self) -> list[int]:
        """Servers that failed as no other did, and whose breaker has not heard of it."""
        return [number for number in self.failed if number not in self.counted and not self._shared(number)]

    def to_forgive(self) -> list[int]:
        """Those that were counted before another one failed alike."""
        return [number for number in self.failed if number in self.counted and self._shared(number)]

    def _shared(self, number: int) -> bool:
        kind = self.failed[number].kind
        return any(one.kind == kind for other, one in self.failed.items() if other != number)
