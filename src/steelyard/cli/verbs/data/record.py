"""record: the record of processing that privacy law asks for, from the lineage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...telling.messages import say
from ...telling.options import OPTIONS
from ...telling.output import paged, result
from ..recipes import no_settings
from .erasing import Work


def record(
    work: Work = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help=say("FILE.md or FILE.json; else shown."))
    ] = None,
) -> None:
    no_settings("record")
    import json

    from ....artefact import write_durably
    from ....report import render_record
    from ....run import processing_record

    document = {"schema": "steelyard.record/1"} | processing_record(work)
    if output is not None:
        is_json = output.suffix.lower() == ".json"
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n" if is_json else ""
        write_durably(output, (text or render_record(document, OPTIONS.language)).encode())
        return result(document | {"record": str(output)}, say("wrote {path}", path=output))
    if OPTIONS.json:
        return result(document)
    paged(render_record(document, OPTIONS.language).splitlines())
