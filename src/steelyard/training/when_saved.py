"""When a checkpoint is due, where the recipe names no steps: as the square root of twice its cost times the
time between failures (Young 1974, doi 10.1145/361147.361115; Daly 2006, doi 10.1016/j.future.2004.11.016).

The clock decides alone when, never what is computed.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

# A working day: machines of a company are shut, restarted and shared long before their hardware fails
# (30,000 h of a server, hardware/catalogue.py).
BETWEEN_FAILURES_S = 8 * 3600.0
FIRST_S = 20.0  # until the first has shown what one costs
LEAST = 20.0  # times its cost, so that saving takes no twentieth of the run however short the time between


def interval_s(save_s: float, between_failures_s: float = BETWEEN_FAILURES_S) -> float:
    """Seconds from one checkpoint to the next that lose the least: sqrt(2 C M)."""
    return max(math.sqrt(2 * save_s * between_failures_s), LEAST * save_s)


@dataclass(slots=True)
class Due:
    """`steps`: the recipe's own, else by the clock."""

    steps: int | None = None
    at: float = field(default_factory=lambda: time.monotonic() + FIRST_S)

    def is_due(self, done: int) -> bool:
        return done % self.steps == 0 if self.steps else time.monotonic() >= self.at

    def saved(self, save_s: float) -> None:
        """One was saved, and took so long."""
        self.at = time.monotonic() + interval_s(save_s)
