"""simulate: a fleet over traces of jobs and of a serving load; and what if it were another."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ....units import show_number, show_s, show_share
from ...asking.flags import flag, switch
from ...telling.messages import say
from ...telling.options import OPTIONS
from ...telling.output import result, table
from ..recipes import no_settings

SHOWN = ("mean_queue_s", "mean_jct_s", "slo_violation_share", "goodput", "idle_recovered_share")


Load = Annotated[Path, flag("--load", "FILE", say("Need of serving, a row a minute."))]
Devices = Annotated[int, flag("--devices", "N", say("All devices."))]
Serving = Annotated[int, flag("--serving", "N", say("Those among them that are serving's."))]
Policy = Annotated[str, flag("--policy", "NAME", "tide, fixed, backfill, fifo")]
Rigid = Annotated[bool, switch("--rigid", say("No job changes its size."))]
Lend = Annotated[str, flag("--lend", "22-6", say("Hours of the day in which serving lends."))]
Faults = Annotated[
    str, flag("--faults", "published|FILE", say("Failures at a published rate, or of a file."))
]
Seed = Annotated[int, flag("--seed", "N", say("Of drawn failures."))]
RestartS = Annotated[float, flag("--restart-s", "S", say("Seconds that a restart or a resize takes."))]
WhatIf = Annotated[
    list[str] | None, flag("--what-if", "CHANGE", say("devices=+50, lend=22-6, ...; again for more."))
]
Events = Annotated[Path | None, flag("--events", "FILE", say("Write each event, JSON lines."))]
Page = Annotated[Path | None, flag("--page", "FILE.html", say("Write the page with its charts."))]


def simulate(
    jobs: Annotated[Path, typer.Argument(metavar="JOBS.csv", show_default=False)],
    load: Load,
    devices: Devices,
    serving: Serving,
    policy: Policy = "tide",
    rigid: Rigid = False,
    lend: Lend = "",
    faults: Faults = "",
    seed: Seed = 0,
    restart_s: RestartS = 20.0,
    what_if: WhatIf = None,
    events: Events = None,
    page: Page = None,
) -> None:
    no_settings("simulate")
    from ....cluster import Setup, changed, read_trace, run_setup

    setup = Setup(
        devices=devices, serving=serving, policy=policy, rigid=rigid, lend=lend, faults=faults, seed=seed,
        restart_s=restart_s,
    )  # fmt: skip
    variants = {question: changed(setup, question) for question in what_if or ()}
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    trace = read_trace(jobs, load, setup)
    account = run_setup(trace, setup, events)
    document = {"schema": "steelyard.simulation/1"} | setup.document() | account.document()
    document["wall_s"] = time.perf_counter() - began_s
    document["cpu_s"] = time.process_time() - began_cpu_s
    series = [account.series]
    answers = []
    for question, variant in variants.items():
        other = run_setup(trace, variant)
        answers.append({"question": question} | variant.document() | other.document())
        series.append(other.series)
    document["what_if"] = answers
    files = [str(path) for path in (events, page) if path is not None]
    if page is not None:
        from ....report import write_fleet

        write_fleet(document, series, page, OPTIONS.language)
    document["files"] = files
    result(document, *_lines(document), *(say("wrote {path}", path=path) for path in files))


def _lines(document: dict[str, Any]) -> list[str]:
    """A row for the fleet as asked, and one for each question."""
    head = (
        "", say("devices"), say("mean wait"), say("mean time to the end"), say("short minutes"),
        say("goodput"), say("idle recovered"), say("done"),
    )  # fmt: skip
    rows = [("> " + document["policy"], *_cells(document))]
    rows += [("  " + row["question"], *_cells(row)) for row in document["what_if"]]
    return table(head, rows, indent=0)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    wait, jct, *shares = (row[name] for name in SHOWN)
    fleet = f"{row['devices'] - row['serving']} + {row['serving']}"
    done = f"{row['jobs_done']:,}"
    short = show_share(shares[0], 2)
    return (fleet, show_s(wait), show_s(jct), short, *(show_number(s, "share") for s in shares[1:]), done)
