"""A step gives way to the services of this machine: it stands still while one of them answers.

A service says over its control socket when its work begins and ends (serving/service/front.py). The step's
processes are stopped at once, and go on once all services have been calm for CALM_S: a low priority alone
leaves the answers half as fast, since caches and memory are shared too. Threads and their order stay as they
are, so what is computed is equal to the last bit.

`step` is the rule, pure; `Yielding` carries it out.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from ...artefact import Watch
from ...cluster import Following, Services
from .reporting import report

CALM_S = 0.05  # after the last answer, until the step goes on: the next request of a talk often comes sooner
AGAIN_S = 3.0  # looked at the time, where nothing happens
LONG_S = 10.0  # of standing still in one piece: worth a word

Decision = Literal["pause", "resume"]


@dataclass(frozen=True, slots=True)
class Tide:
    """Which services are at work, since when none is, and whether the step stands still. Times in seconds."""

    busy: frozenset[str] = frozenset()
    calm_since: float = float("-inf")
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """At `at` the service says that it has work, or has none; without a service only time has passed."""

    at: float
    service: str = ""
    busy: bool = False


def step(tide: Tide, event: Event) -> tuple[Tide, Decision | None]:
    """What is so after the event, and what is to be done."""
    busy = tide.busy
    if event.service:
        busy = busy | {event.service} if event.busy else busy - {event.service}
    calm_since = event.at if tide.busy and not busy else tide.calm_since
    after = replace(tide, busy=busy, calm_since=calm_since)
    if busy and not tide.paused:
        return replace(after, paused=True), "pause"
    if tide.paused and not busy and event.at - calm_since >= CALM_S:
        return replace(after, paused=False), "resume"
    return after, None


class Yielding:
    """Stops and continues the processes of a group as the services of this machine have work.

    End it (`end`) before the group's leader is waited for: its number could belong to another one after that.
    """

    def __init__(self, group: int, services: Services, watch: Watch) -> None:
        self.group, self.watch = group, watch
        self.tide = Tide()
        self.paused_s, self.pauses = 0.0, 0
        self.paused_at: float | None = None
        self.said = False
        self.following = Following("yielding", services, self._told)

    @property
    def stands_still(self) -> bool:
        return self.paused_at is not None

    def tell(self, now: float) -> None:
        """Say once that the step waits, where it does so for long."""
        if not self.said and self.paused_at is not None and now - self.paused_at > LONG_S:
            self.said = True
            self.watch.log("step.waits", services=len(self.tide.busy))

    def end(self) -> None:
        """Let the step go on, whatever the services do."""
        if not self.following.end():
            return
        self._carry_out("resume")
        if self.pauses:
            self.watch.log("step.yielded", times=self.pauses, paused_s=round(self.paused_s, 1))

    def _told(self, service: str, busy: bool) -> float:
        self._happened(Event(time.monotonic(), service, busy))
        return CALM_S if self.tide.paused and not self.tide.busy else AGAIN_S

    def _happened(self, event: Event) -> None:
        self.tide, decision = step(self.tide, event)
        if decision:
            self._carry_out(decision)

    def _carry_out(self, decision: Decision) -> None:
        now = time.monotonic()
        if decision == "pause":
            self.paused_at, self.pauses = now, self.pauses + 1
        elif self.paused_at is not None:
            self.paused_s += now - self.paused_at
            self.paused_at = None
        if decision == "pause":
            report(paused=True)
        with suppress(ProcessLookupError):
            os.killpg(self.group, signal.SIGSTOP if decision == "pause" else signal.SIGCONT)
        if decision == "resume":
            report(paused=False)
