"""The one function that decides. No disk, no clock, no chance, no network: time comes in the event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .fleet import Fleet
from .healing import REPAIR
from .job import Job
from .mending import failed, probed, readmit, stalled, suspect
from .messages import (
    Cancel,
    ClockJumped,
    Decision,
    DeviceBack,
    DeviceLost,
    Due,
    Event,
    Exited,
    Load,
    Outlook,
    ProbeResult,
    Signal,
    Stalled,
    Submit,
    Terms,
    Tick,
)
from .sharing import admit, agree, count, enforce, foresee, move_deadline
from .tide import turn


def step(state: Fleet, event: Event) -> tuple[Fleet, list[Decision]]:
    """The state after an event, and what is to be done. `state` itself stays as it was."""
    after = state.copy()
    return after, advance(after, event)


def advance(fleet: Fleet, event: Event) -> list[Decision]:
    """`step` for a caller who drops the old state at once: `fleet` is changed in place.

    Raises ValueError where time goes back.
    """
    if event.t_s < fleet.now_s:
        raise ValueError(f"time goes back: {event.t_s} after {fleet.now_s}")
    fleet.now_s = event.t_s
    fleet.decisions = []
    if fleet.policy.shares:
        count(fleet)
    rested = fleet.wake()
    HANDLERS[type(event)](fleet, event)
    ended = fleet.policy.shares and enforce(fleet)
    if ended or rested or type(event) in MAKES_ROOM:
        admit(fleet)
        if fleet.policy.shares:
            enforce(fleet)
    return fleet.decisions


def _submit(fleet: Fleet, event: Submit) -> None:
    fleet.submitted += 1
    elastic = fleet.policy.elastic
    job = Job(
        event.job, fleet.submitted, event.t_s, event.gpus,
        event.least if elastic else event.gpus, event.most if elastic else event.gpus, event.filler,
        team=event.team, priority=event.priority, deadline_s=event.deadline_s,
    )  # fmt: skip
    fleet.jobs[job.id] = job
    fleet.enqueue(job)


def _exited(fleet: Fleet, event: Exited) -> None:
    job = fleet.jobs.get(event.job)
    if job is None:  # it was cancelled meanwhile
        return
    if event.code:
        return failed(fleet, job, event)
    fleet.leave(job)
    fleet.say("finish", job)


def _cancel(fleet: Fleet, event: Cancel) -> None:
    job = fleet.jobs.get(event.job)
    if job is None:
        return
    fleet.leave(job)
    fleet.say("stop", job, reason="cancelled")


def _lost(fleet: Fleet, event: DeviceLost) -> None:
    """Its job starts again from the last checkpoint, wherever there is room."""
    device = event.device
    if device in fleet.down:
        return
    fleet.failures += 1
    job = fleet.holder.get(device)
    if job is not None:
        fleet.preempt(job, "device lost", lost=True)
    fleet.remove(device)
    fleet.health.set(device, REPAIR)
    fleet.say("isolate", devices=(device,), reason="device lost")


def _clock_jumped(fleet: Fleet, event: ClockJumped) -> None:
    """No job is touched: times here are monotonic."""
    fleet.say("warn", reason=f"node: the clock jumped by {event.by_s:+.0f} s; set it slowly (NTP)")


HANDLERS: dict[type[Event], Callable[[Fleet, Any], None]] = {
    Event: lambda fleet, event: None,
    Submit: _submit,
    Load: lambda fleet, event: fleet.forecast.learn(event.need),
    Tick: lambda fleet, event: turn(fleet),
    Exited: _exited,
    Cancel: _cancel,
    Stalled: stalled,
    Terms: agree,
    Outlook: foresee,
    Due: move_deadline,
    ClockJumped: _clock_jumped,
    DeviceLost: _lost,
    DeviceBack: lambda fleet, event: readmit(fleet, event.device),
    Signal: suspect,
    ProbeResult: probed,
}
# A tick sees to it itself.
MAKES_ROOM = {Submit, Terms, Exited, Stalled, Cancel, DeviceLost, DeviceBack, Signal, ProbeResult}
