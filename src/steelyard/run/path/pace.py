"""Will the job keep its deadline and budget? Told during its training, at the pace that is measured.

`goal.on_miss` says what is done then: `go_on`; `stop` at the next safe point, with its checkpoint; `shrink`,
go on from there with as many steps as are done in time, the schedule's end brought nearer; or `ask` a person
which of these.
"""

from __future__ import annotations

import json
import math
import time
from typing import Any

from ...artefact import SHORTER, Place, Progress, Scratch, Watch
from ...errors import Refused, Where
from ...units import show_s
from .learn import price_per_h
from .run import Run

SURE, SURE_S = 0.02, 30.0  # share of the work and seconds after which a pace is believed
ANSWERS = ("go_on", "shrink", "stop")
MOST_SHORTENED = 3  # times a training is: a pace that falls and falls is no pace
RESTART_S, KEPT = 15.0, 0.95  # until it goes on from the checkpoint; of the time left, what is planned on


class Paced(Watch):
    """The run's watch, heeding the pace of its training."""

    def __init__(self, run: Run, more_s: float = 0.0) -> None:
        """`more_s`: what further stages of the step will take."""
        self.run, self.missed, self.more_s = run, "", more_s
        self.choice = run.ready.recipe.goal.on_miss
        self.log_file = run.watch.log_file
        self.steps = self.saved = 0  # of the training: in all, and up to the last checkpoint
        self.share = 1.0  # of the work that was left at the miss, what is done in time
        self.shortened: list[tuple[int, int]] = []

    @property
    def stop(self) -> bool:  # type: ignore[override]
        return self.run.watch.stop or bool(self.missed and self.choice in ("stop", "shrink"))

    def at(self, place: Place) -> None:
        self.run.watch.at(place)

    def log(self, event: str, **fields: Any) -> None:
        if event == "train.planned":
            self.steps = int(fields["ends_after"])
        if event in ("train.checkpoint", "train.resumed"):
            self.saved = int(fields["step"])
        self.run.watch.log(event, **fields)

    def write(self, event: str, **fields: Any) -> None:
        self.run.watch.write(event, **fields)

    def show(self, progress: Progress, closed: bool = False) -> None:
        self.run.watch.show(progress, closed)
        if progress.name == "train" and not closed and not self.missed:
            self.missed = self.misses(progress)
            if self.missed:
                self.run.note("goal.missed", self.missed, what=self.missed)
                self.decide(progress)

    def decide(self, progress: Progress) -> None:
        """What is done about it, and how much of the work left is done in time."""
        if self.choice == "ask":
            self.choice = self.run.watch.ask(self.missed, ANSWERS, "go_on")
        spare_s = most_s(self.run) - (time.monotonic() - self.run.begun) - self.later_s - RESTART_S
        self.share = max(0.0, KEPT * spare_s / max(progress.left_s or 0.0, 1e-9))

    @property
    def later_s(self) -> float:
        return self.more_s + (self.run.watch.place.later_s if self.run.watch.place else 0.0)

    def misses(self, progress: Progress) -> str:
        """Which limit is missed, and by how much; "" where none is, or the pace is not yet known."""
        begun_s, left_s = time.monotonic() - progress.started, progress.left_s
        if left_s is None or not progress.total or begun_s < SURE_S or progress.done < SURE * progress.total:
            return ""
        return missed(self.run, time.monotonic() - self.run.begun + left_s + self.later_s)

    def shortens(self, scratch: Scratch) -> bool:
        """Bring the end nearer, for the attempt that follows; False where that is not asked for, or no step
        would be left."""
        end = self.saved + math.floor((self.steps - self.saved) * self.share)
        if self.choice != "shrink" or end <= self.saved or len(self.shortened) >= MOST_SHORTENED:
            return False
        earlier = scratch.read(SHORTER)
        self.shortened = [*(json.loads(earlier.read_bytes()) if earlier else ()), (self.saved, end)]
        scratch.write(SHORTER, json.dumps(self.shortened).encode())
        text = f"to be done in time it ends after step {end} of {self.steps}, and the rate falls sooner"
        self.run.note("goal.shorter", text, what=text, step=self.saved, end=end, of=self.steps)
        self.missed, self.steps = "", end
        return True

    def refusal(self) -> Refused:
        return Refused(
            "goal.missed",
            f"stopped: {self.missed}",
            where=Where(str(self.run.ready.recipe.path), field="goal.on_miss"),
            why=f"goal.on_miss is {self.choice}"
            if self.choice == "stop"
            else "no step more would be done in time",
            hint="the checkpoint is kept: raise the limit, or on_miss: go_on, and run the same command again",
        )


def most_s(run: Run) -> float:
    """Seconds from its start that the job may take, by deadline and budget."""
    goal, price = run.ready.recipe.goal, price_per_h(run.ready)
    by_price = goal.budget.usd / price * 3600 if goal.budget and price else math.inf
    return min(goal.deadline_s or math.inf, by_price)


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
