"""A recipe: YAML in, a checked `Recipe` out; and a first recipe to begin with."""

from __future__ import annotations

from typing import Any

from .draft import Answers, DataFile, draft
from .load import DEFAULT_FILE, load
from .recipe import (
    AbilityGate,
    Clean,
    Compress,
    Gate,
    Goal,
    Load,
    Money,
    Recipe,
    Resources,
    Serve,
    Source,
    Stage,
    Trust,
    effective,
)


def schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors and for the reference pages."""
    from .document import schema as made

    return made()


__all__ = [
    "DEFAULT_FILE",
    "AbilityGate",
    "Answers",
    "Clean",
    "Compress",
    "DataFile",
    "Gate",
    "Goal",
    "Load",
    "Money",
    "Recipe",
    "Resources",
    "Serve",
    "Source",
    "Stage",
    "Trust",
    "draft",
    "effective",
    "load",
    "schema",
]
