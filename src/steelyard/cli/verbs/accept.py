"""accept: does this machine check, train and serve as it should?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import CheckFailed
from ...units import show_s
from ..telling.messages import say
from ..telling.output import result, table
from .recipes import no_settings


def accept(
    device: Annotated[str, typer.Option("--device", metavar="DEVICE", help="cpu | cuda | xpu | hpu")] = "cpu",
    output: Annotated[
        Path, typer.Option("--output", metavar="DIR", help=say("Where results are kept; the same goes on."))
    ] = Path("acceptance"),
) -> None:
    no_settings("accept")
    from ...run import accept as accepted
    from ..telling.terminal import Terminal

    with Terminal() as watch:
        told = accepted(device, output, watch)
    result({"schema": "steelyard.accept/1"} | told, *lines(told))
    if told["failed"]:
        raise typer.Exit(CheckFailed.exit_code)


def lines(told: dict[str, Any]) -> list[str]:
    """A line a part, and what is done with what was measured."""
    rows = [
        (p["name"], say(p["state"]), show_s(p["wall_s"]), p["why"] or figures(p["figures"]))
        for p in told["parts"]
    ]
    counts = {name: told[name] for name in ("passed", "failed", "not_run")}
    return [
        say("{passed} passed, {failed} failed, {not_run} could not run", **counts),
        *table((say("part"), "", say("time"), ""), rows),
        f"{say('next:')} steelyard validate {told['csv']}",
    ]


def figures(told: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in told.items())
