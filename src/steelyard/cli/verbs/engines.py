"""engines: what trains and what serves here, and the environment of one that has its own."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ...errors import Where, WrongUse
from ..telling.messages import say
from ..telling.output import columns, result, table
from .recipes import no_settings


def engines(
    action: Annotated[str, typer.Argument(metavar="list|install", show_default=False)] = "list",
    name: Annotated[str | None, typer.Argument(metavar="NAME", show_default=False)] = None,
    ray: Annotated[bool, typer.Option("--ray", help=say("install: with Ray, for several machines."))] = False,
) -> None:
    no_settings("engines")
    if action == "install" and name:
        return _install(name, ray)
    if action != "list" or name or ray:
        hint = "steelyard engines list | steelyard engines install trl"
        raise WrongUse("cli.usage", say("engines lists, or installs one by its name"), hint=hint)
    return _list()


def _list() -> None:
    rows = [*_training(), *_serving()]
    head = (say("engine"), say("for what"), say("here"), say("devices"))
    steps = {"training": say("to train"), "serving": say("to serve")}
    shown = [(row["engine"], steps[row["for"]], _here(row), _devices(row)) for row in rows]
    missing = any(row["engine"] == "trl" and row["unusable"] for row in rows)
    after = [f"{say('next:')} steelyard engines install trl"] if missing else []
    document = {"schema": "steelyard.engines/1", "engines": rows}
    result(document, *table(head, shown, indent=0, wrap=columns()), *after)


def _here(row: dict[str, Any]) -> str:
    return f"{say('no')}: {row['unusable']}" if row["unusable"] else say("yes")


def _devices(row: dict[str, Any]) -> str:
    untested = say("untested")
    return ", ".join(f"{d} ({untested})" if d in row["untested"] else d for d in row["devices"])


def _training() -> list[dict[str, Any]]:
    from ...training import CAPABILITIES

    found = {name: capability() for name, capability in CAPABILITIES.items()}
    return [
        {
            "engine": name,
            "for": "training",
            "unusable": c.unusable,
            "devices": list(c.devices),
            "untested": list(c.untested),
            "families": list(c.families) if c.families is not None else None,
            "finetuning_types": list(c.finetuning_types),
            "versions": dict(c.versions),
        }
        for name, c in found.items()
    ]


def _serving() -> list[dict[str, Any]]:
    from ...serving import CAPABILITIES

    found = {name: capability() for name, capability in CAPABILITIES.items()}
    rows = [{"engine": name, "for": "serving", "unusable": c.unusable} for name, c in found.items()]
    return [row | {"devices": [], "untested": []} for row in rows]


def _install(name: str, ray: bool) -> None:
    from ...training import CAPABILITIES, install
    from ..telling.terminal import Terminal

    if name not in CAPABILITIES:
        raise WrongUse(
            "train.engine",
            say("{name} is no training engine", name=name),
            where=Where(field="NAME"),
            hint="steelyard engines list",
        )
    with Terminal() as watch:
        python = install(name, watch, ray)
    document = {"schema": "steelyard.engine/1", "engine": name, "python": str(python)}
    after = f"{say('next:')} steelyard engines list"
    result(document, say("{name} is installed: {path}", name=name, path=python), after)
