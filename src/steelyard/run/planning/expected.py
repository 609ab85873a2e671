"""What is expected of every form and candidate: size, speed, loss, and of larger models time and price.

All with provenance, written into plan.json before the first step. Nothing here chooses.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ...planner import (
    LOSS_SOURCE,
    Local,
    fill,
    form_order,
    loss_source,
    predict,
    pruned_loss,
    pruned_shape,
    quality_loss,
    stored_bytes,
)
from ...shape import Shape
from ...units import Figure, around, weakest
from ..record.frontier import Attempt
from .ready import Ready
from .sizing import Sized, shares_for


def frontier_of(ready: Ready) -> list[Attempt]:
    """Every form of the model at hand, those to be tried first; then other shares of its parameters, then the
    larger candidates."""
    turns = {form: turn for turn, form in enumerate(ready.forms, 1)}
    here = [
        Attempt(
            ready.model,
            form,
            turns.get(form),
            predicted=plain(figures),
            provenance=origins(figures),
            share=ready.share,
            way=ready.way,
        )
        for form, figures in ((form, form_figures(ready, form)) for form in ready.by_form)
    ]
    here += [
        Attempt(
            ready.model,
            None,
            predicted=plain(figures),
            provenance=origins(figures),
            share=share,
            way=ready.way,
        )
        for share, figures in ((share, share_figures(ready, share)) for share in ready.shares)
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
    return served_figures(ready.by_form[form].local, ready.left, form)


def served_figures(local: Local, shape: Shape, form: str) -> dict[str, Figure]:
    size = around(stored_bytes(shape, form), 0.1, "bytes", "modelled")
    speed = {name: local.steps["serve"][name] for name in ("output_tok_s", "ttft_s", "tpot_s")}
    loss = quality_loss(form, shape.params)
    if "heal" in local.steps:
        loss = added(loss, pruned_loss(local.steps["heal"]["score_kept"]))
    return {"size_bytes": size, **speed, "quality_loss": loss}


def added(one: Figure, other: Figure) -> Figure:
    """Losses of two steps; each end of the interval is that of both."""
    value, low, high = (getattr(one, end) + getattr(other, end) for end in ("value", "low", "high"))
    return Figure(value, low, high, one.unit, weakest(one.provenance, other.provenance))


def share_figures(ready: Ready, share: float | None) -> dict[str, Figure]:
    """Another share of the same model's parameters, in the form that is tried first."""
    recipe, machine, facts, form = ready.recipe, ready.machine, ready.facts, ready.forms[0]
    filled = fill(recipe, ready.shape, machine, facts, form, ready.measured.forms, share)
    local = predict(filled, ready.shape, machine, ready.calibration, facts)
    figures = served_figures(local, pruned_shape(ready.shape, share, recipe), form)
    return figures | whole_figures(local, AGAIN)


AGAIN = ("prune", "heal", "qat", "compress", "gate", "serve")  # steps that another share does anew


def whole_figures(local: Local, steps: Collection[str]) -> dict[str, Figure]:
    """Time and price of those steps together."""
    sums = {}
    for name in ("wall_s", "cost_usd"):
        own = [figures[name] for step, figures in local.steps.items() if step in steps]
        low, value, high = (sum(getattr(f, end) for f in own) for end in ("low", "value", "high"))
        sums[name] = Figure(value, low, high, own[0].unit, "modelled")
    return sums


def larger_figures(ready: Ready, sized: Sized) -> dict[str, Figure]:
    """A candidate whose turn has not come: its sizes, the rows as the first one's tokenizer counts."""
    recipe, machine, facts = ready.recipe, ready.machine, ready.facts
    form = form_order(recipe, sized.shape, machine, facts, sized.forms)[0]
    share = shares_for(recipe, sized.shape, sized.shape.family)[0]
    filled = fill(recipe, sized.shape, machine, facts, form, share=share)
    local = predict(filled, sized.shape, machine, ready.calibration, facts)
    walls = [figures["wall_s"] for figures in local.steps.values()]
    low, value, high = (sum(getattr(w, name) for w in walls) for name in ("low", "value", "high"))
    whole = {"wall_s": Figure(value, low, high, "s", "modelled"), "cost_usd": local.cost_usd}
    peak = {"peak_rss_bytes": around(local.memory_bytes, 0.2, "bytes", "modelled")}
    return served_figures(local, pruned_shape(sized.shape, share, recipe), form) | whole | peak


def form_document(ready: Ready, form: str) -> dict[str, Any]:
    figures = {name: figure.as_json() for name, figure in form_figures(ready, form).items()}
    pruned = "" if "heal" not in ready.local.steps else f"; {LOSS_SOURCE}"
    figures["quality_loss"]["source"] = loss_source(form) + pruned
    return figures
