"""How the jobs of a folder stand, read from its journal: no driver is asked, and none is disturbed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..deciding import Event, Submit, advance
from .jobs_file import JobsFile
from .journal import JOURNAL, events_of, first_fleet, present_s, read_journal


def status_of(spec: JobsFile, folder: Path) -> dict[str, Any]:
    """Jobs, teams and budget. Times in seconds, budgets in device seconds; None: no bound, or nobody knows.

    Raises CheckFailed where the journal is damaged.
    """
    lines = read_journal(folder / JOURNAL)
    if not lines:
        return {"jobs": [_row(job.name, "new") for job in spec.jobs], "teams": [], "budget_s": None,
                "spent_s": 0.0}  # fmt: skip
    fleet, ended, jobs = first_fleet(lines), {}, {}
    for event in events_of(lines):
        made = advance(fleet, event)
        if isinstance(event, Submit) and event.job in fleet.jobs:
            jobs[event.job] = fleet.jobs[event.job]  # it keeps what it has used when it leaves
        for decision in made:
            if decision.kind in ("finish", "stop"):
                ended[decision.job] = decision
    advance(fleet, Event(max(present_s(folder, lines), fleet.now_s)))
    rows = []
    for job in spec.jobs:
        held = fleet.jobs.get(job.name)
        if held is None:
            end = ended.get(job.name)
            state = "new" if end is None else "done" if end.kind == "finish" else "stopped"
            left = jobs.get(job.name)
            used_s, team = (left.service_s, left.team) if left else (0.0, job.team)
            rows.append(_row(job.name, state, used_s=used_s, team=team, why=end.reason if end else ""))
            continue
        state = "runs" if held.size else "rests" if held.rests else "waits"
        in_s = None if held.deadline_s is None else held.deadline_s - fleet.now_s
        left_s = held.left_s or None
        rows.append(_row(job.name, state, held.devices, held.used_s(fleet.now_s), in_s, left_s, held.team))
    teams = [
        {"team": name, "share": row.share, "spent_s": row.spent_s, "budget_s": row.budget_s}
        for name, row in fleet.teams.accounts.items() if name
    ]  # fmt: skip
    spent_s = fleet.used_s + sum(job.used_s(fleet.now_s) for job in fleet.jobs.values())
    return {"jobs": rows, "teams": teams, "budget_s": fleet.teams.budget_s, "spent_s": spent_s,
            "lent": fleet.lent, "down": list(fleet.down)}  # fmt: skip


def _row(
    name: str, state: str, devices: tuple[int, ...] = (), used_s: float = 0.0,
    deadline_in_s: float | None = None, left_s: float | None = None, team: str = "", why: str = "",
) -> dict[str, Any]:  # fmt: skip
    return {
        "job": name, "state": state, "devices": list(devices), "used_s": round(used_s, 1),
        "deadline_in_s": deadline_in_s, "left_s": left_s, "team": team, "why": why,
    }  # fmt: skip
