"""rollback: a service's model is changed for the one before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ....units import show_s
from ...telling.messages import say
from ...telling.output import note, result
from ..recipes import no_settings


def rollback(
    name: Annotated[str | None, typer.Argument(metavar="RUN", show_default=False)] = None,
    workdir: Annotated[
        Path | None, typer.Option("--workdir", metavar="DIR", help=say("Folder of the run."))
    ] = None,
) -> None:
    no_settings("rollback")
    from ....run import rollback

    done = rollback(name, workdir=workdir)
    service, wall = done["service"], show_s(done["wall_s"])
    result(
        {"schema": "steelyard.rollback/1", **done},
        say("{url} has the model before again ({hash}), after {time}", url=service["url"],
            hash=done["artefact"][:16], time=wall),
    )  # fmt: skip
    note(say("steelyard up RECIPE publishes the newer one again"))
