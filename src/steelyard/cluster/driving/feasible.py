"""Whether deadlines and budgets of a file of jobs can be kept at all, before any of them begins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...errors import Refused, Where
from ...units import show_s
from ..deciding import Fleet
from .jobs_file import JobSpec
from .terms import Agreed

SOON_S = 20.0  # a job that starts and saves needs as much at least


def check(jobs: Sequence[JobSpec], fleet: Fleet, terms: Agreed, file: Path) -> None:
    """Of jobs that are about to be taken in. Raises Refused for the first that cannot be in time, or where
    all together need more than is left; what nobody has said (`takes`) is no reason."""

    def refused(code: str, field: str, message: str, hint: str) -> Refused:
        return Refused(f"jobs.{code}", message, where=Where(str(file), field=field), hint=hint)

    due = sorted((job.deadline_s, n, job) for n, job in enumerate(jobs) if job.deadline_s is not None)
    devices, needed_s = fleet.training + fleet.serving, 0.0
    for deadline_s, _, job in due:
        takes_s = max(job.takes_s or 0.0, SOON_S)
        if deadline_s < takes_s:
            why = f"{job.name} takes {show_s(takes_s)}, its deadline is in {show_s(deadline_s)}"
            why = why if deadline_s > 0 else f"the deadline of {job.name} has passed"
            raise refused("deadline", f"{job.name}.deadline", why, "a later deadline, or a smaller job")
        needed_s += takes_s * job.devices
        if needed_s > deadline_s * devices:
            why = f"by the deadline of {job.name} {needed_s / 3_600:.1f} device hours are needed"
            has = f"{devices} devices have {deadline_s * devices / 3_600:.1f} until then"
            raise refused(
                "deadline", f"{job.name}.deadline", f"{why}, {has}", "a later deadline, or fewer jobs"
            )
    for team, budget_s in [(name, budget_s) for name, _, budget_s in terms.teams] + [(None, terms.budget_s)]:
        own = [job for job in jobs if team is None or job.team == team]
        needed_s = sum((job.takes_s or 0.0) * job.devices for job in own)
        spent_s = fleet.teams.spent_s if team is None else fleet.teams.of(team).spent_s
        if budget_s is not None and needed_s > budget_s - spent_s:
            why = (
                f"{needed_s / 3_600:.1f} device hours are needed, {(budget_s - spent_s) / 3_600:.1f} are left"
            )
            field = "budget" if team is None else f"teams.{team}.budget"
            raise refused("budget", field, why, "a higher budget, or fewer jobs")
