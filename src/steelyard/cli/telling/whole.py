"""How long the whole run still takes: a figure that does not climb while nothing is wrong. Pure.

Not here: the bar (terminal.py), the predictions (planner).
"""

from __future__ import annotations

from dataclasses import dataclass

WRONG = 1.25  # so many times slower than shown before, the user should see it
SLACK_S = 10.0  # below this no estimate is worth a jump


@dataclass(slots=True)
class Whole:
    """A run's steps by time: `step_s` is predicted of this step, `later_s` of those after it."""

    index: int = 0
    count: int = 0
    step_s: float | None = None
    later_s: float = 0.0
    started: float = 0.0
    shown_s: float | None = None  # seconds left, as last shown

    def begin(self, fields: dict[str, object], now: float) -> None:
        """A step begins; the fields of its event say what the plan expects."""
        step_s, left_s = fields.get("predicted_s"), fields.get("left_s")
        self.index, self.count = int(str(fields.get("index") or 0)), int(str(fields.get("count") or 0))
        self.step_s = float(str(step_s)) if step_s is not None else None
        self.later_s = float(str(left_s)) - (self.step_s or 0.0) if left_s is not None else 0.0
        self.started = now

    def left_s(self, now: float, share: float | None = None) -> float | None:
        """Seconds to the end of all steps; `share` of this step is done. None where nothing was predicted."""
        if self.step_s is None:
            return None
        return self._steady(self._step_left(now - self.started, share) + self.later_s)

    def _step_left(self, elapsed: float, share: float | None) -> float:
        """By the prediction at first, more and more by the speed so far."""
        assert self.step_s is not None
        if not share:
            return max(0.0, self.step_s - elapsed)
        whole = share * (elapsed / share) + (1 - share) * self.step_s
        return max(0.0, (1 - share) * whole)

    def _steady(self, estimate: float) -> float:
        """The estimate; one that is only a little above what was shown does not raise it."""
        if self.shown_s is not None and self.shown_s < estimate <= WRONG * self.shown_s + SLACK_S:
            estimate = self.shown_s
        self.shown_s = estimate
        return estimate
