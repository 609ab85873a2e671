"""Cleaning rules on the command line: `usual`, `off=spam+toxic,dedup=exact`, or a recipe's `clean`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ....errors import Where, WrongUse
from ...telling.messages import say

PII = ("mask", "report", "off")
DEDUP = ("near", "exact", "none")
USUAL = "usual"


def settings_of(rules: str) -> dict[str, Any]:
    """The words of a recipe's `clean`. Raises WrongUse."""
    if rules == USUAL:
        return {}
    if rules.endswith((".yaml", ".yml")):
        from ..recipes import load

        return asdict(load(Path(rules)).clean)
    return dict(_pair(piece) for piece in rules.split(",") if piece.strip())


def _pair(piece: str) -> tuple[str, Any]:
    from ....data import KINDS, LANGUAGES

    name, _, value = (part.strip() for part in piece.partition("="))
    if name in ("off", "languages"):
        known = KINDS if name == "off" else LANGUAGES
        return name, tuple(word_of(word.strip(), known, name, known[0]) for word in value.split("+"))
    if name in ("pii", "dedup"):
        known = PII if name == "pii" else DEDUP
        return name, word_of(value, known, name, known[0])
    if name == "licences" and value:
        return name, tuple(word.strip() for word in value.split("+"))
    if (name, value) == ("consent", "required"):
        return name, value
    if name == "max_tokens" and value.isdecimal():
        return name, int(value)
    raise WrongUse(
        "cli.usage", say("{piece} is no rule", piece=piece.strip()), where=Where(field="RULES"),
        hint="usual | off=spam+toxic,dedup=near|exact|none,languages=en+zh,max_tokens=2048 | RECIPE.yaml",
    )  # fmt: skip


def word_of(word: str, words: Sequence[str], flag: str, example: str) -> str:
    if word not in words:
        text = say("{flag} is one of {words}", flag=flag, words=", ".join(words))
        raise WrongUse("cli.usage", text, where=Where(field=flag), hint=f"{flag} {example}")
    return word


def words_of(given: str, words: Sequence[str], flag: str) -> tuple[str, ...]:
    """Words with commas between them. Raises WrongUse."""
    names = tuple(name.strip() for name in given.split(",") if name.strip())
    return tuple(word_of(name, words, flag, words[0]) for name in names)
