"""The state of the core: devices, jobs, and indexes so that one event costs only what it moves.

`Fleet` is changed in place by the files above it; `step` copies it first, so that it is pure for its callers.
Every container keeps an order of its own (no sets): the same events give the same decisions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from math import inf

from ...forecast import Forecast
from .cadence import checkpoint_every_s, failure_rate
from .healing import Health
from .job import Job
from .messages import Decision
from .policy import FILLER_LEVEL, HOUR_S, LEVELS, LEVELS_H, Policy
from .teams import Teams

Jobs = dict[str, Job]


def _levels() -> list[Jobs]:
    return [{} for _ in range(LEVELS)]


@dataclass(slots=True)
class Fleet:
    """Devices 0..training-1 are training's, the next `serving` are serving's and may be lent."""

    training: int
    serving: int
    policy: Policy
    nodes: tuple[str, ...] = ()  # of each device its node, where that is known
    now_s: float = 0.0
    seq: int = 0
    epoch: int = 0
    submitted: int = 0
    failures: int = 0
    used_s: float = 0.0  # device seconds of jobs that have left
    at_serving: dict[int, None] = field(default_factory=dict)  # called back ones too
    free_training: list[int] = field(default_factory=list)
    free_lent: list[int] = field(default_factory=list)
    down: dict[int, None] = field(default_factory=dict)
    holder: dict[int, Job] = field(default_factory=dict)
    jobs: Jobs = field(default_factory=dict)
    waiting: list[dict[int, list[tuple[float, int, str]]]] = field(default_factory=list)
    queued: int = 0  # jobs that wait, fillers left out
    running: list[Jobs] = field(default_factory=_levels)
    mature: list[Jobs] = field(default_factory=_levels)  # may be displaced
    mature_devices: list[int] = field(default_factory=lambda: [0] * LEVELS)  # that displacing all would free
    above_gpus: list[Jobs] = field(default_factory=_levels)
    above_least: list[Jobs] = field(default_factory=_levels)
    growable: list[Jobs] = field(default_factory=_levels)
    on_lent: Jobs = field(default_factory=dict)
    spare: int = 0  # devices that jobs hold above their least
    timers: list[tuple[float, int, str, int]] = field(default_factory=list)
    timer: int = 0
    forecast: Forecast = field(default_factory=Forecast)
    health: Health = field(default_factory=Health)
    teams: Teams = field(default_factory=Teams)
    decisions: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.waiting:
            self.waiting = [{} for _ in range(LEVELS)]
            self.free_training = list(range(self.training - 1, -1, -1))
            self.at_serving = dict.fromkeys(range(self.training, self.training + self.serving))

    def copy(self) -> Fleet:
        """One that can be changed without a trace in this one."""
        jobs = {name: job.copy() for name, job in self.jobs.items()}

        def same(old: list[Jobs]) -> list[Jobs]:
            return [{name: jobs[name] for name in level} for level in old]

        return replace(
            self,
            at_serving=self.at_serving.copy(),
            free_training=self.free_training.copy(),
            free_lent=self.free_lent.copy(),
            down=self.down.copy(),
            holder={device: jobs[job.id] for device, job in self.holder.items()},
            jobs=jobs,
            waiting=[{need: heap.copy() for need, heap in level.items()} for level in self.waiting],
            running=same(self.running),
            mature=same(self.mature),
            mature_devices=self.mature_devices.copy(),
            above_gpus=same(self.above_gpus),
            above_least=same(self.above_least),
            growable=same(self.growable),
            on_lent={name: jobs[name] for name in self.on_lent},
            timers=self.timers.copy(),
            forecast=self.forecast.copy(),
            health=self.health.copy(),
            teams=self.teams.copy(),
            decisions=[],
        )

    # ------------------------------------------------------------------ devices

    @property
    def free(self) -> int:
        return len(self.free_training) + len(self.free_lent)

    @property
    def usable(self) -> int:
        """Devices that are not down."""
        return self.training + self.serving - len(self.down)

    @property
    def lent(self) -> int:
        """Devices of serving's that are with training now."""
        return len(self.free_lent) + sum(len(job.lent) for job in self.on_lent.values())

    @property
    def due_s(self) -> float:
        """When time alone will change something next."""
        return min(self.timers[0][0] if self.timers else inf, self.teams.due_s)

    def holder_jobs(self) -> list[Job]:
        """Those that hold devices, in a fixed order."""
        return [job for job in self.jobs.values() if job.size]

    def is_training(self, device: int) -> bool:
        return device < self.training

    def take(self, job: Job, count: int) -> None:
        """Give free devices to a job, training's own first."""
        for _ in range(count):
            if self.free_training:
                device = self.free_training.pop()
                job.training.append(device)
            else:
                device = self.free_lent.pop()
                job.lent.append(device)
            self.holder[device] = job

    def give_back(self, job: Job, count: int) -> None:
        """Free devices of a job, lent ones first: those are called back one day."""
        for _ in range(count):
            if job.lent:
                device = job.lent.pop()
                self.free_lent.append(device)
            else:
                device = job.training.pop()
                self.free_training.append(device)
            del self.holder[device]

    # ------------------------------------------------------------------ jobs

    def enqueue(self, job: Job) -> None:
        heappush(self.waiting[job.level].setdefault(job.least, []), (job.submit_s, job.order, job.id))
        self.queued += not job.filler

    def heads(self, level: int) -> Iterator[tuple[tuple[float, int, str], int]]:
        """The first of each size that waits on a level, and how many devices it needs at least."""
        for need, heap in self.waiting[level].items():
            while heap and heap[0][2] not in self.jobs:
                heappop(heap)
            if heap:
                yield heap[0], need

    def dequeue(self, level: int, need: int) -> Job:
        heap = self.waiting[level][need]
        job = self.jobs[heappop(heap)[2]]
        if not heap:
            del self.waiting[level][need]
        self.queued -= not job.filler
        return job

    def settle(self, job: Job) -> None:
        """Count the device time used so far; the job leaves the indexes, since it is about to change."""
        job.service_s = job.used_s(self.now_s)
        job.since_s = self.now_s
        level, name = job.level, job.id
        self.running[level].pop(name, None)
        self.above_gpus[level].pop(name, None)
        self.above_least[level].pop(name, None)
        self.growable[level].pop(name, None)
        self.on_lent.pop(name, None)
        self.spare -= job.spare
        job.spare = 0
        if job.mature:
            del self.mature[level][name]
            self.mature_devices[level] -= job.least
            job.mature = False
        job.stamp += 1

    def index(self, job: Job) -> None:
        """Put a running job where it belongs now, and set the clock for when that changes."""
        policy, now, name, size = self.policy, self.now_s, job.id, job.size
        job.level = level = FILLER_LEVEL if job.filler else policy.level(job.service_s)
        self.running[level][name] = job
        if job.lent:
            self.on_lent[name] = job
        if size > job.least:
            job.spare = size - job.least
            self.spare += job.spare
            self.above_least[level][name] = job
            if size > job.gpus:
                self.above_gpus[level][name] = job
        due = []
        if level < len(LEVELS_H):
            due.append(now + (LEVELS_H[level] * HOUR_S - job.service_s) / size + 1e-6)
        if job.filler or now >= job.stint_s + policy.stint_s:
            job.mature = True
            self.mature[level][name] = job
            self.mature_devices[level] += job.least
        else:
            due.append(job.stint_s + policy.stint_s)
        if size < job.most:
            if now >= job.changed_s + policy.grow_every_s:
                self.growable[level][name] = job
            else:
                due.append(job.changed_s + policy.grow_every_s)
        if due:
            self.timer += 1
            heappush(self.timers, (min(due), self.timer, name, job.stamp))

    def wake(self) -> bool:
        """Move the jobs whose time has come: to a higher level, ripe to be displaced, ripe to grow.

        True where one has rested after a failure, and waits now.
        """
        timers, now, rested = self.timers, self.now_s, False
        while timers and timers[0][0] <= now:
            _, _, name, stamp = heappop(timers)
            job = self.jobs.get(name)
            if job is None or job.stamp != stamp:
                continue
            if job.rests:
                job.rests, rested = False, True
                self.enqueue(job)
            else:
                self.settle(job)
                self.index(job)
        return rested

    # ------------------------------------------------------------------ decisions

    def say(self, kind: str, job: Job | None = None, devices: tuple[int, ...] = (), **more: object) -> None:
        """Note a decision. Of a job without `devices` given: all that it holds."""
        self.seq += 1
        name = "" if job is None else job.id
        self.decisions.append(Decision(kind, self.seq, self.epoch, name, devices, **more))  # type: ignore[arg-type]

    def warn(self, what: str, reason: str) -> None:
        """A word for the user, once: `what` it is about."""
        if what not in self.teams.warned:
            self.teams.warned[what] = None
            self.say("warn", reason=reason)

    def warn_of_room(self, job: Job, need: int) -> None:
        """It waits until more devices are well."""
        self.warn(f"room {job.id}", f"{job.id} needs {need} devices, {self.usable} are well")

    def start(self, job: Job, count: int) -> None:
        """Let a job that left the queue run on free devices."""
        job.since_s = job.stint_s = job.changed_s = self.now_s
        self.take(job, count)
        job.stamp += 1
        self.index(job)
        self.say("start", job, job.devices, every_s=self.every_s(job))

    def changed(self, job: Job) -> None:
        """Its devices are others now (after `settle`)."""
        job.changed_s = self.now_s
        self.index(job)
        self.say("resize", job, job.devices, every_s=self.every_s(job))

    def shrink(self, job: Job, count: int) -> None:
        """Take devices from a job that goes on with the rest."""
        self.settle(job)
        self.give_back(job, count)
        self.changed(job)

    def preempt(self, job: Job, reason: str, lost: bool = False) -> None:
        """Take all devices; the job waits again, on the level that its device time puts it on."""
        self.settle(job)
        self.give_back(job, job.size)
        job.level = FILLER_LEVEL if job.filler else self.policy.level(job.service_s)
        self.enqueue(job)
        deadline_s = 0.0 if lost else self.policy.notice_s
        self.say("preempt", job, (), deadline_s=deadline_s, lost=lost, reason=reason)

    def rest(self, job: Job, seconds: float, reason: str) -> None:
        """Its processes are gone: devices come back, and it waits for its turn only after `seconds`."""
        self.settle(job)
        self.give_back(job, job.size)
        job.level = FILLER_LEVEL if job.filler else self.policy.level(job.service_s)
        job.rests = True
        self.timer += 1
        heappush(self.timers, (self.now_s + seconds, self.timer, job.id, job.stamp))
        self.say("preempt", job, (), lost=True, reason=reason)

    def remove(self, device: int) -> None:
        """A free device, or one that serves, is out."""
        for pool in (self.free_training, self.free_lent):
            if device in pool:
                pool.remove(device)
        self.at_serving.pop(device, None)
        self.down[device] = None

    def leave(self, job: Job) -> None:
        """Forget a job: it is done, cancelled or stopped."""
        if job.size:
            self.settle(job)
            self.give_back(job, job.size)
        elif not job.rests:
            self.queued -= not job.filler
        self.used_s += job.service_s
        del self.jobs[job.id]

    def every_s(self, job: Job) -> float:
        """Seconds between two checkpoints of a job."""
        return checkpoint_every_s(job.size, failure_rate(self.failures, self.used_s))
