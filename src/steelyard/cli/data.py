"""clean: the data room alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..units import show_bytes
from .messages import say
from .output import result, table
from .recipes import no_settings


def clean(
    input: Annotated[Path, typer.Option("--input", metavar="FILE|DIR", help=say("What to clean."))],
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help=say("Where the kept rows go."))],
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help=say("The account; DIR/report.json."))
    ] = None,
    contamination: Annotated[
        Path | None,
        typer.Option("--contamination", metavar="FILE", help=say("Questions that no row may hold.")),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", metavar="N", min=1, help=say("Processes."))] = 1,
) -> None:
    no_settings("clean")
    from ..data import clean_files
    from .terminal import Terminal

    with Terminal() as watch:
        account = clean_files(
            input, output, report=report, contamination=contamination, workers=workers, watch=watch
        )
    headline = say("{kept} of {rows} rows kept, {dropped} dropped", kept=account["kept"], rows=account["in"],
                   dropped=account["dropped"])  # fmt: skip
    reasons = (
        table((say("reason"), say("rows")), account["by_reason"].items()) if account["by_reason"] else []
    )
    speed = f"{show_bytes(account['bytes_in'])}, {account['mb_per_s']:.1f} MB/s"
    result({"schema": "steelyard.clean/1"} | account, headline, *reasons, speed)
