"""How many devices serving will need when a device called back now is ready. Only finished minutes count."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from math import ceil, inf

AHEAD = 2  # a row ends, the decision follows, and the device serves in the minute after the next
WINDOW = 2_880  # minutes of which the errors of the forecast are kept: 48 h
ENOUGH = 120  # errors from which a quantile is taken
AT_FIRST, AT_LEAST = 1.5, 1.04  # headroom until then, and never less
QUANTILE = 0.99
HOLD = 5  # minutes: lent down to the highest target of these


@dataclass(slots=True)
class Forecast:
    """Need of the last minutes and how far the need that followed stood above what was expected."""

    needs: deque[int] = field(default_factory=lambda: deque(maxlen=6))
    bases: deque[float] = field(default_factory=lambda: deque(maxlen=AHEAD + 1))
    ratios: deque[float] = field(default_factory=deque)
    ordered: list[float] = field(default_factory=list)
    targets: deque[int] = field(default_factory=lambda: deque(maxlen=HOLD))
    least_base: float = 1.0  # errors over less than this count as over this: few are no measure
    most_headroom: float = inf

    def copy(self) -> Forecast:
        return Forecast(
            self.needs.copy(), self.bases.copy(), self.ratios.copy(), self.ordered.copy(),
            self.targets.copy(), self.least_base, self.most_headroom,
        )  # fmt: skip

    def learn(self, need: int) -> None:
        """A minute has ended."""
        self.needs.append(need)
        self.bases.append(self._base())
        if len(self.bases) > AHEAD:
            self._remember(need / max(self.bases[0], self.least_base))

    def _base(self) -> float:
        """The highest of three minutes, and their rise over the three before."""
        last = max(islice(reversed(self.needs), 3))
        before = max(islice(self.needs, max(0, len(self.needs) - 3)), default=last)
        return last + max(0, last - before)

    def _remember(self, ratio: float) -> None:
        self.ratios.append(ratio)
        insort(self.ordered, ratio)
        if len(self.ratios) > WINDOW:
            del self.ordered[bisect_left(self.ordered, self.ratios.popleft())]

    def headroom(self) -> float:
        """The factor that 99 % of the minutes stayed below, within its bounds."""
        if len(self.ordered) < ENOUGH:
            return AT_FIRST
        return min(self.most_headroom, max(AT_LEAST, self.ordered[int(QUANTILE * (len(self.ordered) - 1))]))

    def target(self, most: int) -> int:
        """Devices that shall serve two minutes from the last known one, at most `most`."""
        wanted = most if not self.bases else min(most, ceil(self.bases[-1] * self.headroom()))
        self.targets.append(wanted)
        return wanted

    def floor(self) -> int:
        """Lending leaves this many: the highest target of the last minutes."""
        return max(self.targets)
