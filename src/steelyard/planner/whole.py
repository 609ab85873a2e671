"""A recipe weighed on every device of the catalogue: its training, else its service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steelyard.hardware import Devices
from steelyard.recipe import Recipe
from steelyard.shape import Shape

from .constants import Constants
from .facts import DataFacts, Fill
from .local_train import packed
from .search import Plans, Request, plan

SERVED_TOKENS = 1e6  # what a service is weighed by where nothing is trained


def plan_recipe(
    recipe: Recipe,
    filled: Fill,
    shape: Shape,
    facts: DataFacts,
    devices: Devices,
    constants: Constants | Mapping[str, Any],
) -> Plans:
    """One plan a device for the whole recipe, its steps on that device. Limits are the recipe's."""
    known = constants if isinstance(constants, Constants) else Constants.from_json(constants)
    return plan(request_of(recipe, filled, shape, facts), devices, known)


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
