"""The report's words: English as written, Chinese from zh.json; figures as a person writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from importlib.resources import files

from ..units import show_share

Words = Callable[..., str]


def words(language: str = "en") -> Words:
    """`say(text, **values)`: the text in the language, its {fields} filled."""
    texts = chinese() if language == "zh" else {}

    def say(text: str, **values: object) -> str:
        plain = texts.get(text, text)
        return plain.format(**values) if values else plain

    return say


@cache
def chinese() -> dict[str, str]:
    """English text -> Chinese."""
    return json.loads(files(__package__).joinpath("zh.json").read_text(encoding="utf-8"))


def four_digits(value: float | int | None) -> str:
    """At most four significant digits: a value of a check is no better known than that."""
    if value is None:
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.1e}"


def percent(share: float | None) -> str:
    return "–" if share is None else show_share(share)
