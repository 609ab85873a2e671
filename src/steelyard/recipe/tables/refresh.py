"""`refresh`: training again from rated answers."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from .table import Table, say
from .values import Count, Seconds, Share, Text, seconds_of

LEAST_EVERY_S = 3600.0  # a training and its gate take longer than less


def _every(value: Any) -> Any:
    """night, a time of the day, or a time between two refreshes in seconds."""
    if value == "night" or (isinstance(value, str) and re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value)):
        return value
    try:
        seconds = seconds_of(value)
    except ValueError:
        raise ValueError(
            f"{value!r} is neither night, nor a time of the day (03:30), nor one such as 24h"
        ) from None
    if seconds < LEAST_EVERY_S:
        raise ValueError(f"{value!r} is too short: a refresh trains and judges a model, at most once an hour")
    return seconds


class RefreshTable(Table):
    feedback: Text = Field(
        description="folder of rated answers (*.jsonl), from the recipe's folder", examples=["ratings"]
    )
    every: Annotated[str | float, BeforeValidator(_every)] | None = say(
        "night, a time of the day (03:30), or the time between two (24h); by hand where left out",
        "night",
    )
    least: Count | None = say("new rows from ratings; with fewer nothing is trained", 20)
    per_rater: Count | None = say("ratings of one rater that count, at most", 100)
    keep: Seconds | None = say("older ratings count for nothing and go from the service; else a year", "90d")
    tolerance: Annotated[Share, Field(gt=0, lt=1)] | None = say(
        "of the rows that both models answer, how many the new one may lose", "5%"
    )
