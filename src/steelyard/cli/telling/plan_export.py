"""An export for people: which file starts what, what could not be said, who checked it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .messages import reason, say
from .output import broken, columns

CHECKED = {
    "parser": "checked by its own parser ({of})",
    "schema": "checked against its documented schema ({of})",
}
PLACES = {"train": "the training", "serve": "the service"}


def export_lines(export: Mapping[str, Any]) -> list[str]:
    """One paragraph a target: its name, its needs, what it cannot say, who read its files."""
    lines = [say("{folder}: what carries the plan out", folder=export["folder"])]
    for place, told in export["targets"].items():
        lines += _target(place, told)
    if export["own_steps"]:
        steps = ", ".join(say(step) for step in export["own_steps"])
        lines += _broken(say("steelyard does {steps} itself: steelyard up", steps=steps))
    text = "{file}: the figures expected; fill in `value` and run steelyard validate on it"
    return lines + _broken(say(text, file=_expected(export)))


def _expected(export: Mapping[str, Any]) -> str:
    return f"{export['folder']}/{export['expected']}"


def _target(place: str, told: Mapping[str, Any]) -> list[str]:
    head = {"place": place, "what": say(PLACES[place.partition("-")[0]]), "target": told["target"]}
    lines = [say("  {place}/: {what} by {target}", **head)]
    for lost in told["not_stated"]:
        words = {"setting": lost["setting"], "value": lost["value"], "why": reason(lost["why"])}
        lines += _broken(say("not said: {setting} = {value}: {why}", **words), 4)
    needs = "; ".join(told["needs"])
    lines += _broken(f"{say('needs:')} {needs}", 4) if needs else []
    if files := [name for one in told["schedulers"] for name in one["files"]]:
        lines += _broken(say("handed on by {files}", files=", ".join(files)), 4)
    for one in told["not_written"]:
        lines += _broken(say("no {scheduler}: {why}", scheduler=one["scheduler"], why=reason(one["why"])), 4)
    for one in told["checked"]:
        lines += _broken(f"{one['parser']}: {say(CHECKED[one['by']], of=one['of'])}", 4)
    return lines


def _broken(text: str, margin: int = 2) -> list[str]:
    pieces = broken(text, columns() - margin - 2)
    return [" " * (margin if at == 0 else margin + 2) + piece for at, piece in enumerate(pieces)]
