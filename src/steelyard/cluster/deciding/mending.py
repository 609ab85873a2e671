"""What is done about failures: devices are isolated, probed, readmitted; jobs start again or are stopped."""

from __future__ import annotations

from .fleet import Fleet
from .healing import HEALTHY, ISOLATED, LEMON, REPAIR, SUSPECT
from .job import Job
from .messages import Exited, ProbeResult, Signal, Stalled
from .signatures import ELSEWHERE, blame

SAME_FAILURES = 3  # at one step, with one signature: the job's own bug, or a bad sample
LONGEST_REST_S = 60.0
RAN_WELL = 8.0  # a job that ran so many times as long as it rested before is not failing in a row


def suspect(fleet: Fleet, event: Signal) -> None:
    """One source says that a device is not well."""
    health, device = fleet.health, event.device
    if device in fleet.down:
        return
    agreed = health.suspect(device, event.t_s, event.source)
    frozen = health.too_many(event.t_s, fleet.nodes, fleet.training + fleet.serving)
    if frozen and not health.frozen:
        fleet.say("warn", reason="too many suspects at once: the network, or us; nothing is isolated")
    health.frozen = frozen
    if agreed and not frozen:
        isolate(fleet, device, event.what)
    elif not agreed:
        fleet.say("probe", devices=(device,), reason=event.what)


def isolate(fleet: Fleet, device: int, why: str) -> None:
    """Drain a device: its job saves and goes on elsewhere; the device is probed, or never used again."""
    job = fleet.holder.get(device)
    if job is not None:
        fleet.preempt(job, "device isolated")
    fleet.remove(device)
    state = fleet.health.isolate(device, fleet.now_s)
    fleet.say("isolate", devices=(device,), reason=why)
    if state == LEMON:
        fleet.say("retire", devices=(device,), reason="isolated three times in 30 days")
    else:
        fleet.say("probe", devices=(device,), reason=why)


def probed(fleet: Fleet, event: ProbeResult) -> None:
    """A suspect that fails is isolated; one that is isolated comes back, or goes to be repaired."""
    state, device = fleet.health.of(event.device).state, event.device
    if state == SUSPECT and event.passed:
        fleet.health.set(device, HEALTHY)
    elif state == SUSPECT and not fleet.health.frozen:
        isolate(fleet, device, "probe failed")
    elif state == ISOLATED and event.passed:
        readmit(fleet, device)
    elif state == ISOLATED:
        fleet.health.set(device, REPAIR)
        fleet.say("repair", devices=(device,), reason="probe failed")


def readmit(fleet: Fleet, device: int) -> None:
    """The device works again (a probe, a repair, or a person says so)."""
    if device not in fleet.down:
        return
    del fleet.down[device]
    if fleet.is_training(device):
        fleet.free_training.insert(0, device)  # it is the last to be used again
    else:
        fleet.at_serving[device] = None
    fleet.health.set(device, HEALTHY)
    fleet.say("readmit", devices=(device,))


def failed(fleet: Fleet, job: Job, event: Exited) -> None:
    """A job's processes died: it rests and starts again, unless it dies at one place again and again."""
    if not job.size:  # it waits already: the message is late
        return
    why = blame(event.code, event.signature, event.ranks, max(1, job.size))
    place = (event.at_step, event.signature)
    if why.whose not in ELSEWHERE:
        job.repeats = job.repeats + 1 if place == job.place else 1
        job.place = place
    ran_well = fleet.now_s - job.stint_s >= RAN_WELL * job.rest_s
    job.failures = 1 if ran_well else job.failures + 1
    if why.whose not in ELSEWHERE and job.repeats >= SAME_FAILURES:
        fleet.leave(job)
        fleet.say("stop", job, reason=f"{SAME_FAILURES} times the same failure {place_of(event)}")
        return
    job.rest_s = min(LONGEST_REST_S, 2.0 ** (job.failures - 1))
    fleet.rest(job, job.rest_s, f"{why.whose}: {why.act}".rstrip(": "))
    if why.whose == "device" and event.device >= 0:
        suspect(fleet, Signal(event.t_s, event.device, "exit", why.act))


def place_of(event: Exited) -> str:
    return f"at step {event.at_step}" if event.at_step >= 0 else "before its first step"


def stalled(fleet: Fleet, event: Stalled) -> None:
    """Stopped by a signal: it is let go on, which loses nothing. Silent, or stopped again before its next
    step: it starts again."""
    job = fleet.jobs.get(event.job)
    if job is None or not job.size:
        return
    if event.stopped and job.woken != event.at_step:
        job.woken = event.at_step
        fleet.say("wake", job, job.devices, reason="node: stopped by a signal")
        return
    words = "heartbeat lost, stopped again" if event.stopped else "no step is done"
    failed(fleet, job, Exited(event.t_s, job.id, 1, words, event.at_step))
