"""clean: the data room alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ....errors import CheckFailed
from ....units import show_bytes
from ...telling.messages import say
from ...telling.output import note, result, table
from ..recipes import no_settings
from .rules import DEDUP, PII, word_of, words_of


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
    map: Annotated[
        str,
        typer.Option(
            "--map", metavar="WORD=COLUMN,...", help=say("Columns: user=COLUMN[+COLUMN],assistant=COLUMN.")
        ),
    ] = "",
    pii: Annotated[
        str | None,
        typer.Option(
            "--pii", metavar="|".join(PII), help=say("Personal data: replaced, only counted, or left alone.")
        ),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", metavar="N", min=1, help=say("Processes."))] = 1,
    dedup: Annotated[
        str,
        typer.Option(
            "--dedup",
            metavar="|".join(DEDUP),
            help=say("Rows that occur twice; near: texts that share half."),
        ),
    ] = "near",
    languages: Annotated[
        str, typer.Option("--languages", metavar="en,zh,...", help=say("Of plain texts that stay."))
    ] = "",
    off: Annotated[str, typer.Option("--off", metavar="KIND,...", help=say("Rules that do nothing."))] = "",
    only: Annotated[
        str,
        typer.Option(
            "--only",
            metavar="KIND,...",
            help=say("These rules alone; personal data is left alone without --pii."),
        ),
    ] = "",
    pii_model: Annotated[
        Path | None,
        typer.Option("--pii-model", metavar="DIR", help=say("A token classifier: names in prose, too.")),
    ] = None,
    licences: Annotated[
        str, typer.Option("--licences", metavar="NAME,...", help=say("Rows under another are dropped."))
    ] = "",
    consent: Annotated[
        bool, typer.Option("--consent", help=say("Rows that do not say that it was given are dropped."))
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help=say("The report and what would be dropped, no rows."))
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help=say("Exit with 4 where something could not be read."))
    ] = False,
    page: Annotated[
        Path | None,
        typer.Option("--page", metavar="FILE", help=say("A page with samples of each reason, as HTML.")),
    ] = None,
) -> None:
    no_settings("clean")
    from ....data import KINDS, LANGUAGES, clean_files
    from ...telling.terminal import Terminal

    settings: dict[str, Any] = {
        "pii": word_of(pii or ("off" if only else "mask"), PII, "--pii", "report"),
        "dedup": word_of(dedup, DEDUP, "--dedup", "near"),
        "languages": words_of(languages, LANGUAGES, "--languages"),
        "off": words_of(off, KINDS, "--off"),
        "pii_model": str(pii_model) if pii_model else None,
        "licences": tuple(name.strip() for name in licences.split(",") if name.strip()),
        "consent": "required" if consent else None,
    }
    if only:
        others = {*KINDS} - {*words_of(only, KINDS, "--only")}
        settings["off"] = tuple(sorted(others | {*settings["off"]}))
    from ...asking.first import map_of  # the room of recipes is more than `--help` needs

    columns = map_of(map)
    with Terminal() as watch:
        account = clean_files(
            input, output, report=report, contamination=contamination, workers=workers, settings=settings,
            map=columns, watch=watch, dry_run=dry_run,
        )  # fmt: skip
    if page is not None:
        from ....data import open_set
        from .looks import write_page

        write_page(open_set(output, source=None if columns else input), page, None)
    headline = say("{kept} of {rows} rows kept, {dropped} dropped", kept=account["kept"], rows=account["in"],
                   dropped=account["dropped"])  # fmt: skip
    reasons = (
        table((say("reason"), say("rows")), account["by_reason"].items()) if account["by_reason"] else []
    )
    if not account["masked"] and account["personal"]:
        counts = ", ".join(f"{n} {kind}" for kind, n in account["personal"].items())
        note(say("note: personal data is left as it is: {counts}", counts=counts))
    for name, why in account["faults"].items():
        note(say("not read: {file}: {why}", file=name, why=why))
    speed = f"{show_bytes(account['bytes_in'])}, {account['mb_per_s']:.1f} MB/s"
    result({"schema": "steelyard.clean/1"} | account, headline, *reasons, speed)
    if strict and account["unreadable"]:
        raise typer.Exit(CheckFailed.exit_code)
