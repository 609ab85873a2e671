"""How a recipe's service is started where its engine has a server of its own: as planned.

Not here: the settings of a candidate (planner), the command line (launch), the process (serving).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...hardware import catalogue, published_constants
from ...launch import LAUNCHED
from ...planner import (
    DataFacts,
    Fill,
    Planned,
    Plans,
    Request,
    launch_document,
    plan_recipe,
    planned_service,
    request_of,
)
from ...recipe import Recipe
from ...shape import Shape


def planned_own(recipe: Recipe, request: Request, plans: Plans) -> Planned | None:
    """The service on the best of the user's own devices that have such an engine; None where none has."""
    devices, own, serve = catalogue(), _own(recipe), recipe.serve
    ways = (
        planned_service(p, request, devices, serve.engine, serve.max_model_len)
        for p in plans.plans
        if p.device in own
    )
    return next((way for way in ways if way), None)


def launch_of_recipe(recipe: Recipe, filled: Fill, shape: Shape, facts: DataFacts) -> dict[str, Any] | None:
    """The command for the user's own devices, as `plan` shows it; None where they have no such engine."""
    own = _own(recipe)
    if not own or recipe.serve.engine not in ("auto", *LAUNCHED):
        return None
    plans = plan_recipe(
        recipe, filled, shape, facts, catalogue(), published_constants(), requested={"devices": own}
    )
    planned = planned_own(recipe, request_of(recipe, filled, shape, facts), plans)
    return launch_document(planned, recipe.model, recipe.serve.args) if planned else None


def _own(recipe: Recipe) -> tuple[str, ...]:
    """The user's own devices, by their ids in the catalogue, each once."""
    devices = catalogue()
    return tuple(dict.fromkeys(devices.find(o.device).id for o in recipe.resources.own))


def engine_settings_of(recipe: Recipe, planned: Planned | None) -> dict[str, Any]:
    """Of a service whose engine has a server of its own, in the words of serving; {} for all others."""
    serve = recipe.serve
    if serve.engine not in LAUNCHED:
        return {}
    settings: dict[str, Any] = {
        "engine": serve.engine,
        "engine_python": python_of(recipe),
        "engine_args": serve.args,
    }
    return settings | ({"launch": dict(planned.values), "platform": planned.platform} if planned else {})


def python_of(recipe: Recipe) -> str | None:
    """The interpreter that the recipe names: a path from its folder, or a name that PATH finds."""
    named = recipe.serve.engine_python
    return str(recipe.root / Path(named).expanduser()) if named and "/" in named else named
