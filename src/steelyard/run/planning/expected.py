"""What is expected of every form and candidate: size, speed, loss, and of larger models time and price.

All with provenance, written into plan.json before the first step. Nothing here chooses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...planner import Local, fill, form_order, loss_source, predict, quality_loss, stored_bytes
from ...shape import Shape
from ...units import Figure, around
from ..record.frontier import Attempt
from .ready import Ready
from .sizing import Sized


def frontier_of(ready: Ready) -> list[Attempt]:
    """Every form of the model at hand, those to be tried first; then the larger candidates."""
    turns = {form: turn for turn, form in enumerate(ready.forms, 1)}
    here = [
        Attempt(ready.model, form, turns.get(form), predicted=plain(figures), provenance=origins(figures))
        for form, figures in ((form, form_figures(ready, form)) for form in ready.by_form)
    ]
    return here + [
        Attempt(sized.name, None, predicted=plain(figures), provenance=origins(figures))
        for sized, figures in ((sized, larger_figures(ready, sized)) for sized in ready.larger)
    ]


def plain(figures: Mapping[str, Figure]) -> dict[str, float]:
    return {name: figure.value for name, figure in figures.items()}


def origins(figures: Mapping[str, Figure]) -> dict[str, str]:
    return {name: figure.provenance for name, figure in figures.items()}


def form_figures(ready: Ready, form: str) -> dict[str, Figure]:
    """Size, speed under goal.load and expected loss of one form."""
    return served_figures(ready.by_form[form].local, ready.shape, form)


def served_figures(local: Local, shape: Shape, form: str) -> dict[str, Figure]:
    size = around(stored_bytes(shape, form), 0.1, "bytes", "modelled")
    speed = {name: local.steps["serve"][name] for name in ("output_tok_s", "ttft_s", "tpot_s")}
    return {"size_bytes": size, **speed, "quality_loss": quality_loss(form, shape.params)}


def larger_figures(ready: Ready, sized: Sized) -> dict[str, Figure]:
    """A candidate whose turn has not come: its sizes, the rows as the first one's tokenizer counts."""
    recipe, machine, facts = ready.recipe, ready.machine, ready.facts
    form = form_order(recipe, sized.shape, machine, facts, sized.forms)[0]
    local = predict(
        fill(recipe, sized.shape, machine, facts, form), sized.shape, machine, ready.calibration, facts
    )
    walls = [figures["wall_s"] for figures in local.steps.values()]
    low, value, high = (sum(getattr(w, name) for w in walls) for name in ("low", "value", "high"))
    whole = {"wall_s": Figure(value, low, high, "s", "modelled"), "cost_usd": local.cost_usd}
    peak = {"peak_rss_bytes": around(local.memory_bytes, 0.2, "bytes", "modelled")}
    return served_figures(local, sized.shape, form) | whole | peak


def form_document(ready: Ready, form: str) -> dict[str, Any]:
    figures = {name: figure.as_json() for name, figure in form_figures(ready, form).items()}
    figures["quality_loss"]["source"] = loss_source(form)
    return figures
