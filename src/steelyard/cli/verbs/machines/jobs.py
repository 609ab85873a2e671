"""jobs: the jobs of a file on this machine or on nodes, watched and healed until each has ended."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ....artefact import Watch
from ....errors import CheckFailed, Where, WrongUse
from ....units import show_s
from ...asking.flags import flag, switch
from ...telling.messages import say
from ...telling.options import OPTIONS
from ...telling.output import note, result, table
from ..recipes import no_settings

if TYPE_CHECKING:
    from ....cluster import Decision, JobsFile

SHOWN = (
    "start", "resize", "preempt", "lend", "reclaim", "finish", "stop", "wake", "isolate", "readmit", "repair",
    "retire", "omit", "warn",
)  # fmt: skip

Workdir = Annotated[
    Path | None, flag("--workdir", "DIR", say("Journal and processes; else jobs/NAME beside the file."))
]
CancelJob = Annotated[str, flag("--cancel", "JOB", say("Tell the driver that runs: end this job."))]
ShowStatus = Annotated[
    bool, switch("--status", say("How the jobs, teams and the budget stand; nothing is started."))
]
Readmit = Annotated[
    int | None, flag("--readmit", "DEVICE", say("Tell the driver that runs: this device is well again."))
]


OnRay = Annotated[
    str | None, flag("--ray", "ADDRESS", say("Jobs run on the nodes of the cluster with this head."))
]


class Told(Watch):
    """A line for each decision, on standard error; SIGTERM and Ctrl-C end the jobs at a safe point."""

    def log(self, event: str, **fields: Any) -> None:
        kind = event.removeprefix("jobs.")
        if OPTIONS.quiet or kind not in SHOWN:
            return
        if kind in ("lend", "reclaim") and not fields["devices"]:
            return
        named = fields["job"] or ", ".join(map(str, fields["devices"]))
        note(f"{named}: {say(kind)}" + (f" ({fields['why']})" if fields["why"] else ""))


def jobs(
    file: Annotated[Path, typer.Argument(metavar="JOBS.yaml", show_default=False)],
    workdir: Workdir = None,
    cancel: CancelJob = "",
    readmit: Readmit = None,
    status: ShowStatus = False,
    ray: OnRay = None,
) -> None:
    no_settings("jobs")
    from ....cluster import ask, read_jobs_file, run_jobs, status_of
    from ....run import service_sockets

    spec = read_jobs_file(file)
    folder = (workdir or spec.file.parent / "jobs" / spec.file.stem).absolute()
    if status:
        return _show(status_of(spec, folder), folder)
    if cancel or readmit is not None:
        _check(spec, cancel, readmit)
        for what, name in (("cancel", cancel), ("readmit", readmit)):
            if name not in ("", None):
                ask(folder, what, str(name))
        return result({"schema": "steelyard.jobs/1", "asked": str(folder)}, say("the driver will see to it"))
    watch = Told()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: setattr(watch, "stop", True))
    _tell(spec, folder, run_jobs(spec, folder, watch, service_sockets, ray))


def _show(found: dict[str, Any], folder: Path) -> None:
    document = {"schema": "steelyard.jobs_status/1", "workdir": str(folder)} | found
    head = ("", say("state"), say("devices"), say("device hours"), say("still needs"), say("deadline in"))
    rows = [
        (row["job"], say(str(row["state"])), ", ".join(map(str, row["devices"])), _hours(row["used_s"]),
         _time(row["left_s"]), _time(row["deadline_in_s"]))
        for row in found["jobs"]
    ]  # fmt: skip
    whole = {"team": say("all jobs"), "share": "", "spent_s": found["spent_s"], "budget_s": found["budget_s"]}
    teams = [
        (row["team"], f"{row['share']}", _hours(row["spent_s"]), _hours(row["budget_s"]))
        for row in [*found["teams"], whole]
    ]
    shares = table((say("team"), say("share"), say("device hours"), say("budget")), teams, indent=0)
    result(document, *table(head, rows, indent=0), "", *shares)


def _hours(device_s: float | None) -> str:
    return "-" if device_s is None else f"{device_s / 3_600:.2f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return show_s(seconds) if seconds >= 0 else f"-{show_s(-seconds)}"


def _check(spec: JobsFile, cancel: str, readmit: int | None) -> None:
    """Raises WrongUse for a job or a device that the file does not have."""
    names = [job.name for job in spec.jobs]
    if cancel and cancel not in names:
        message = say("no job is called {name}", name=cancel)
        raise WrongUse("jobs.file", message, where=Where(field="--cancel"), hint=", ".join(names))
    if readmit is not None and not 0 <= readmit < len(spec.devices):
        message = say("no device {number}", number=readmit)
        raise WrongUse(
            "jobs.file", message, where=Where(field="--readmit"), hint=f"0 .. {len(spec.devices) - 1}"
        )


def _tell(spec: JobsFile, folder: Path, ends: dict[str, Decision]) -> None:
    rows = [
        {"job": job.name, "state": "done" if ends[job.name].kind == "finish" else "stopped",
         "why": ends[job.name].reason, "attempts": len(list((folder / "attempts" / job.name).glob("*-*")))}
        for job in spec.jobs
    ]  # fmt: skip
    document = {"schema": "steelyard.jobs/1", "workdir": str(folder), "jobs": rows}
    failed = [row for row in rows if row["state"] == "stopped" and row["why"] != "cancelled"]
    if failed and not OPTIONS.json:
        raise CheckFailed(
            "jobs.failed", say("{count} of {all} jobs were stopped", count=len(failed), all=len(rows)),
            why="; ".join(f"{row['job']}: {row['why']}" for row in failed),
            hint=f"the last words of each attempt: {folder}/attempts/{failed[0]['job']}/*/errors",
        )  # fmt: skip
    head = ("", say("state"), say("attempts"), say("why"))
    lines = [(row["job"], say(str(row["state"])), f"{row['attempts']}", row["why"]) for row in rows]
    result(document, *table(head, lines, indent=0))
    if failed:
        raise typer.Exit(CheckFailed.exit_code)
