"""Will the job keep its deadline and budget? Told during its training, at the pace that is measured.

`goal.on_miss` says what is done then: `go_on`; `stop` at the next safe point, with its checkpoint; `shrink`,
go on from there with as many steps as are done in time, the schedule's end brought nearer; or `ask` a person
which of these. A lift trains one way after the other: its pace is that of all that are left, and it shrinks
by ways, the last of them first: half a way says nothing of what it is worth.
"""

from __future__ import annotations

import json
import math
import time
from itertools import accumulate
from typing import Any

from ...artefact import FEWER_WAYS, SHORTER, Place, Progress, Scratch, Watch
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
        self.ways: dict[str, int] = {}  # of a lift: tokens of each way that is not tried yet
        self.tried: list[str] = []
        self.in_time = 0  # of these ways, how many are done in time

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
        if event == "train.ways":
            self.ways, self.tried = dict(fields["left"]), list(fields["tried"])
        if event == "train.tried":
            self.tried.append(fields["route"])
            self.ways.pop(fields["route"], None)
        self.run.watch.log(event, **fields)

    def write(self, event: str, **fields: Any) -> None:
        self.run.watch.write(event, **fields)

    def show(self, progress: Progress, closed: bool = False) -> None:
        self.run.watch.show(progress, closed)
        if self._is_paced(progress) and not closed and not self.missed:
            self.missed = self.misses(progress)
            if self.missed:
                self.run.note("goal.missed", self.missed, what=self.missed)
                self.decide(progress)

    def _is_paced(self, progress: Progress) -> bool:
        return progress.name == "train" or (self.ways.get(progress.name, 0) > 0 and progress.unit == "tokens")

    def ways_s(self, progress: Progress) -> list[float]:
        """Of the way at hand, and of each that follows it, the seconds to go, by the tokens a second so far;
        without any of a training that is no lift."""
        token_s = (time.monotonic() - progress.started) / max(progress.done, 1e-9)
        later = list(self.ways)[1:] if self.ways else []
        return [progress.left_s or 0.0, *(self.ways[way] * token_s for way in later)]

    def decide(self, progress: Progress) -> None:
        """What is done about it, and how much of the work left is done in time."""
        if self.choice == "ask":
            self.choice = self.run.watch.ask(self.missed, ANSWERS, "go_on")
        spare_s = most_s(self.run) - (time.monotonic() - self.run.begun) - self.later_s - RESTART_S
        self.share = max(0.0, KEPT * spare_s / max(progress.left_s or 0.0, 1e-9))
        ends_s = list(accumulate(self.ways_s(progress)))
        self.in_time = sum(end_s <= KEPT * spare_s for end_s in ends_s)

    @property
    def later_s(self) -> float:
        return self.more_s + (self.run.watch.place.later_s if self.run.watch.place else 0.0)

    def misses(self, progress: Progress) -> str:
        """Which limit is missed, and by how much; "" where none is, or the pace is not yet known."""
        begun_s, left_s = time.monotonic() - progress.started, progress.left_s
        if left_s is None or not progress.total or begun_s < SURE_S or progress.done < SURE * progress.total:
            return ""
        whole_s = time.monotonic() - self.run.begun + sum(self.ways_s(progress)) + self.later_s
        return missed(self.run, whole_s)

    def shortens(self, scratch: Scratch) -> bool:
        """Bring the end nearer, for the attempt that follows; False where that is not asked for, or no step
        (of a lift: no way) would be left."""
        if self.ways:
            return self.choice == "shrink" and self._leaves_out(scratch)
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

    def _leaves_out(self, scratch: Scratch) -> bool:
        """The ways from the first one on that is not done in time; one at least is tried."""
        out = list(self.ways)[self.in_time :]
        if not out or not (self.tried or self.in_time):
            return False
        earlier = scratch.read(FEWER_WAYS)
        named = [*(json.loads(earlier.read_bytes()) if earlier else ()), *out]
        scratch.write(FEWER_WAYS, json.dumps(named).encode())
        text = f"to be done in time these ways of the lift are not tried: {', '.join(out)}"
        self.run.note("goal.fewer_ways", text, what=text, left_out=out)
        self.missed = ""
        return True

    def refusal(self) -> Refused:
        return Refused(
            "goal.missed",
            f"stopped: {self.missed}",
            where=Where(str(self.run.ready.recipe.path), field="goal.on_miss"),
            why=f"goal.on_miss is {self.choice}"
            if self.choice == "stop"
            else f"no {'way' if self.ways else 'step more'} would be done in time",
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
