"""report: the page or the picture of a run, made again from its figures, in either language."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...errors import Where, WrongUse
from ..telling.messages import say
from ..telling.options import OPTIONS
from ..telling.output import result
from .recipes import no_settings


def report(
    run: Annotated[str, typer.Argument(metavar="RUN|UP.json")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="FILE", help=say("report.html in the run's folder; *.svg: the picture alone.")
        ),
    ] = None,
) -> None:
    no_settings("report")
    from ...report import picture, read_document, write_report

    source = _source(run)
    document = read_document(source)
    file = output or (source / "report.html" if source.is_dir() else Path("report.html"))
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix.lower() == ".svg":
        file.write_text(picture(document, OPTIONS.language), encoding="utf-8")
    else:
        write_report(document, file, OPTIONS.language)
    result({"schema": "steelyard.report/1", "report": str(file)}, say("wrote {path}", path=file))


def _source(name: str) -> Path:
    """A file of `up --json`, a run's folder, or the folder of the run with that id or name."""
    path = Path(name)
    if path.is_file() or (path / "report.json").is_file():
        return path
    from ...run import status

    runs = status()
    folders = [Path(r["workdir"]) for r in runs if name in (r["run"], r["name"], r["workdir"])]
    if folders:
        return folders[-1]
    names = ", ".join(str(r["run"]) for r in runs) or say("none")
    text = say("there is no run and no file {name}", name=name)
    raise WrongUse("report.no_run", text, where=Where(field="RUN"), hint=f"{say('known runs:')} {names}")
