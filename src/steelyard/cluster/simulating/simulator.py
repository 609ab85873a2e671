"""A fleet in simulated time: traces in, the core decides, the account comes out. No clock, no chance.

Speed of a job on k of g devices: k / g, above g (k / g) ** 0.9. A restart or a resize makes no progress for
`restart_s`. A job that is called back saves first; one whose device fails goes on from its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import Any

from ..deciding import (
    Decision,
    DeviceBack,
    DeviceLost,
    Event,
    Exited,
    Fleet,
    Load,
    Policy,
    Submit,
    Tick,
    advance,
)
from .account import EVERY_MINUTES, MINUTE_S, Account
from .events_file import Write
from .traces import Fault, TraceJob

RESTART_S = 20.0  # torch workers restart in 4 s, and 15 s are for the save
SCALING = 0.9
CHECKPOINT_S = 1_800.0  # the longest that the core leaves between two checkpoints
FINISH, BACK, FAULT = range(3)  # order of what happens at one time


@dataclass(slots=True, eq=False)
class Run:
    """A job's true course, which the core does not see. `progress_s` is in seconds on `gpus` devices."""

    job: TraceJob
    progress_s: float = 0.0
    speed: float = 0.0
    from_s: float = 0.0  # progress counts from here: the restart is over
    since_s: float = 0.0  # devices held as now since
    size: int = 0
    lent: int = 0
    held_s: float = 0.0
    every_s: float = CHECKPOINT_S
    started: bool = False
    stamp: int = 0


