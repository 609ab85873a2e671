"""English and Chinese: `say` looks up an English text, `title` an error's code, both in zh.json."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

from .options import OPTIONS


@cache
def catalogue() -> dict[str, dict[str, str]]:
    """{"texts": {English: Chinese}, "errors": {code or its first part: Chinese}, "reasons", "hints": {...}}.

    Reasons are the planner's, with figures in them, hints those of errors: patterns of `re`, whose groups
    come back in the Chinese.
    """
    return json.loads(files("steelyard.cli").joinpath("zh.json").read_text(encoding="utf-8"))


def say(text: str, **values: object) -> str:
    """The text in the user's language, its {fields} filled."""
    own = catalogue()["texts"].get(text, text) if OPTIONS.language == "zh" else text
    return own.format(**values) if values else own


def reason(text: str) -> str:
    """Why a plan was not taken, in the user's language; parts are joined by "; "."""
    return "；".join(_reason(part) for part in text.split("; ")) if OPTIONS.language == "zh" else text


def _reason(text: str) -> str:
    import re

    for pattern, chinese in catalogue()["reasons"].items():
        if match := re.fullmatch(pattern, text):
            return match.expand(chinese)
    return text


def hint(text: str) -> str:
    """What to do, or why, in the user's language where it is one of the common sentences; else as it is."""
    if OPTIONS.language != "zh":
        return text
    import re

    for pattern, chinese in catalogue()["hints"].items():
        if match := re.fullmatch(pattern, text):
            return match.expand(chinese)
    return text


def title(code: str) -> str:
    """What kind of error this is, in Chinese; nothing in English, where the message says it."""
    errors = catalogue()["errors"] if OPTIONS.language == "zh" else {}
    return errors.get(code) or errors.get(code.split(".")[0], "")
