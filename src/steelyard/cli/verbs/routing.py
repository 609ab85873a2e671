"""route: what sends a prompt to the adapter of its ability, made of the abilities' own rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import Where, WrongUse
from ...units import show_share
from ..telling.messages import say
from ..telling.output import result, table
from .recipes import no_settings


def route(
    rows: Annotated[
        list[Path], typer.Argument(metavar="ROWS...", help=say("Files of rows, each with its ability."))
    ],
    output: Annotated[
        Path, typer.Option("--output", "--out", metavar="DIR", help=say("A folder that is not there yet."))
    ],
    test: Annotated[
        list[Path] | None,
        typer.Option("--test", metavar="FILE", help=say("Rows to measure it on; else some are held out.")),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0)] = 0,
) -> None:
    no_settings("route")
    from ...router import fit_router, write_router

    if output.exists():
        hint = say("name a folder that is not there yet")
        raise WrongUse("export.exists", f"{output} is there already", where=Where(str(output)), hint=hint)
    router = fit_router(read_rows(rows), list(read_rows(test)) if test else None, seed)
    part = output.with_name(f".{output.name}.part")
    write_router(router, part)
    part.rename(output)
    document = {"schema": "steelyard.route/1", "folder": str(output)} | router.as_json()
    document |= {"accuracy": {name: asdict(own) for name, own in router.accuracy.items()}}
    result(document, *lines(document))


def read_rows(files: list[Path]) -> Iterator[dict[str, Any]]:
    """Chats of JSONL files, as `clean` writes them. Raises WrongUse."""
    for file in files:
        try:
            text = file.read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise WrongUse(
                "route.rows", f"cannot read {file}", where=Where(str(file)), why=type(error).__name__,
                hint="a UTF-8 file with one JSON object a line; a run's are in its artefacts: train.jsonl",
            ) from error  # fmt: skip
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield _row(line, file, number)


def _row(line: str, file: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not isinstance(row.get("messages"), list):
        raise WrongUse(
            "route.rows", "the line is no chat", where=Where(str(file), number),
            hint='write it like {"messages": [...], "ability": "code"}; steelyard clean reads other formats',
        )  # fmt: skip
    return row


def lines(document: dict[str, Any]) -> list[str]:
    """How many held-out prompts each ability's adapter gets, and how many go to another or to the base."""
    own = document["accuracy"]
    rows = [
        (name, show_share(a["right"] / total), a["right"], a["wrong"], a["unsure"])
        for name, a in own.items()
        if (total := a["right"] + a["wrong"] + a["unsure"])
    ]
    head = (say("ability"), say("right adapter"), say("its own"), say("another's"), say("the base's"))
    adapters = " ".join(f"--adapter {name}=DIR" for name in own)
    return [
        say("wrote {path}", path=document["folder"]),
        *table(head, rows),
        f"{say('next:')} steelyard serve BASE {adapters} --route {document['folder']}",
    ]