@dataclass(slots=True)
class Simulator:
    """One run over a trace. `loads` repeats; `faults` come in order of time."""

    fleet: Fleet
    loads: Sequence[int]
    faults: Iterator[Fault]
    restart_s: float = RESTART_S
    write: Write = None
    account: Account = field(default_factory=Account)
    now_s: float = 0.0
    runs: dict[str, Run] = field(default_factory=dict)
    heap: list[tuple[float, int, int, Any]] = field(default_factory=list)
    count: int = 0
    ready: int = 0
    least_ready: int = 0
    coming: dict[int, float] = field(default_factory=dict)  # device called back: when it serves

    def run(self, jobs: Sequence[TraceJob]) -> Account:
        """All jobs to their end."""
        self.ready = self.least_ready = self.fleet.serving
        self._meta()
        self._next_fault()
        following, tick, minute = 0, 0.0, 0
        while following < len(jobs) or self.runs:
            submit_s = jobs[following].submit_s if following < len(jobs) else float("inf")
            heap_s = self.heap[0][0] if self.heap else float("inf")
            if heap_s <= tick and heap_s <= submit_s:
                self._happen(*heappop(self.heap))
            elif tick <= submit_s:
                self._minute(tick, minute)
                minute += 1
                tick = minute * MINUTE_S
            else:
                self._submit(jobs[following])
                following += 1
        if self.now_s > (minute - 1) * MINUTE_S:
            self._close_minute(minute)
        return self.account

    def _meta(self) -> None:
        if self.write:
            self.write({
                "t": 0, "kind": "meta", "devices": self.fleet.training + self.fleet.serving,
                "serving": self.fleet.serving, "restart_s": self.restart_s,
                "reclaim_s": self.fleet.policy.reclaim_s, "ckpt_s": CHECKPOINT_S,
                "policy": self.fleet.policy.name,
            })  # fmt: skip

    # ------------------------------------------------------------------ what happens

    def _minute(self, t_s: float, minute: int) -> None:
        self.now_s = t_s
        if minute:
            self._close_minute(minute)
            self._tell(Load(t_s, self.loads[(minute - 1) % len(self.loads)]))
        for device in [device for device, ready_s in self.coming.items() if ready_s <= t_s]:
            del self.coming[device]
            self.ready += 1
        self._tell(Tick(t_s))
        self.least_ready = self.ready
        if minute % EVERY_MINUTES == 0:
            self._point(minute)

    def _close_minute(self, minute: int) -> None:
        need = self.loads[(minute - 1) % len(self.loads)]
        self.account.minute(need, self.least_ready, self.fleet.serving)

    def _point(self, minute: int) -> None:
        fleet = self.fleet
        lent = fleet.lent - len(fleet.free_lent)
        own = len(fleet.holder) - lent
        need = self.loads[minute % len(self.loads)]
        self.account.series.append((self.now_s, need, own, lent, fleet.queued))

    def _submit(self, job: TraceJob) -> None:
        self.now_s = job.submit_s
        self.runs[job.id] = Run(job)
        self._tell(Submit(job.submit_s, job.id, job.gpus, job.least, job.most, job.filler))

    def _happen(self, t_s: float, kind: int, _: int, what: Any) -> None:
        if kind == FINISH:
            name, stamp = what
            run = self.runs.get(name)
            if run is None or run.stamp != stamp:
                return
            self.now_s = t_s
            self._tell(Exited(t_s, name))
        elif kind == FAULT:
            self.now_s = t_s
            fault: Fault = what
            if fault.device not in self.fleet.down:
                self._push(t_s + fault.down_s, BACK, fault.device)
                self._tell(DeviceLost(t_s, fault.device))
            self._next_fault()
        else:
            self.now_s = t_s
            self._tell(DeviceBack(t_s, what))

    def _next_fault(self) -> None:
        fault = next(self.faults, None)
        if fault is not None:
            self._push(fault.t_s, FAULT, fault)

    def _push(self, t_s: float, kind: int, what: Any) -> None:
        self.count += 1
        heappush(self.heap, (t_s, kind, self.count, what))

    def _tell(self, event: Event) -> None:
        for decision in advance(self.fleet, event):
            self.account.events += 1
            getattr(self, f"_{decision.kind}")(decision)

    def _note(self, kind: str, job: str | None, devices: Sequence[int], **more: float) -> None:
        if self.write:
            named = {} if job is None else {"job": job}
            self.write({"t": self.now_s, "kind": kind, **named, "devices": devices, **more})

    # ------------------------------------------------------------------ what is decided

    def _account(self, run: Run) -> None:
        """Progress and device time until now."""
        now = self.now_s
        passed = now - run.since_s
        run.held_s += passed
        self.account.busy_s += passed * run.size
        self.account.lent_busy_s += passed * run.lent
        if now > run.from_s:
            run.progress_s += (now - run.from_s) * run.speed
            run.from_s = now
        run.since_s = now

    def _go_on(self, run: Run, decision: Decision, pause_s: float) -> None:
        """Hold these devices from now; no progress for `pause_s`."""
        job, size = run.job, len(decision.devices)
        training = self.fleet.training
        run.size = size
        run.lent = sum(device >= training for device in decision.devices)
        run.speed = size / job.gpus if size <= job.gpus else (size / job.gpus) ** SCALING
        run.since_s, run.every_s = self.now_s, decision.every_s
        run.from_s = self.now_s + pause_s
        run.stamp += 1
        left_s = max(0.0, job.duration_s - run.progress_s)
        self._push(run.from_s + left_s / run.speed, FINISH, (job.id, run.stamp))

    def _start(self, decision: Decision) -> None:
        run = self.runs[decision.job]
        self._go_on(run, decision, self.restart_s if run.started else 0.0)
        run.started = True
        self._note("start", decision.job, decision.devices)

    def _resize(self, decision: Decision) -> None:
        run = self.runs[decision.job]
        self._account(run)
        self._go_on(run, decision, self.restart_s)
        self.account.resizes += 1
        self._note("resize", decision.job, decision.devices)

    def _preempt(self, decision: Decision) -> None:
        run = self.runs[decision.job]
        before_s, from_s = run.progress_s, run.from_s
        self._account(run)
        if decision.lost and self.now_s > from_s:
            saves = (self.now_s - from_s) // run.every_s
            run.progress_s = before_s + saves * run.every_s * run.speed
        run.stamp += 1
        run.size = run.lent = 0
        self.account.preemptions += 1
        self._note("preempt", decision.job, (), saved_s=run.progress_s)

    def _finish(self, decision: Decision) -> None:
        run = self.runs.pop(decision.job)
        self._account(run)
        job = run.job
        self.account.done(job.submit_s, self.now_s, run.held_s, job.duration_s * job.gpus)
        self._note("finish", decision.job, ())

    def _lend(self, decision: Decision) -> None:
        for device in decision.devices:
            if self.coming.pop(device, None) is None:
                self.ready -= 1
        self._note("lend", None, decision.devices)

    def _reclaim(self, decision: Decision) -> None:
        ready_s = self.now_s + self.fleet.policy.reclaim_s
        self.coming.update(dict.fromkeys(decision.devices, ready_s))
        self._note("reclaim", None, decision.devices)

    def _isolate(self, decision: Decision) -> None:
        """A device is out: one that served is missing there at once."""
        self.account.failures += 1
        self._note("fail", None, decision.devices)
        self._recount()

    def _readmit(self, decision: Decision) -> None:
        self._note("repair", None, decision.devices)
        self._recount()

    def _recount(self) -> None:
        for device in [device for device in self.coming if device not in self.fleet.at_serving]:
            del self.coming[device]
        self.ready = len(self.fleet.at_serving) - len(self.coming)
        self.least_ready = min(self.least_ready, self.ready)


def simulate(
    jobs: Sequence[TraceJob],
    loads: Sequence[int],
    devices: int,
    serving: int,
    policy: Policy,
    *,
    faults: Iterator[Fault],
    restart_s: float = RESTART_S,
    rigid: bool = False,
    write: Write = None,
) -> Account:
    """The account of `jobs` on `devices`, `serving` of them serving's. `rigid`: no job changes its size."""
    if rigid:
        jobs = [replace(job, least=job.gpus, most=job.gpus) for job in jobs]
    fleet = Fleet(devices - serving, serving, policy)
    return Simulator(fleet, loads, faults, restart_s, write).run(jobs)
