"""data split: rows divided without leakage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ....errors import Where, WrongUse
from ...telling.messages import say
from ...telling.output import note, result, table
from ..recipes import no_settings


def split(
    set: Annotated[Path, typer.Argument(metavar="SET")],
    output: Annotated[
        Path,
        typer.Option(
            "--output", metavar="DIR", help=say("Where train.jsonl, validation.jsonl and test.jsonl go.")
        ),
    ],
    shares: Annotated[
        str,
        typer.Option(
            "--shares", metavar="N,N,N", help=say("Of train, validation and test; two: train and test.")
        ),
    ] = "80,10,10",
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", help=say("Another seed, another division."))
    ] = 0,
    near: Annotated[
        str,
        typer.Option(
            "--near", metavar="SHARE|none",
            help=say("Share of phrases from which rows stay together, or none: only equal questions."),
        ),
    ] = "0.5",
    workers: Annotated[int, typer.Option("--workers", metavar="N", min=1, help=say("Processes."))] = 1,
) -> None:  # fmt: skip
    no_settings("data split")
    from ....data import split_set
    from ...telling.terminal import Terminal

    parts, threshold = _shares(shares), _near(near)
    with Terminal() as watch:
        account = split_set(set, output, parts, seed, threshold, workers, watch)
    if account["unreadable"]:
        note(say("note: {n} rows cannot be read and are left out", n=account["unreadable"]))
    headline = say(
        "{rows} rows in {groups} groups, the largest of {most}", rows=account["rows"],
        groups=account["groups"], most=account["largest_group"],
    )  # fmt: skip
    result(account, headline, *table((say("part"), say("rows")), _rows(account)))


def _rows(account: dict[str, Any]) -> list[tuple[str, int]]:
    return [(name, part["rows"]) for name, part in account["parts"].items()]


def _shares(text: str) -> dict[str, float]:
    from ....data import parts_of

    try:
        return parts_of(text)
    except ValueError as e:
        raise WrongUse(
            "cli.usage", say("{flag} is one of {words}", flag="--shares", words="80,10,10 | 90,10"),
            where=Where(field="--shares"), hint="--shares 80,10,10",
        ) from e  # fmt: skip


def _near(text: str) -> float | None:
    if text == "none":
        return None
    try:
        if 0 < float(text) <= 1:
            return float(text)
    except ValueError:
        pass
    raise WrongUse(
        "cli.usage", say("{flag} is one of {words}", flag="--near", words="0.1 … 1, none"),
        where=Where(field="--near"), hint="--near 0.5",
    )  # fmt: skip
