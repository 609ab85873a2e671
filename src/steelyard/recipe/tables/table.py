"""What every table of a recipe has in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def say(text: str, example: Any) -> Any:
    """A field that may be left out: what it is, and a value that works."""
    return Field(default=None, description=text, examples=[example])


class Table(BaseModel):
    """A table of the recipe: unknown keys are errors, numbers are not text."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
