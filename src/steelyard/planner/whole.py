"""A recipe weighed on every device of the catalogue: its training, else its service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steelyard.hardware import Devices
from steelyard.recipe import Recipe
from steelyard.shape import Shape
from steelyard.units import Figure, weakest

from .constants import Constants
from .facts import DataFacts, Fill
from .local import Local
from .local_train import packed
from .search import Plan, Plans, Request, plan, within_limits

SERVED_TOKENS = 1e6  # what a service is weighed by where nothing is trained


def plan_recipe(
    recipe: Recipe,
    filled: Fill,
    shape: Shape,
    facts: DataFacts,
    devices: Devices,
    constants: Constants | Mapping[str, Any],
    local: Local | None = None,
) -> Plans:
    """One plan a device for the whole recipe, its steps on that device. Limits are the recipe's.

    With `local` this machine is ranked among them as the device "this-machine".
    """
    known = constants if isinstance(constants, Constants) else Constants.from_json(constants)
    request = request_of(recipe, filled, shape, facts)
    here = (
        [within_limits(this_machine(filled, local), request.budget_usd, request.deadline_s)] if local else []
    )
    return plan(request, devices, known, here)


def this_machine(filled: Fill, local: Local) -> Plan:
    """What was predicted for this machine, in the words of a plan."""
    walls = [f["wall_s"] for f in local.steps.values()]
    low, value, high = (sum(getattr(w, name) for w in walls) for name in ("low", "value", "high"))
    origin = weakest(*(w.provenance for w in walls))
    most = max((f["peak_rss_bytes"] for f in local.steps.values()), key=lambda f: f.value)
    steps = [
        {
            "step": step,
            "hosts": 1,
            "device": "this-machine",
            "devices": 1,
            "time_s": f["wall_s"].value,
            "cost_usd": f["cost_usd"].value,
            "transfer_s": 0.0,
        }
        for step, f in local.steps.items()
    ]
    return Plan(
        device="this-machine",
        devices=1,
        settings={k: v for k, v in filled.settings.items() if k in ("train", "compress")},
        time_s=Figure(value, low, high, "s", origin),
        cost_usd=local.cost_usd,
        energy_kwh=None,  # a share of a socket has no power figure of its own
        memory_bytes_per_device=most,
        fits=True,
        why_not=None,
        parts={step: f["wall_s"].value for step, f in local.steps.items()},
        steps=tuple(steps),
    )


def request_of(recipe: Recipe, filled: Fill, shape: Shape, facts: DataFacts) -> Request:
    """The recipe as a request: tokens of all stages, the gate's tokens, the load, the limits."""
    stages, load, goal = filled.settings["train"], filled.settings["serve"]["load"], recipe.goal
    runs = [packed(facts, s) for s in stages]
    return Request(
        shape=shape,
        name=recipe.model,
        job="sft" if stages else "serve",
        tokens=sum(r.tokens for r in runs) or SERVED_TOKENS,
        seq_len=max((s["max_length"] for s in stages), default=2048),
        finetuning_type=stages[-1]["finetuning_type"] if stages else "full",
        users=load["users"],
        prompt_tokens=load["prompt_tokens"],
        output_tokens=load["output_tokens"],
        budget_usd=goal.budget.usd if goal.budget else None,
        deadline_s=goal.deadline_s,
        data_bytes=float(facts.bytes),
        eval_tokens=2.5
        * min(facts.held_out, recipe.gate.rows * max(1, len(facts.abilities)))
        * facts.mean_length,
        recipe=recipe.name,
    )
