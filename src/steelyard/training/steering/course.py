"""The course of a training, whichever engine runs it: when its state is saved, what it says at its end.

Where the recipe names no steps a checkpoint is due at the square root of twice its cost times the time
between failures (Young 1974, doi 10.1145/361147.361115; Daly 2006, doi 10.1016/j.future.2004.11.016). The
clock decides alone when, never what is computed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

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


def course_figures(curve: Sequence[Mapping[str, float]], step_s: Sequence[float]) -> dict[str, float]:
    """From a point a step; SI units. Times are of this attempt's steps, the first left out; none of an
    attempt that had no step left to take."""
    looks = [point["eval_loss"] for point in curve if "eval_loss" in point]
    scores = [point["eval_score"] for point in curve if "eval_score" in point]
    best = ({"eval_loss": min(looks)} if looks else {}) | ({"eval_score": max(scores)} if scores else {})
    return best | {
        "steps": len(curve),
        "tokens": sum(point["tokens"] for point in curve),
        "loss": curve[-1]["loss"],
        **(_pace(curve, step_s[1:] or step_s) if step_s else {}),
    }


def _pace(curve: Sequence[Mapping[str, float]], timed: Sequence[float]) -> dict[str, float]:
    trained = sum(point["tokens"] for point in curve[-len(timed) :])
    return {"step_s": median(timed), "tokens_per_s": trained / max(sum(timed), 1e-9)}
