"""rollback, canary: a service's model is changed for the one before, or for the next."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ....errors import Where, WrongUse
from ....units import show_s
from ...telling.messages import say
from ...telling.output import note, result
from ..recipes import no_settings

Workdir = Annotated[Path | None, typer.Option("--workdir", metavar="DIR", help=say("Folder of the run."))]


def rollback(
    name: Annotated[str | None, typer.Argument(metavar="RUN", show_default=False)] = None,
    leaving: Annotated[
        str | None,
        typer.Option("--from", metavar="HASH", help=say("Only while this artefact serves; else it is done.")),
    ] = None,
    workdir: Workdir = None,
) -> None:
    no_settings("rollback")
    from ....run import rollback

    done = rollback(name, workdir=workdir, leaving=leaving)
    service, wall = done["service"], show_s(done["wall_s"])
    result(
        {"schema": "steelyard.rollback/1", **done},
        say("{url} has the model before again ({hash}), after {time}", url=service["url"],
            hash=done["artefact"][:16], time=wall),
    )  # fmt: skip
    note(say("steelyard up RECIPE publishes the newer one again"))


def canary(
    name: Annotated[str, typer.Argument(metavar="RUN")],
    promote: Annotated[
        bool, typer.Option("--promote", help=say("It takes the service's place now."))
    ] = False,
    end: Annotated[bool, typer.Option("--end", help=say("Send it away; the service stays."))] = False,
    workdir: Workdir = None,
) -> None:
    no_settings("canary")
    if promote and end:
        raise WrongUse(
            "cli.usage", say("--promote and --end exclude each other"), where=Where(field="--end"),
            hint=say("leave one out"),
        )  # fmt: skip
    from ....run import canary

    done = canary(name, workdir=workdir, take=promote, end=end)
    result({"schema": "steelyard.canary/1", **done}, *_canary_lines(done))


def _canary_lines(done: dict[str, Any]) -> list[str]:
    tally, watch = done["tally"], done["watch"]
    lines = [
        say("{state}: {pairs} of {wanted} requests compared, {failed} failed, {slow} of {timed} too slow",
            state=done["state"], wanted=done["budget"]["requests"],
            **{n: tally[n] for n in ("pairs", "failed", "slow", "timed")})
    ]  # fmt: skip
    if tally["compared"]:
        likeness = tally["agreement"] / tally["compared"]
        lines.append(say("likeness of both answers (chrF): {value}", value=f"{likeness:.2f}"))
    if watch:
        lines.append(say("since it took the place: {answers} answers, {failed} failed, {late} late",
                         **{n: watch[n] for n in ("answers", "failed", "late")}))  # fmt: skip
    if why := tally["why"] or (watch or {}).get("why"):
        lines.append(say("why: {why}", why=why))
    if done["hindered"]:
        lines.append(say("it has not gone back yet: {why}", why=done["hindered"]))
    return lines
