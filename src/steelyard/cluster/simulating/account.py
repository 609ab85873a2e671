"""What a simulated fleet did, added up while it runs: waits, device time, minutes that were short."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MINUTE_S = 60.0
EVERY_MINUTES = 10  # a point of the chart


@dataclass(slots=True)
class Account:
    """Device seconds, sums over jobs, minutes."""

    busy_s: float = 0.0
    lent_busy_s: float = 0.0
    useful_s: float = 0.0
    idle_s: float = 0.0  # that serving did not need
    queues_s: list[float] = field(default_factory=list)
    jcts_s: list[float] = field(default_factory=list)
    minutes: int = 0
    short: int = 0
    resizes: int = 0
    preemptions: int = 0
    failures: int = 0
    events: int = 0
    end_s: float = 0.0
    series: list[tuple[float, int, int, int, int]] = field(default_factory=list)

    def minute(self, need: int, ready: int, serving: int) -> None:
        """A minute ended: `ready` devices served all of it."""
        self.minutes += 1
        self.short += ready < need
        self.idle_s += max(0, serving - need) * MINUTE_S

    def done(self, submit_s: float, t_s: float, held_s: float, work_s: float) -> None:
        self.queues_s.append(max(0.0, t_s - submit_s - held_s))
        self.jcts_s.append(t_s - submit_s)
        self.useful_s += work_s
        self.end_s = t_s

    def document(self) -> dict[str, Any]:
        """The figures of `simulate --json`."""
        jobs = len(self.jcts_s)
        return {
            "mean_queue_s": sum(self.queues_s) / max(1, jobs),
            "mean_jct_s": sum(self.jcts_s) / max(1, jobs),
            "p99_queue_s": sorted(self.queues_s)[int(0.99 * (jobs - 1))] if jobs else 0.0,
            "slo_violation_share": self.short / max(1, self.minutes),
            "goodput": self.useful_s / self.busy_s if self.busy_s else 0.0,
            "idle_recovered_share": self.lent_busy_s / self.idle_s if self.idle_s else 0.0,
            "jobs_done": jobs,
            "resizes": self.resizes,
            "preemptions": self.preemptions,
            "failures": self.failures,
            "makespan_s": self.end_s,
        }
