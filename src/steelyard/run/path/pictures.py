"""`data pictures`: foreseen by the planner, done by the data room, noted in the ledger."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...artefact import Watch
from ...data import Found, make_pictures
from ...errors import Problem
from ...hardware import Machine, probe
from ...ledger import Row
from ...planner import decode_s
from ...units import Figure
from ..planning.prepare import learnt_rows, ledger

STEP = "pictures"


def decode_pictures(
    input: Path,
    output: Path,
    size: int = 224,
    workers: int = 1,
    every: float = 1.0,
    watch: Watch | None = None,
    tell: Callable[[Figure], None] = lambda foreseen: None,
) -> dict[str, Any]:
    """The report of `make_pictures`, and "foreseen": the seconds that `tell` got before the first picture."""
    watch, machine = watch or Watch(), probe()
    foreseen: list[Figure] = []

    def found(there: Found) -> None:
        past = [row for row in learnt_rows(machine, watch) if row.step == STEP]
        counts = there.pictures, there.picture_bytes, there.coded_pixels
        foreseen.append(decode_s(*counts, workers, machine.cores, past))
        tell(foreseen[0])

    started = time.monotonic()
    report = make_pictures(input, output, size, workers, every, watch, found)
    learn(machine, report, workers, foreseen[0], time.monotonic() - started, watch)
    return report | {"foreseen": foreseen[0].as_json()}


def learn(
    machine: Machine, report: dict[str, Any], workers: int, foreseen: Figure, wall_s: float, watch: Watch
) -> None:
    """A ledger that cannot be written ends nothing."""
    features = {
        "pictures": report["in"],
        "bytes": report["picture_bytes"],
        "coded_pixels": report["coded_pixels"],
        "workers": workers,
        "size": report["size"],
    }
    run = f"{STEP}-{time.time():.0f}-{os.getpid()}"
    row = Row(
        run=run, step=STEP, machine=machine.fingerprint, features=features,
        predicted={"wall_s": foreseen.value}, measured={"wall_s": wall_s}, versions=dict(machine.versions),
    )  # fmt: skip
    try:
        ledger().write(row)
    except (Problem, OSError) as error:
        watch.log("ledger.not_written", why=str(error))
