"""Lend slowly, call back at once; jobs grow when nothing waits. All of it on ticks."""

from __future__ import annotations

from itertools import chain, islice

from .admission import LOOKED_AT
from .fleet import Fleet
from .job import Job
from .policy import LEVELS
from .sharing import admit


def turn(fleet: Fleet) -> None:
    """One minute: devices go to training or come back, then jobs start and grow."""
    if fleet.policy.lends:
        _move(fleet)
    admit(fleet)
    if not fleet.queued and fleet.policy.elastic:
        grow(fleet)


def _move(fleet: Fleet) -> None:
    most = len(fleet.at_serving) + fleet.lent
    lends = fleet.policy.lends_at(fleet.now_s + 2 * fleet.policy.reclaim_s)
    target = fleet.forecast.target(most)
    target = target if lends else most
    present = len(fleet.at_serving)
    if present < target:
        reclaim(fleet, target - present)
    elif lends and present > fleet.forecast.floor():
        lend(fleet, present - fleet.forecast.floor())


def lend(fleet: Fleet, count: int) -> None:
    """Serving's devices that its own forecast leaves idle train now."""
    devices = tuple(fleet.at_serving.popitem()[0] for _ in range(count))
    fleet.free_lent.extend(devices)
    fleet.say("lend", devices=devices)


def reclaim(fleet: Fleet, count: int) -> None:
    """Call devices back with the least loss.

    Idle ones, those above a job's share, those above its least; then gangs move to training's own devices,
    for which others shrink or, at last, are preempted. Where jobs keep their devices until they end (a policy
    that is not elastic) those on lent ones are preempted, and `admit` finds each its next place.
    """
    _shrink_lent(fleet, count)
    while len(fleet.free_lent) < count and fleet.on_lent:
        if not fleet.policy.elastic:
            fleet.preempt(_least_missed(fleet, count - len(fleet.free_lent)), "reclaimed")
        elif fleet.free_training:
            _swap(fleet, count - len(fleet.free_lent))
        elif not _shrink_own(fleet, count - len(fleet.free_lent)):
            fleet.preempt(_least_loss(fleet, count - len(fleet.free_lent)), "reclaimed")
    back = tuple(fleet.free_lent.pop() for _ in range(min(count, len(fleet.free_lent))))
    fleet.at_serving.update(dict.fromkeys(back))
    fleet.say("reclaim", devices=back)


def _shrink_lent(fleet: Fleet, count: int) -> None:
    """Jobs with lent devices give up what they hold above their share, then above their least."""
    for jobs, keep in ((fleet.above_gpus, "gpus"), (fleet.above_least, "least")):
        for level in range(LEVELS - 1, -1, -1):
            for job in list(jobs[level].values()):
                missing = count - len(fleet.free_lent)
                if missing <= 0:
                    return
                give = min(missing, len(job.lent), job.size - getattr(job, keep))
                if give > 0:
                    fleet.shrink(job, give)


def _swap(fleet: Fleet, missing: int) -> None:
    """A gang leaves lent devices for free ones of training's own."""
    job = min(islice(fleet.on_lent.values(), LOOKED_AT), key=lambda job: abs(len(job.lent) - missing))
    count = min(missing, len(job.lent), len(fleet.free_training))
    fleet.settle(job)
    fleet.give_back(job, count)
    for _ in range(count):
        device = fleet.free_training.pop()
        job.training.append(device)
        fleet.holder[device] = job
    fleet.changed(job)


def _shrink_own(fleet: Fleet, missing: int) -> bool:
    """Room on training's own devices for a gang: the job that has used most device time gives some up."""
    for level in range(LEVELS - 1, -1, -1):
        for job in fleet.above_least[level].values():
            fleet.shrink(job, min(missing, job.size - job.least))
            return True
    return False


def _least_missed(fleet: Fleet, missing: int) -> Job:
    """On lent devices: a filler, else one of the lowest priority; of those the best fit."""
    return min(
        fleet.on_lent.values(),
        key=lambda job: (
            not job.filler, job.priority, len(job.lent) < missing, abs(len(job.lent) - missing), job.size,
        ),
    )  # fmt: skip


def _least_loss(fleet: Fleet, missing: int) -> Job:
    """Of those who have used most device time, and so will run longest, the best fit on lent devices."""
    for level in range(LEVELS - 1, -1, -1):
        jobs = fleet.running[level]
        if jobs:
            break
    near = islice(chain((j for j in jobs.values() if j.lent), jobs.values()), LOOKED_AT)
    return min(near, key=lambda job: (not job.lent, job.size < missing, abs(job.size - missing)))


def grow(fleet: Fleet) -> None:
    """Free devices go to running jobs: first back to their share, then up to their most; short ones first."""
    for bound in ("gpus", "most"):
        for level in range(LEVELS):
            for job in list(fleet.growable[level].values()):
                if not fleet.free:
                    return
                more = min(fleet.free, getattr(job, bound) - job.size)
                if more > 0:
                    fleet.settle(job)
                    fleet.take(job, more)
                    fleet.changed(job)
