"""What is tried after a refusal: the next form where the form is to blame, else the next larger model."""

from __future__ import annotations

from dataclasses import replace

from ..planning.expected import frontier_of
from ..planning.prepare import prepare_next
from ..planning.sizing import Sized
from ..record.frontier import blames_form
from . import budget
from .run import Run
from .step import Again

Next = str | Sized  # a form of the same model, or a larger model


def next_after(run: Run) -> Next | None:
    """None where nothing is left, or no time or money for it."""
    form, larger = run.ready.next_form, run.ready.larger
    if form and blames_form(run.verdict) and budget.room_for_form(run, form):
        return form
    return larger[0] if larger and budget.room_for_model(run, larger[0]) else None


def fall(run: Run, to: Next) -> Again:
    """Turn the run to what is tried next; returns the steps that have to be done again."""
    failed = {"model": run.ready.model, "form": run.ready.form, "check": run.attempt.failed}
    run.watch.log("gate.refused", **failed)
    again = ("compress",) if isinstance(to, str) else ("clean", "train", "compress")
    for step in again:  # what it has come to so far adds to what it will
        record = run.outcome.record(step)
        run.tries.put(step, record.predicted, record.measured)
    if isinstance(to, str):
        run.turn_to(replace(run.ready, form=to))
    else:
        turn_to_larger(run)
    return again


def turn_to_larger(run: Run) -> None:
    ready = prepare_next(run.ready, run.watch)
    tried = [a for a in run.outcome.frontier if a.form is not None]
    run.outcome.frontier = tried + frontier_of(ready)
    run.artefacts = {"base": ready.base}
    run.turn_to(ready)
