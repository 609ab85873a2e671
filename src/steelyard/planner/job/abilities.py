"""Several abilities in one stage: what a mix that follows them, and a lift of one of them, are given.

Their sizes are functions of recipe and rows, as every setting. Not here: what they compute (training).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

from steelyard.recipe import LIFT_ROUTES, STEERED, Recipe, Stage

from .facts import DataFacts

PROBE_SHARE = 0.1  # of the steps, for the probes of all abilities together
PROBE_STEPS = (4, 40)  # of one: the least that shows a direction, and what shows a course
STEER_HELD, LIFT_HELD, LEAST_ROWS = (32, 0.05), (100, 0.2), 2  # as training/steering/mix.py holds out
GENERAL_TOKENS = 2200  # of the shipped texts, in the vocabulary of a small English model
KEEP = 0.01  # that another ability may lose by a lift, where gate.forget says nothing


def abilities_of(
    recipe: Recipe, stage: Stage, settings: Mapping[str, Any], facts: DataFacts
) -> dict[str, Any]:
    """{"steer"} where the mix follows, {"lift"} where one is lifted, else {}."""
    if recipe.goal.lift:
        return {"lift": lift_of(recipe)}
    if "auto" not in recipe.mix.values() or stage.stage not in STEERED:
        return {}
    aims = {ability: _aim(recipe, ability) for ability in recipe.abilities}
    return {"steer": {"probe_steps": probe_steps(settings, facts, len(aims)), "aims": aims}}


def per_ability(recipe: Recipe) -> dict[str, str]:
    """{"loss_per": "ability"} where there are several: each is an objective of its own."""
    return {"loss_per": "ability"} if len(recipe.abilities) > 1 else {}


def _aim(recipe: Recipe, ability: str) -> dict[str, float]:
    """What the recipe says of an ability: the score that is enough, what it may lose, its share."""
    weight, gate = recipe.mix[ability], recipe.gate.abilities.get(ability)
    aim = {"target": gate.min} if gate and gate.min is not None else {}
    aim |= {"forget": recipe.gate.forget[ability]} if ability in recipe.gate.forget else {}
    return aim | ({"fixed": float(weight)} if isinstance(weight, int | float) else {})


def probe_steps(settings: Mapping[str, Any], facts: DataFacts, abilities: int) -> int:
    """Of each ability's probe."""
    least, most = PROBE_STEPS
    return min(most, max(least, ceil(PROBE_SHARE * steps_of(settings, facts) / max(1, abilities))))


def steps_of(settings: Mapping[str, Any], facts: DataFacts) -> float:
    """Of the stage, about."""
    each = settings["pack_length"] if settings["packing"] else facts.mean_length
    tokens = facts.tokens * settings["num_train_epochs"]
    return float(settings["max_steps"] or tokens / (each * settings["micro_batch"] * settings["grad_accum"]))


def lift_of(recipe: Recipe) -> dict[str, Any]:
    """The ability, the ways to it, and what each other one may lose."""
    lift = recipe.goal.lift
    assert lift is not None
    others = [ability for ability in recipe.abilities if ability != lift.ability]
    keep = {ability: recipe.gate.forget.get(ability, KEEP) for ability in others}
    general = {} if recipe.gate.general is None else {"general": recipe.gate.general}
    routes = [route for route in LIFT_ROUTES if route in (lift.routes or LIFT_ROUTES)]
    return {"ability": lift.ability, "routes": routes, "keep": keep, **general}


def held_rows(facts: DataFacts, settings: Mapping[str, Any]) -> int:
    """Rows of all abilities that a stage holds out for its looks."""
    most, share = LIFT_HELD if "lift" in settings else STEER_HELD
    counts = (rows for rows in facts.abilities.values() if rows >= 2 * LEAST_ROWS)
    return sum(min(most, max(LEAST_ROWS, round(share * rows))) for rows in counts)
