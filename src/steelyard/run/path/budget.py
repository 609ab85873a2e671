"""Is there time and money for another try?"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from ...units import Figure
from ..planning.expected import larger_figures, share_figures
from ..planning.sizing import Sized
from .learn import price_per_h
from .run import Run


def room_for_form(run: Run, form: str) -> bool:
    """Another form of the same model: compress, judge and serve it."""
    steps = run.ready.by_form[form].local.steps
    return room_for_steps(run, [steps[n] for n in ("qat", "compress", "gate", "serve") if n in steps])


def room_for_way(run: Run) -> bool:
    """Another way of the same lift: write its model, compress, judge and serve it."""
    steps = run.ready.by_form[run.ready.forms[0]].local.steps
    return room_for_steps(run, [own for step, own in steps.items() if step not in ("clean", "train")])


def room_for_steps(run: Run, steps: Iterable[Mapping[str, Figure]]) -> bool:
    """Steps by their predicted figures, one after another."""
    figures = list(steps)
    return within(run, sum(f["wall_s"].value for f in figures), sum(f["cost_usd"].value for f in figures))


def room_for_share(run: Run, share: float | None) -> bool:
    """Another share of the same model's parameters: prune, heal, compress, judge and serve it."""
    figures = share_figures(run.ready, share)
    return within(run, figures["wall_s"].value, figures["cost_usd"].value)


def room_for_model(run: Run, candidate: Sized) -> bool:
    """A larger model, from its first step on."""
    figures = larger_figures(run.ready, candidate)
    return within(run, figures["wall_s"].value, figures["cost_usd"].value)


def within(run: Run, more_s: float, more_usd: float) -> bool:
    """Do the time so far and that of another try keep deadline and budget?"""
    goal, spent_s = run.ready.recipe.goal, time.monotonic() - run.begun
    spent_usd = spent_s / 3600 * price_per_h(run.ready)
    late = goal.deadline_s is not None and spent_s + more_s > goal.deadline_s
    return not late and not (goal.budget and spent_usd + more_usd > goal.budget.usd)
