"""A recipe: YAML in, a checked `Recipe` out; and a first recipe to begin with."""

from __future__ import annotations

from typing import Any

from .draft import Answers, DataFile, draft
from .load import DEFAULT_FILE, load
from .methods import LIFT_ROUTES, SAMPLING, STEERED, TEACHES, apart, writes
from .methods import WORDS as METHOD_WORDS
from .recipe import (
    AbilityGate,
    Canary,
    Clean,
    Compress,
    Gate,
    Goal,
    Lift,
    Load,
    Money,
    Owned,
    OwnTerms,
    Recipe,
    Refresh,
    Resources,
    Scale,
    Serve,
    Source,
    Stage,
    Trust,
    effective,
)


def schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors and for the reference pages."""
    from .document import schema as json_schema

    return json_schema()


def money(text: str | float) -> Money:
    """Money of "50 USD", "300 CNY", "9000 JPY at 0.0067" or a bare number of dollars. Raises ValueError.

    Its rate may be missing; then `usd` is known for the currencies of USD_PER alone.
    """
    from .tables.values import money_of

    return Money(**money_of(text))


def per_s(text: str | float) -> float:
    """A rate a second of "2/s", "90/min" or a bare number. Raises ValueError."""
    from .tables.values import rate_per_s

    return rate_per_s(text)


def watts(text: str | float) -> float:
    """Watts of "20 kW", "700 W" or a bare number. Raises ValueError."""
    from .tables.values import watts_of

    return watts_of(text)


__all__ = [
    "DEFAULT_FILE",
    "LIFT_ROUTES",
    "METHOD_WORDS",
    "SAMPLING",
    "STEERED",
    "TEACHES",
    "AbilityGate",
    "Answers",
    "Canary",
    "Clean",
    "Compress",
    "DataFile",
    "Gate",
    "Goal",
    "Lift",
    "Load",
    "Money",
    "OwnTerms",
    "Owned",
    "Recipe",
    "Refresh",
    "Resources",
    "Scale",
    "Serve",
    "Source",
    "Stage",
    "Trust",
    "apart",
    "draft",
    "effective",
    "load",
    "money",
    "per_s",
    "schema",
    "watts",
    "writes",
]
