"""Who starts where people share a fleet: by priority, then by what each team had for its share.

A job of a higher priority takes the place of one of a lower; a team below its share takes a place of one that
is above its own, once that job has run for a stint. Budgets and deadlines end what they bound,
in time to save.
Small fleets: each turn looks at every job.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify
from math import inf

from . import admission
from .fleet import Fleet
from .job import Job
from .messages import Due, Outlook, Terms
from .teams import ALL

NEAR_S = 1e-6
MARGIN, MARGIN_S = 1.1, 60.0  # of the time that a job still needs: nearer to its deadline it goes first


def admit(fleet: Fleet) -> None:
    """Start what can be started now, by the policy of the fleet."""
    if not fleet.policy.shares:
        return admission.admit(fleet)
    held = False  # what gets free is held for a job; fillers give it back at once
    for job in sorted(_waiting(fleet), key=lambda job: _turn_of(fleet, job)):
        if (held and not job.filler) or not fleet.teams.pays(job.team, job.gpus * fleet.policy.notice_s):
            continue
        if job.gpus > fleet.free and not job.filler:
            _make_room(fleet, job)
        if job.gpus <= fleet.free:
            _take_out(fleet, job)
            fleet.start(job, job.gpus)
        elif job.gpus > fleet.usable:
            fleet.warn_of_room(job, job.gpus)
        else:
            waits_s = fleet.now_s - job.submit_s
            held |= fleet.policy.hold_s is not None and waits_s >= fleet.policy.hold_s


def count(fleet: Fleet) -> None:
    """Device time since the last event goes to the accounts of the teams."""
    fleet.teams.count(_held(fleet), fleet.now_s)


def enforce(fleet: Fleet) -> bool:
    """End what a budget or a deadline bounds; whether anything was ended."""
    before = len(fleet.decisions)
    for job in list(fleet.jobs.values()):
        if _must_save_s(fleet, job) <= fleet.now_s + NEAR_S:
            fleet.leave(job)
            fleet.say("stop", job, reason="its deadline has come")
    held = _held(fleet)  # before anyone ends: all whom a budget pays for end at one moment
    for job in fleet.holder_jobs():
        payer = _spent(fleet, job.team, held)
        if payer is not None:
            fleet.teams.closed[payer] = None
            name = "all jobs" if payer == ALL else f"team {payer}"
            fleet.preempt(job, f"the budget of {name} is spent")
    fleet.teams.due_s = _next_limit_s(fleet)
    return len(fleet.decisions) > before


def agree(fleet: Fleet, event: Terms) -> None:
    """New terms: shares and budgets of the teams, and of all. One that is not named has a share of 1 and no
    budget. What was used stays."""
    teams = fleet.teams
    teams.budget_s, teams.warned, teams.closed = event.budget_s, {}, {}
    for name, (share, budget_s) in teams.under(event.teams).items():
        account = teams.of(name)
        account.share, account.budget_s = share, budget_s


def move_deadline(fleet: Fleet, event: Due) -> None:
    """A date, in the time of the events, after that stood still; or the user wants another."""
    if event.job in fleet.jobs:
        fleet.jobs[event.job].deadline_s = event.deadline_s


def foresee(fleet: Fleet, event: Outlook) -> None:
    """A job says how long it still needs: a deadline or a budget that will not do is told once."""
    job = fleet.jobs.get(event.job)
    if job is None:
        return
    job.left_s, job.left_at_s = event.left_s, event.t_s
    if job.deadline_s is not None and event.t_s + event.left_s > job.deadline_s:
        late_s = event.t_s + event.left_s - job.deadline_s
        fleet.warn(f"deadline {job.id}", f"{job.id} would end {late_s / 60:.0f} min after its deadline")
    own = [other for other in fleet.jobs.values() if other.team == job.team]
    _foresee_budget(fleet, f"the budget of team {job.team}", own, fleet.teams.own_left_s(job.team))
    _foresee_budget(fleet, "the budget", list(fleet.jobs.values()), fleet.teams.left_s(ALL))


def _foresee_budget(fleet: Fleet, name: str, jobs: list[Job], left_s: float) -> None:
    """`jobs`: all those whom this budget pays for."""
    missing_s = sum(_needs_s(fleet, job) * job.gpus for job in jobs) - left_s
    if missing_s > NEAR_S:
        fleet.warn(name, f"{name} will not do: {missing_s / 3_600:.1f} device hours are missing")


def _needs_s(fleet: Fleet, job: Job) -> float:
    """What it said last, less what it has run since."""
    ran_s = fleet.now_s - max(job.left_at_s, job.stint_s) if job.size else 0.0
    return max(0.0, job.left_s - ran_s)


# ------------------------------------------------------------------ limits


def _must_save_s(fleet: Fleet, job: Job) -> float:
    return inf if job.deadline_s is None else job.deadline_s - fleet.policy.notice_s


def _spent(fleet: Fleet, team: str, held: dict[str, int]) -> str | None:
    """Whose budget has just enough left for all whom it pays for to save: the team's own, ALL, or None."""
    notice_s = fleet.policy.notice_s
    if fleet.teams.own_left_s(team) <= held.get(team, 0) * notice_s + NEAR_S:
        return team
    return ALL if fleet.teams.left_s(ALL) <= sum(held.values()) * notice_s + NEAR_S else None


