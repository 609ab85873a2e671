"""Will the job keep its deadline and budget? Told during its training, at the pace that is measured.

`goal.on_miss` says what is done then: `go_on`, or `stop` at the next safe point, with its checkpoint.
"""

from __future__ import annotations

import time
from typing import Any

from ...artefact import Place, Progress, Watch
from ...errors import Refused, Where
from ...units import show_s
from .learn import price_per_h
from .run import Run

SURE, SURE_S = 0.02, 30.0  # share of the work and seconds after which a pace is believed


class Paced(Watch):
    """The run's watch, heeding the pace of its training."""

    def __init__(self, run: Run) -> None:
        self.run, self.missed = run, ""
        self.log_file = run.watch.log_file

    @property
    def stop(self) -> bool:  # type: ignore[override]
        return self.run.watch.stop or bool(self.missed and self.run.ready.recipe.goal.on_miss == "stop")

    def at(self, place: Place) -> None:
        self.run.watch.at(place)

    def log(self, event: str, **fields: Any) -> None:
        self.run.watch.log(event, **fields)

    def write(self, event: str, **fields: Any) -> None:
        self.run.watch.write(event, **fields)

    def show(self, progress: Progress, closed: bool = False) -> None:
        self.run.watch.show(progress, closed)
        if progress.name == "train" and not closed and not self.missed:
            self.missed = self.misses(progress)
            if self.missed:
                self.run.note("goal.missed", self.missed, what=self.missed)

    def misses(self, progress: Progress) -> str:
        """Which limit is missed, and by how much; "" where none is, or the pace is not yet known."""
        begun_s, left_s = time.monotonic() - progress.started, progress.left_s
        if left_s is None or not progress.total or begun_s < SURE_S or progress.done < SURE * progress.total:
            return ""
        later_s = self.run.watch.place.later_s if self.run.watch.place else 0.0
        return missed(self.run, time.monotonic() - self.run.begun + left_s + later_s)

    def refusal(self) -> Refused:
        return Refused(
            "goal.missed",
            f"stopped: {self.missed}",
            where=Where(str(self.run.ready.recipe.path), field="goal.on_miss"),
            why="goal.on_miss is stop",
            hint="the checkpoint is kept: raise the limit, or on_miss: go_on, and run the same command again",
        )


def missed(run: Run, whole_s: float) -> str:
    """Of a job that takes so long from its start to its end."""
    goal, cost_usd = run.ready.recipe.goal, whole_s / 3600 * price_per_h(run.ready)
    if goal.deadline_s is not None and whole_s > goal.deadline_s:
        return (
            f"at the measured pace it takes {show_s(whole_s)}, and the deadline is {show_s(goal.deadline_s)}"
        )
    if goal.budget and cost_usd > goal.budget.usd:
        return (
            f"at the measured pace it costs {cost_usd:.2f} USD, and the budget is {goal.budget.usd:.2f} USD"
        )
    return ""
