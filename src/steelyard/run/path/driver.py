"""Drive the steps in their order; a gate that refuses sends the run back to steps before it.

Whatever happens, services that are not the user's end, the report is written, and what the run refers to is
noted for `gc`.
"""

from __future__ import annotations

from collections.abc import Callable

from ...artefact import Place
from ...errors import Stopped
from ..record.outcome import STEP_NAMES, Outcome
from .erased import check_erased
from .run import Run, predicted, refer
from .step import Again, Step
from .steps import STEPS, step_of

PLANNED = 1  # the plan is the first thing that a run counts


def drive(run: Run, until: str, report: Callable[[Run], None]) -> Outcome:
    """All steps up to `until`. Raises the Problem of the first that fails."""
    own = [record.step for record in run.outcome.steps]
    left = [step for step in STEPS[: STEP_NAMES.index(until) + 1] if step.name in own]
    try:
        while left:
            step = left.pop(0)
            again = one(run, step, left)
            if again:
                left = [*(step_of(name) for name in again if name in own), step, *left]
        if until != STEPS[-1].name:  # what is published was looked at before
            check_erased(run)
        run.ended = True
        return run.outcome
    finally:
        run.candidates.close()
        refer(run)
        report(run)


def one(run: Run, step: Step, later: list[Step]) -> Again:
    """One step; a failure is marked before it goes on up. Raises ErasedMeanwhile before it begins."""
    if run.watch.stop:
        raise Stopped("run.stopped", f"stopped before {step.name}", hint="run the same command again")
    check_erased(run)
    record, place = run.outcome.record(step.name), place_of(run, step, later)
    run.watch.at(place)
    run.watch.log("step.start", step=step.name, **place.as_fields())
    try:
        again = step.do(run, step)
    except BaseException:
        record.state = "failed"
        raise
    finally:
        refer(run)
    if not again:
        done = {"wall_s": record.measured.get("wall_s"), "index": place.index, "count": place.count}
        run.watch.log("step.end", step=step.name, state=record.state, left_s=place.later_s, **done)
    return again


def place_of(run: Run, step: Step, later: list[Step]) -> Place:
    """The step's number among those asked for, and what the plan says of it and of those after it."""
    names = [record.step for record in run.outcome.steps]
    index = names.index(step.name) + 1 + PLANNED
    last = later[-1] if later else step
    facts = run.ready.facts
    rows = {"clean": facts.rows + facts.held_out, "train": facts.rows, "gate": facts.held_out}
    rows |= {"heal": facts.rows, "qat": facts.rows}
    return Place(
        step.name,
        index,
        names.index(last.name) + 1 + PLANNED,
        step_s=predicted(run.ready, step.name).get("wall_s"),
        later_s=sum(predicted(run.ready, s.name).get("wall_s", 0.0) for s in later),
        rows=rows.get(step.name) or None,
    )