def _next_limit_s(fleet: Fleet) -> float:
    """When the next job has to save for a deadline or a budget, if all goes on as now."""
    held, teams, notice_s = _held(fleet), fleet.teams, fleet.policy.notice_s
    due = [_must_save_s(fleet, job) for job in fleet.jobs.values()]
    rows = [(held.get(name, 0), row.budget_s, row.spent_s) for name, row in teams.accounts.items()]
    for devices, budget_s, spent_s in [*rows, (sum(held.values()), teams.budget_s, teams.spent_s)]:
        if devices and budget_s is not None:
            due.append(fleet.now_s + (budget_s - spent_s) / devices - notice_s)
    return min(due, default=inf)


# ------------------------------------------------------------------ whose turn


def _held(fleet: Fleet) -> dict[str, int]:
    held: dict[str, int] = {}
    for job in fleet.jobs.values():
        if job.size:
            held[job.team] = held.get(job.team, 0) + job.size
    return held


def _waiting(fleet: Fleet) -> list[Job]:
    heaps = [heap for level in fleet.waiting for heap in level.values()]
    names = dict.fromkeys(entry[2] for heap in heaps for entry in heap)
    return [fleet.jobs[name] for name in names if name in fleet.jobs]


def _turn_of(fleet: Fleet, job: Job) -> tuple[bool, int, bool, float, float, float, int]:
    deadline_s = inf if job.deadline_s is None else job.deadline_s
    near = fleet.now_s + MARGIN * job.left_s + MARGIN_S > deadline_s
    ratio = fleet.teams.ratio(job.team)
    return job.filler, -job.priority, not near, ratio, deadline_s, job.submit_s, job.order


def _take_out(fleet: Fleet, job: Job) -> None:
    """Of the queue, wherever it stands there."""
    heap = fleet.waiting[job.level][job.least]
    heap[:] = [entry for entry in heap if entry[2] != job.id]
    heapify(heap)
    if not heap:
        del fleet.waiting[job.level][job.least]
    fleet.queued -= not job.filler


def _make_room(fleet: Fleet, job: Job) -> None:
    """Preempt as few as will do, those that matter least first; nobody where all together do not do."""
    missing, victims = job.gpus - fleet.free, []
    may_go = _may_go(fleet, job)
    for other in sorted(fleet.holder_jobs(), key=lambda other: _matters(fleet, other)):
        if missing > 0 and may_go(other):
            victims.append(other)
            missing -= other.size
    if missing > 0:
        return
    for other in victims:
        if missing + other.size <= 0:  # what the others free is enough
            missing += other.size
        else:
            fleet.preempt(other, f"displaced by {job.id}")


def _matters(fleet: Fleet, job: Job) -> tuple[bool, int, float, float]:
    return not job.filler, job.priority, -fleet.teams.ratio(job.team), -job.stint_s


def _may_go(fleet: Fleet, job: Job) -> Callable[[Job], bool]:
    """Whether a running job has to give way to this one; those that do are counted as gone."""
    held, entitled = _held(fleet), _entitled(fleet)
    below = held.get(job.team, 0) + job.gpus <= entitled.get(job.team, 0.0) + NEAR_S

    def may_go(other: Job) -> bool:
        over = held[other.team] > entitled.get(other.team, 0.0) + NEAR_S
        ripe = fleet.now_s >= other.stint_s + fleet.policy.stint_s
        fair = other.team != job.team and below and over and ripe and other.priority == job.priority
        if not (other.filler or other.priority < job.priority or fair):
            return False
        held[other.team] -= other.size
        return True

    return may_go


def _entitled(fleet: Fleet) -> dict[str, float]:
    """Devices that are each team's by its share, of those who want any now."""
    wanting = dict.fromkeys(job.team for job in fleet.jobs.values() if not job.filler)
    shares = {team: fleet.teams.of(team).share for team in wanting}
    devices = len(fleet.holder) + fleet.free
    return {team: devices * share / sum(shares.values()) for team, share in shares.items()}
