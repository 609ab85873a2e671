"""The driver: what happens goes to the core, what the core decides is done, on this machine or on nodes.

Not here: what is decided (deciding), how a worker is watched (workers.py) and where it runs (place.py, far),
what is recorded (journal.py). The driver may be killed at any moment: the next one reads the journal, and
takes over the workers that live.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...artefact import Watch
from ...errors import Lacking, Refused, Stopped, Where, WrongUse
from ..deciding import (
    Cancel,
    ClockJumped,
    Decision,
    DeviceBack,
    DeviceLost,
    Due,
    Event,
    Load,
    ProbeResult,
    Submit,
    Terms,
    Tick,
)
from .feasible import check
from .following import Listening, Services
from .jobs_file import JobsFile, JobSpec
from .journal import JOURNAL, Journal, Lease, lease, taken_over
from .place import Here, Place
from .probing import Finding, Probing, begin_probe
from .workers import Workers

LOOK_S = 0.2
TICK_S = 60.0
SAVE_S = 15.0  # when the driver itself is asked to end
AGAIN_S, LONGEST_S = 10.0, 600.0  # until a device that was isolated is probed, and one that failed again
JUMP_S = 2.0
NEAR_S = 5.0  # a date is the one that holds
ASKED = "asked"  # a folder: cancel-JOB, readmit-DEVICE


@dataclass(slots=True)
class Driver:
    """One life of the driver."""

    spec: JobsFile
    folder: Path
    lease: Lease
    watch: Watch
    journal: Journal
    workers: Workers
    listening: Listening | None = None  # to the services whose devices may be lent
    probes: list[tuple[float, int, float]] = field(
        default_factory=list
    )  # due at, device, seconds after a failure
    probing: list[tuple[Probing, float]] = field(default_factory=list)
    tick_s: float = 0.0
    outlook_s: float = 0.0  # a clock of its own: `tick_s` follows each Load
    load_s: float = 0.0
    clock_s: float = field(default_factory=lambda: time.time() - time.monotonic())

    def run(self) -> dict[str, Decision]:
        """Until no job is left: how each ended. Raises Stopped where the watch says so, Refused where another
        driver has taken over."""
        self._reconcile()
        while self.workers.living or self._left():
            if self.watch.stop:
                return self._stop()
            self._turn()
            self._end_without_budget()
            time.sleep(LOOK_S)
        return self.journal.outcome

    def _left(self) -> list[str]:
        return [job.name for job in self.spec.jobs if job.name not in self.journal.outcome]

    def _end_without_budget(self) -> None:
        """Raises Refused where all that is left waits for a budget that is spent."""
        fleet, left = self.journal.fleet, self._left()
        jobs = [fleet.jobs[name] for name in left if name in fleet.jobs]
        if jobs and not self.workers.living and not any(job.size or job.rests for job in jobs):
            notice_s = fleet.policy.notice_s
            if not any(fleet.teams.pays(job.team, job.gpus * notice_s) for job in jobs):
                used = f"{fleet.teams.spent_s / 3_600:.1f} device hours are used"
                raise Refused(
                    "jobs.budget", f"the budget is spent; {', '.join(left)} wait for more", why=used,
                    where=Where(str(self.spec.file), field="budget"),
                    hint="a higher budget, then the same command: each goes on from its last checkpoint",
                )  # fmt: skip

    def _reconcile(self) -> None:
        """What the journal says against what really runs, then the jobs that are new."""
        fresh = [job for job in self.spec.jobs if job.name not in self.journal.known]
        self._refuse(fresh)
        self.workers.end_strays(self.journal.begun)
        for decision in list(self.journal.begun.values()):
            self.workers.adopt(decision)
        for device, record in self.journal.fleet.health.records.items():
            if record.state in ("suspect", "isolated", "repair"):
                self.probes.append((0.0, device, AGAIN_S if record.state == "repair" else 0.0))
        self._hear_devices()
        for name in sorted(
            self.journal.known - set(self.journal.outcome) - {job.name for job in self.spec.jobs}
        ):
            self._tell(Cancel(self.journal.now_s, name))  # no longer in the file
        self._agree()
        for job in fresh:
            self._tell(_submitted(job, self.journal.now_s))

    def _refuse(self, fresh: list[JobSpec]) -> None:
        """Before anything is done: a job that was cancelled for a file that is refused would stay ended.
        Raises WrongUse where these jobs were begun otherwise, Refused for what cannot be kept."""
        began = self.journal.fleet.policy
        limits = self.spec.shares or self.spec.serving.devices
        if "tide" in (began.name, self.spec.policy) and began.name != self.spec.policy:
            raise self._begun_otherwise(f"these jobs were begun with policy {began.name}")
        if limits and not began.shares and not began.lends:
            raise self._begun_otherwise("an older version began these jobs: without teams and limits")
        check(fresh, self.journal.fleet, self.spec.terms, self.spec.file)

    def _begun_otherwise(self, text: str) -> WrongUse:
        return WrongUse(
            "jobs.file", text, where=Where(str(self.folder)), hint="another --workdir for this file"
        )

    def _agree(self) -> None:
        """The terms of the file, where they are other than those that hold; and its dates."""
        teams, terms = self.journal.fleet.teams, self.spec.terms
        holding = {name: (row.share, row.budget_s) for name, row in teams.accounts.items()}
        if (teams.budget_s, holding) != (terms.budget_s, teams.under(terms.teams)):
            self._tell(Terms(self.journal.now_s, terms.teams, terms.budget_s))
        for job in self.spec.jobs:
            held = self.journal.fleet.jobs.get(job.name)
            if held is not None and job.due_by_date and job.deadline_s is not None:
                deadline_s = round(self.journal.now_s + job.deadline_s, 3)
                if held.deadline_s is None or abs(held.deadline_s - deadline_s) > NEAR_S:
                    self._tell(Due(self.journal.now_s, job.name, deadline_s))

    def _turn(self) -> None:
        if not self.lease.holds():
            raise taken_over(self.folder)
        for event in self.workers.look(self.journal.now_s):
            self._tell(event)
        self._hear_devices()
        self._hear_clock()
        self._hear_probes()
        self._hear_asked()
        if self.journal.fleet.due_s <= self.journal.now_s:
            self._tell(Event(self.journal.now_s))
        self._tick()
        self.workers.begin_waiting()

    def _tick(self) -> None:
        now_s = self.journal.now_s
        if now_s - self.outlook_s >= TICK_S:
            self.outlook_s = now_s
            for event in self.workers.outlooks(now_s):
                self._tell(event)
        if self.listening and now_s - self.load_s >= self.spec.serving.every_s:
            self.load_s = now_s
            self._tell(Load(now_s, math.ceil(self.listening.share() * self.spec.serving.devices)))
        elif now_s - self.tick_s < TICK_S:
            return
        self.tick_s = self.journal.now_s
        self._tell(Tick(self.tick_s))

    # ------------------------------------------------------------------ what happens

    def _tell(self, event: Event) -> None:
        for decision in self.journal.tell(event):
            self.watch.log(
                f"jobs.{decision.kind}", job=decision.job, devices=list(decision.devices), why=decision.reason
            )
            ACTS.get(decision.kind, _nothing)(self, decision)

    def _hear_devices(self) -> None:
        """Nodes that are lost, or do not answer; one that is lost is probed once it answers again."""
        for event in self.workers.place.look(self.journal.now_s, self.workers.heard_s()):
            if not isinstance(event, DeviceLost):
                self._tell(event)
            elif event.device not in self.journal.fleet.down:
                self._tell(event)
                self._probe_later(event.device, AGAIN_S / 10)

    def _hear_clock(self) -> None:
        clock_s = time.time() - time.monotonic()
        by_s, self.clock_s = clock_s - self.clock_s, clock_s
        if abs(by_s) > JUMP_S:
            self._tell(ClockJumped(self.journal.now_s, round(by_s, 3)))

    def _hear_probes(self) -> None:
        now_s = self.journal.now_s
        for row in [row for row in self.probes if row[0] <= now_s and self.workers.place.answers(row[1])]:
            self.probes.remove(row)
            self.probing.append((self._probe(row[1]), row[2]))
        for probing, after_s in list(self.probing):
            finding = probing.result()
            if finding is None:
                continue
            self.probing.remove((probing, after_s))
            self.workers.release(probing.devices)
            if finding.lost:
                self.probes.append((now_s, probing.device, after_s))
            elif not probing.is_sure(finding):
                again = self._probe(probing.device)
                again.times = probing.times + 1
                self.probing.append((again, after_s))
            else:
                self._probed(probing.device, finding, after_s)

    def _probe(self, device: int) -> Probing:
        fleet = self.journal.fleet
        well = [n for n in range(len(self.spec.devices)) if n != device and n not in fleet.down]
        well = [n for n in well if fleet.health.of(n).state == "healthy" and self.workers.place.answers(n)]
        other = min(well, key=lambda n: n in fleet.holder, default=None)  # one that is idle holds up nobody
        self.workers.hold([device] if other is None else [device, other])
        return begin_probe(self.workers.place, device, other)

    def _probed(self, device: int, finding: Finding, after_s: float) -> None:
        self.watch.log("jobs.probed", devices=[device], passed=finding.passed, why=finding.why)
        if not after_s:
            return self._tell(ProbeResult(self.journal.now_s, device, finding.passed))
        if finding.passed:
            return self._tell(DeviceBack(self.journal.now_s, device))
        self._probe_later(device, min(LONGEST_S, 2 * after_s))

    def _probe_later(self, device: int, after_s: float) -> None:
        """One that goes to be repaired is tried again, ever more seldom."""
        self.probes.append((self.journal.now_s + after_s, device, after_s))

    def _hear_asked(self) -> None:
        """What a person asks for from another shell."""
        for file in sorted((self.folder / ASKED).glob("*-*")):
            what, _, name = file.name.partition("-")
            if what == "cancel":
                self._tell(Cancel(self.journal.now_s, name))
            elif what == "readmit" and name.isdecimal():
                self._tell(DeviceBack(self.journal.now_s, int(name)))
            file.unlink(missing_ok=True)  # only now: a driver that dies in between hears it again

    def _stop(self) -> dict[str, Decision]:
        """Ask all workers to save and to end. Raises Stopped."""
        for job in list(self.workers.living):
            self.workers.end(job, self.journal.now_s, SAVE_S)
        while self.workers.living:
            self._hear_devices()  # of a node it comes who has ended
            for event in self.workers.look(self.journal.now_s):
                self._tell(event)
            time.sleep(LOOK_S)
        raise Stopped("jobs.stopped", "stopped; each job has kept its last checkpoint",
                      hint="the same command goes on")  # fmt: skip


# ------------------------------------------------------------------ what is decided


def _nothing(driver: Driver, decision: Decision) -> None:
    """A word for the user alone, or what one machine has no part in (lend, reclaim)."""


def _start(driver: Driver, decision: Decision) -> None:
    driver.workers.start(decision)


def _end(driver: Driver, decision: Decision) -> None:
    driver.workers.end(decision.job, driver.journal.now_s, 0.0 if decision.lost else decision.deadline_s)


def _resize(driver: Driver, decision: Decision) -> None:
    driver.workers.resize(decision, driver.journal.now_s, driver.journal.fleet.policy.notice_s)


def _stop(driver: Driver, decision: Decision) -> None:
    driver.workers.end(decision.job, driver.journal.now_s, SAVE_S)


def _wake(driver: Driver, decision: Decision) -> None:
    driver.workers.wake(decision.job)


def _probe(driver: Driver, decision: Decision) -> None:
    """A suspect at once, one that is isolated a little later: what was wrong may pass."""
    for device in decision.devices:
        isolated = device in driver.journal.fleet.down
        if device in {row[1] for row in driver.probes} | {row[0].device for row in driver.probing}:
            continue
        driver.probes.append((driver.journal.now_s + (AGAIN_S if isolated else 0.0), device, 0.0))


def _repair(driver: Driver, decision: Decision) -> None:
    for device in decision.devices:
        driver._probe_later(device, AGAIN_S)


ACTS: dict[str, Callable[[Driver, Decision], Any]] = {
    "start": _start,
    "resize": _resize,
    "preempt": _end,
    "finish": _stop,
    "stop": _stop,
    "wake": _wake,
    "probe": _probe,
    "repair": _repair,
}


def _submitted(job: JobSpec, now_s: float) -> Submit:
    least, size, most = job.sizes
    deadline_s = None if job.deadline_s is None else round(now_s + job.deadline_s, 3)
    return Submit(now_s, job.name, size, least, most, job.filler, job.team, job.priority, deadline_s)


def run_jobs(
    spec: JobsFile, folder: Path, watch: Watch, services: Services | None = None, ray: str | None = None
) -> dict[str, Decision]:
    """Drive the jobs of a file to their ends, as the core decides; how each ended. `services`: those of this
    machine, whose devices the file may lend. `ray`: the head of the cluster whose nodes the file names.

    Raises Lacking on another system than Linux, or where the cluster, its nodes or a folder of all of them
    are not there; Refused while another driver has them or where a budget is spent; Stopped; CheckFailed or
    WrongUse where the journal in `folder` is damaged, or of another fleet.
    """
    if sys.platform != "linux":
        hint = "run each recipe with `steelyard up`"
        why = "what holds a worker asks its kernel"
        raise Lacking("jobs.linux", "jobs are driven on Linux alone", why=why, hint=hint)
    _check_place(spec, ray)
    with lease(folder) as held, place_of(spec, folder, watch, ray, held.epoch) as place:
        count, nodes = len(spec.devices), spec.nodes
        journal = Journal(folder / JOURNAL, count, spec.policy, held.epoch, spec.serving.devices, nodes, held)
        listening = Listening(services) if services and spec.serving.devices else None
        try:
            workers = Workers(spec, folder, held, place)
            return Driver(spec, folder, held, watch, journal, workers, listening).run()
        finally:
            journal.close()
            if listening:
                listening.end()


def place_of(
    spec: JobsFile, folder: Path, watch: Watch, ray: str | None, epoch: int
) -> AbstractContextManager[Place]:
    if ray is None:
        return nullcontext(Here(spec.devices, folder))
    from .far import on_ray

    return on_ray(spec, folder, ray, watch, epoch)


def _check_place(spec: JobsFile, ray: str | None) -> None:
    """Raises WrongUse where file and flag say otherwise."""

    def wrong(message: str, field: str, hint: str) -> WrongUse:
        return WrongUse("jobs.file", message, where=Where(str(spec.file), field=field), hint=hint)

    if ray is None and spec.nodes:
        raise wrong("its devices are of the nodes of a cluster", "devices", "--ray ADDRESS of its head")
    if ray is not None and not spec.nodes:
        hint = "devices: [{on: 10.0.0.2}, {on: 10.0.0.3}]"
        raise wrong("no device says which node it is of", "devices", hint)
    if ray is not None and spec.serving.devices:
        raise wrong("devices of serving's are of this machine", "serving", "without --ray")


def ask(folder: Path, what: str, name: str) -> None:
    """Leave a word for the driver: `cancel` a job, `readmit` a device."""
    with suppress(FileExistsError):
        (folder / ASKED).mkdir(parents=True)
    (folder / ASKED / f"{what}-{name}").touch()
