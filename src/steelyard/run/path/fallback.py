"""What is tried after a refusal: the next form, then the next share of the parameters, where what was made
smaller is to blame; else the next best way of a lift, then the next larger model."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..planning.expected import frontier_of
from ..planning.prepare import prepare_next, prepare_share
from ..planning.sizing import Sized
from ..record.frontier import blames_form
from . import budget
from .rows import read_json
from .run import Run
from .step import Again


@dataclass(frozen=True, slots=True)
class Share:
    """Of the same model's parameters; None: all of them."""

    left: float | None


@dataclass(frozen=True, slots=True)
class Way:
    """Of the same lift, by its name: the training has kept what it has learnt."""

    name: str


Next = str | Share | Way | Sized  # a form of the same model, another share or way of it, or a larger model
AGAIN: dict[type, Again] = {  # steps that are done anew
    str: ("qat", "compress"),
    Way: ("pick", "prune", "heal", "qat", "compress"),
    Share: ("prune", "heal", "qat", "compress"),
    Sized: ("clean", "train", "pick", "prune", "heal", "qat", "compress"),
}


def next_after(run: Run) -> Next | None:
    """None where nothing is left, or no time or money for it."""
    form, larger = run.ready.next_form, run.ready.larger
    smaller_lost = blames_form(run.verdict)
    if form and smaller_lost and budget.room_for_form(run, form):
        return form
    if run.ready.shares and smaller_lost and budget.room_for_share(run, run.ready.shares[0]):
        return Share(run.ready.shares[0])
    if not smaller_lost and (way := next_way(run)) and budget.room_for_way(run):
        return Way(way)
    return larger[0] if larger and budget.room_for_model(run, larger[0]) else None


def next_way(run: Run) -> str | None:
    """The next best way of a lift that keeps the other abilities; None of other trainings."""
    if run.ready.recipe.goal.lift is None:
        return None
    tried = run.artefacts.get("tried", run.artefacts["checkpoint"])
    ranked = (read_json(tried.path("lift.json")) or {}).get("ranked", [])
    own = ranked.index(run.ready.way) if run.ready.way else 0
    return next(iter(ranked[own + 1 :]), None)


def fall(run: Run, to: Next) -> Again:
    """Turn the run to what is tried next; returns the steps that have to be done again."""
    failed = {"model": run.ready.model, "form": run.ready.form, "check": run.attempt.failed}
    run.watch.log("gate.refused", **failed)
    again = tuple(name for name in AGAIN[type(to)] if name in {r.step for r in run.outcome.steps})
    for step in again:  # what it has come to so far adds to what it will
        record = run.outcome.record(step)
        if record.state != "skipped":
            run.tries.put(step, record.predicted, record.measured)
    run.artefacts.pop("requantised", None)
    if isinstance(to, str):
        run.turn_to(replace(run.ready, form=to))
    elif isinstance(to, Share):
        turn_to_share(run)
    elif isinstance(to, Way):
        turn_to_way(run, to)
    else:
        turn_to_larger(run)
    return again


def turn_to_share(run: Run) -> None:
    """The tuned model stays, what was cut from it does not."""
    ready = prepare_share(run.ready, run.watch)
    tried = [a for a in run.outcome.frontier if a.form is not None]
    run.outcome.frontier = tried + frontier_of(ready)
    for role in ("pruned", "healed"):
        run.artefacts.pop(role, None)
    run.turn_to(ready)


def turn_to_way(run: Run, to: Way) -> None:
    """The training stays, its other model takes the place of the refused one."""
    run.artefacts.setdefault("tried", run.artefacts["checkpoint"])
    for role in ("pruned", "healed"):
        run.artefacts.pop(role, None)
    ready = replace(run.ready, way=to.name, form=run.ready.forms[0])
    tried = [a for a in run.outcome.frontier if a.form is not None and a.state != "untried"]
    run.outcome.frontier = tried + frontier_of(ready)
    run.turn_to(ready)


def turn_to_larger(run: Run) -> None:
    ready = prepare_next(run.ready, run.watch)
    tried = [a for a in run.outcome.frontier if a.form is not None]
    run.outcome.frontier = tried + frontier_of(ready)
    run.artefacts = {"base": ready.base}
    run.turn_to(ready)
