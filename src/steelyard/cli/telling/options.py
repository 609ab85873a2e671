"""The flags that every verb has, before or after it, and the language. Light: `--help` waits for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from ...errors import Where, WrongUse

LANGUAGES = ("en", "zh")


@dataclass
class Options:
    """The flags of this command line that every verb has."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    offline: bool = False
    language: str = "en"
    settings: list[str] = field(default_factory=list)  # --set KEY=VALUE, in their order


OPTIONS = Options()  # of this process; set once by `read`
SWITCHES = {
    "--json": "json",
    "-q": "quiet",
    "--quiet": "quiet",
    "-v": "verbose",
    "--verbose": "verbose",
    "--offline": "offline",
}
TRUE = ("1", "ON", "YES", "TRUE")  # as huggingface_hub reads HF_HUB_OFFLINE
EVERYWHERE = "Everywhere: --json, -q, -v, --lang en|zh, --offline, --set KEY=VALUE (a recipe's value)."


def read(arguments: Sequence[str]) -> list[str]:
    """Set OPTIONS from the arguments; returns what is left for the verb. Raises WrongUse."""
    OPTIONS.language = _language_of_environment()
    OPTIONS.json = "--json" in arguments  # set first: a fault below is shown in the right form
    rest: list[str] = []
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        name, equals, value = word.partition("=")
        if word == "--":
            return [*rest, word, *waiting]
        if word in SWITCHES:
            setattr(OPTIONS, SWITCHES[word], True)
        elif name in ("--lang", "--set"):
            _take(name, value if equals else _next(name, waiting))
        else:
            rest.append(word)
    OPTIONS.offline |= os.environ.get("HF_HUB_OFFLINE", "").upper() in TRUE
    if OPTIONS.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    return rest


def _next(name: str, waiting: list[str]) -> str:
    if not waiting or waiting[0].startswith("--"):
        example = "--lang zh" if name == "--lang" else "--set train.0.learning_rate=2e-4"
        raise WrongUse(
            "cli.usage", f"{name} wants a value", where=Where(field=name), hint=f"example: {example}"
        )
    return waiting.pop(0)


def _take(name: str, value: str) -> None:
    if name == "--set":
        OPTIONS.settings.append(value)
    elif value in LANGUAGES:
        OPTIONS.language = value
    else:
        raise WrongUse(
            "cli.usage", f"no language {value!r}", where=Where(field="--lang"), hint="--lang en or zh"
        )


def _language_of_environment() -> str:
    """STEELYARD_LANG, else the system's: zh* is Chinese."""
    names = ("STEELYARD_LANG", "LC_ALL", "LC_MESSAGES", "LANG")
    chosen = next((value for name in names if (value := os.environ.get(name))), "")
    return "zh" if chosen.lower().startswith("zh") else "en"
