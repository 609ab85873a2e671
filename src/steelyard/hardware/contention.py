"""The share of the cores that this program really had: what others compute makes everything here slower.

CPU seconds of this process and its family beside those of all processes on the CPUs that it may use. What the
hypervisor gave to other machines (steal) counts as others' work. Not here: what is done about it.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass

import psutil

from ..processes import family
from .machine import affinity, cgroup_limit

UNDISTURBED = 0.9  # share of the cores from which on a measurement stands for a free machine
SHORTEST_S = 0.2  # the kernel counts in ticks of 10 ms: a shorter time says too little
LEAST = 0.05


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds since some moment: of the clock, of all work on the usable CPUs, of our own work."""

    clock_s: float
    all_s: float
    own_s: float


def cpu_times() -> CpuTimes:
    """The counters now. 1 ms; where the system keeps none, others seem to do nothing."""
    return CpuTimes(time.monotonic(), _all_s(), _own_s())


def cores_had(before: CpuTimes, after: CpuTimes, cpus: int | None = None, usable: int | None = None) -> float:
    """Share of the `usable` of `cpus` that was left by others between two readings: 1 = nobody else computed.

    Too short a time to tell gives 1.
    """
    cpus = cpus or len(affinity())
    usable = min(usable or cgroup_limit("cpu"), cpus)
    wall_s = after.clock_s - before.clock_s
    if wall_s < SHORTEST_S:
        return 1.0
    return max(LEAST, min(1.0, (cpus * wall_s - _others_s(before, after)) / (usable * wall_s)))


def fair_share(before: CpuTimes, after: CpuTimes, usable: int | None = None) -> float:
    """Share of the cores that a program with a thread a core would get beside what others compute now.

    The kernel shares fairly: beside others' work on one of two cores two threads get two thirds, not a half.
    """
    usable = usable or min(len(affinity()), cgroup_limit("cpu"))
    wall_s = after.clock_s - before.clock_s
    if wall_s < SHORTEST_S:
        return 1.0
    return usable / (usable + _others_s(before, after) / wall_s)


def _others_s(before: CpuTimes, after: CpuTimes) -> float:
    """Seconds of work between two readings that was not ours."""
    return max(0.0, (after.all_s - before.all_s) - (after.own_s - before.own_s))


def _all_s() -> float:
    """User, system, interrupts and steal of the CPUs that this process may use."""
    with suppress(OSError, AttributeError, NotImplementedError):
        times = psutil.cpu_times(percpu=True)
        return sum(sum(_working(times[cpu])) for cpu in affinity() if cpu < len(times))
    return 0.0


def _working(times: tuple) -> list[float]:
    names = ("user", "nice", "system", "irq", "softirq", "steal")
    return [getattr(times, name, 0.0) for name in names]


def _own_s() -> float:
    """User and system of this process, of what descends from it, and of their children that have ended."""
    spent = 0.0
    for pid in family([os.getpid()]):
        with suppress(psutil.Error):
            spent += sum(psutil.Process(pid).cpu_times()[:4])
    return spent
