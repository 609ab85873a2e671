"""Who starts: by level of device time used, then by submission. Others shrink for it, or are displaced."""

from __future__ import annotations

from itertools import islice

from .fleet import Fleet, Jobs
from .job import Job
from .policy import FILLER_LEVEL, LEVELS

LOOKED_AT = 32  # candidates of one level that are compared before one is displaced


def admit(fleet: Fleet) -> None:
    """Start what can be started now."""
    if fleet.policy.tells and fleet.down:
        _warn(fleet)
    for level in range(LEVELS):
        if fleet.waiting[level] and not _admit_level(fleet, level):
            return


def _warn(fleet: Fleet) -> None:
    """Of those that wait for more devices than are well."""
    for level in fleet.waiting:
        for need, heap in level.items():
            if need > fleet.usable:
                for _, _, name in heap:
                    if name in fleet.jobs:
                        fleet.warn_of_room(fleet.jobs[name], need)


def _admit_level(fleet: Fleet, level: int) -> bool:
    """Start what fits on one level; False where the levels above it must wait for a gang that is held for."""
    policy = fleet.policy
    while True:
        room = reach(fleet, level)
        heads = list(fleet.heads(level))
        fitting = min((head for head in heads if head[1] <= room), default=None)
        first = min(heads, default=None)
        if first is not None and first[1] > room:
            waited = fleet.now_s - first[0][0]
            if policy.in_order or (policy.hold_s is not None and waited >= policy.hold_s):
                return False
        if fitting is None:
            return True
        _start(fleet, level, fitting[1])


def reach(fleet: Fleet, level: int) -> int:
    """Devices that a waiting job of this level can get now, at most."""
    if level == FILLER_LEVEL:
        return fleet.free
    room = fleet.free + fleet.spare
    if fleet.policy.displaces:
        room += sum(fleet.mature_devices[level + 1 :])
    else:
        room += fleet.mature_devices[FILLER_LEVEL]
    return room


def _start(fleet: Fleet, level: int, need: int) -> None:
    """The first job that waits for `need` devices; room for it is made before."""
    job = fleet.dequeue(level, need)
    make_room(fleet, need, level)
    fleet.start(job, min(job.gpus, fleet.free))


def make_room(fleet: Fleet, need: int, level: int) -> None:
    """Free devices until `need` are: fillers go first, then jobs shrink, then others of a higher level go."""
    displace(fleet, need, FILLER_LEVEL)
    shrink(fleet, need)
    for victims in range(FILLER_LEVEL - 1, level, -1):
        displace(fleet, need, victims)


def shrink(fleet: Fleet, need: int) -> None:
    """Jobs above their share first, then above their least; of each those that have used most device time."""
    for jobs, keep in ((fleet.above_gpus, "gpus"), (fleet.above_least, "least")):
        for level in range(LEVELS - 1, -1, -1):
            while jobs[level] and fleet.free < need:
                job = next(iter(jobs[level].values()))
                fleet.shrink(job, min(need - fleet.free, job.size - getattr(job, keep)))


def displace(fleet: Fleet, need: int, level: int) -> None:
    """Preempt ripe jobs of a level, the best fit first."""
    while fleet.mature[level] and fleet.free < need:
        fleet.preempt(_best_fit(fleet.mature[level], need - fleet.free), "displaced")


def _best_fit(jobs: Jobs, count: int) -> Job:
    """The job that frees `count` devices with the fewest beside them, else the largest."""
    return min(
        islice(jobs.values(), LOOKED_AT),
        key=lambda job: (job.size < count, abs(job.size - count)),
    )
