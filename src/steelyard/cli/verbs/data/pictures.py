"""data pictures: a folder of pictures and videos as one array for training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ....errors import CheckFailed
from ....units import Figure, show, show_bytes
from ...telling.messages import say
from ...telling.output import note, result
from ..recipes import no_settings

NICE = 10  # it fills cores that training leaves idle


def pictures(
    input: Annotated[Path, typer.Argument(metavar="FILE|DIR")],
    output: Annotated[
        Path, typer.Option("--output", metavar="DIR", help=say("Where pixels.npy and index.jsonl go."))
    ],
    size: Annotated[
        int, typer.Option("--size", metavar="PIXELS", min=8, max=4096, help=say("Of a side."))
    ] = 224,
    every: Annotated[
        float,
        typer.Option("--every", metavar="SECONDS", min=0.001, help=say("Of a video a frame so often.")),
    ] = 1.0,
    workers: Annotated[int, typer.Option("--workers", metavar="N", min=1, help=say("Processes."))] = 1,
    strict: Annotated[
        bool, typer.Option("--strict", help=say("Exit with 4 where something could not be read."))
    ] = False,
) -> None:
    no_settings("data pictures")
    from ....run import decode_pictures
    from ...telling.terminal import Terminal

    os.setpriority(os.PRIO_PROCESS, 0, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))
    with Terminal() as watch:
        report = decode_pictures(input, output, size, workers, every, watch, tell)
    headline = say("{kept} of {n} pictures kept, {dropped} dropped", kept=report["kept"], n=report["in"],
                   dropped=report["dropped"])  # fmt: skip
    speed = say("{bytes}, {rate} pictures/s", bytes=show_bytes(report["bytes_in"]),
                rate=report["pictures_per_s"])  # fmt: skip
    result(report, headline, speed)
    if strict and report["dropped"]:
        raise typer.Exit(CheckFailed.exit_code)


def tell(foreseen: Figure) -> None:
    note(say("foreseen: {time}", time=show(foreseen)))
