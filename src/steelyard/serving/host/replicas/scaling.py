"""How many replicas there shall be: ahead of the load, and down again late. Pure: time comes with the counts.

What is counted is requests at once (waiting ones too): by Little's law they are arrivals a second times the
seconds each takes, so that long answers and slow replicas count by themselves. The forecast is that of the
cluster's tide (steelyard.forecast), fed with the highest five seconds of each minute.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from ....forecast import Forecast

MINUTE_S = 60.0
SMOOTH_S = 5.0  # one burst of arrivals that is answered at once needs no replica
UNBOUNDED = 1 << 30
MOST_HEADROOM = 2.0  # rare bursts are no reason to hold more than twice what was there lately


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Bounds, and what a replica is for. `requests`: at once, that one replica answers well."""

    least: int = 1
    most: int = 1
    requests: int = 8
    down_s: float = 900.0  # fewer are needed for so long before one goes

    @staticmethod
    def of(words: Mapping[str, Any], most: int) -> Scale:
        """From the settings of a service; {} means that all of `most` always run."""
        return Scale(**{"least": most, **words, "most": most})


@dataclass(slots=True)
class Scaling:
    """Counts so far. `sample` is the whole of it."""

    scale: Scale
    forecast: Forecast = field(init=False)
    counts: deque[tuple[float, int]] = field(default_factory=deque)  # of the last SMOOTH_S
    began_s: float | None = None  # of the present minute
    peak: float = 0.0  # of it
    coming: int = 0  # replicas that the forecast asks for
    lower_since_s: float | None = None
    wanted: int = 0

    def __post_init__(self) -> None:
        """Its errors are taken in units of what one replica answers."""
        self.forecast = Forecast(least_base=float(self.scale.requests), most_headroom=MOST_HEADROOM)

    def sample(self, now_s: float, at_once: int) -> int:
        """How many replicas there shall be from now on, of the requests that there are at once."""
        self._count(now_s, at_once)
        now = ceil(self._mean() / self.scale.requests)
        needed = min(max(now, self.coming, self.scale.least), self.scale.most)
        self.wanted = self._held(now_s, needed)
        return self.wanted

    def _count(self, now_s: float, at_once: int) -> None:
        self.counts.append((now_s, at_once))
        while self.counts[0][0] <= now_s - SMOOTH_S:
            self.counts.popleft()
        if self.began_s is None:
            self.began_s = now_s
        if now_s - self.began_s >= MINUTE_S:
            self.forecast.learn(ceil(self.peak))
            self.coming = ceil(self.forecast.target(UNBOUNDED) / self.scale.requests)
            self.began_s, self.peak = now_s, 0.0
        self.peak = max(self.peak, self._mean())

    def _mean(self) -> float:
        return sum(count for _, count in self.counts) / len(self.counts)

    def _held(self, now_s: float, needed: int) -> int:
        """Up at once; down by one, once fewer have been enough for long."""
        if needed >= self.wanted:
            self.lower_since_s = None
            return needed
        if self.lower_since_s is None:
            self.lower_since_s = now_s
        if now_s - self.lower_since_s < self.scale.down_s:
            return self.wanted
        self.lower_since_s = now_s
        return self.wanted - 1
