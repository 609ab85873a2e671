"""Judge a file of events by itself, and measure it.

python bench/replay.py EVENTS.jsonl JOBS.csv LOAD.csv [--rigid]

It shares no code with the simulator and knows only the contract: who holds which devices when, the speed
k / g (above g (k / g) ** 0.9), `restart_s` without progress after a restart or a resize, `reclaim_s` until a
device that was called back serves. Each breach is a line; exit code 4 where there is one.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

NEAR_S = 1e-3  # of progress; of float sums over a week


class Replay:
    """The fleet as the events tell it."""

    def __init__(self, jobs: list[dict[str, str]], loads: list[int], rigid: bool) -> None:
        self.jobs = {row["job_id"]: row for row in jobs}
        self.loads, self.rigid = loads, rigid
        self.breaches: list[str] = []
        self.owner: dict[int, str] = {}
        self.held: dict[str, set[int]] = {}
        self.progress: dict[str, float] = dict.fromkeys(self.jobs, 0.0)
        self.busy: dict[str, float] = dict.fromkeys(self.jobs, 0.0)  # seconds in which it held devices
        self.speed: dict[str, float] = {}
        self.since: dict[str, float] = {}
        self.moves_at: dict[str, float] = {}
        self.began: set[str] = set()
        self.done: dict[str, float] = {}
        self.lent: set[int] = set()
        self.broken: set[int] = set()
        self.pending: dict[int, float] = {}
        self.device_s = self.lent_s = 0.0
        self.minute = self.short = 0
        self.time = 0.0

    def breach(self, what: str) -> None:
        self.breaches.append(f"t={self.time:.3f}: {what}")

    def begin(self, meta: dict[str, Any]) -> None:
        if meta.get("kind") != "meta" or meta["t"] != 0:
            self.breach("the first line is no meta of t 0")
        self.all, self.serving = meta["devices"], meta["serving"]
        self.restart, self.reclaim, self.save = meta["restart_s"], meta["reclaim_s"], meta["ckpt_s"]
        if self.restart < 20 or self.reclaim < 60 or self.save > 1_800:
            self.breach("restart_s, reclaim_s or ckpt_s are out of bounds")
        self.at_work = self.low = self.serving

    # ------------------------------------------------------------------ serving, by the minute

    def pass_to(self, t: float) -> None:
        """Minutes that are over before `t` are judged by the fewest that served at any time in them."""
        while (self.minute + 1) * 60 <= t:
            self.arrive((self.minute + 1) * 60, inclusive=False)
            self.close()
            self.minute += 1
            self.arrive(self.minute * 60, inclusive=True)
            self.low = self.at_work
        self.arrive(t, inclusive=True)

    def close(self) -> None:
        self.short += self.low < self.loads[self.minute % len(self.loads)]

    def arrive(self, t: float, inclusive: bool) -> None:
        for device, ready in list(self.pending.items()):
            if ready < t or (inclusive and ready == t):
                del self.pending[device]
                self.at_work += 1

    def fewer(self) -> None:
        self.at_work -= 1
        self.low = min(self.low, self.at_work)

    # ------------------------------------------------------------------ jobs

    def advance(self, job: str) -> None:
        if job not in self.since:
            return
        passed = self.time - self.since[job]
        self.busy[job] += passed
        self.device_s += passed * len(self.held[job])
        self.lent_s += passed * sum(device >= self.all - self.serving for device in self.held[job])
        self.progress[job] += max(0.0, self.time - max(self.since[job], self.moves_at[job])) * self.speed[job]
        self.since[job] = self.time

    def let_go(self, job: str) -> None:
        for device in self.held.pop(job, set()):
            self.owner.pop(device, None)

    def hold(self, job: str, devices: list[int], pause: float) -> None:
        row = self.jobs[job]
        asked = int(row["gpus"])
        least, most = (int(row.get(name) or asked) for name in ("min_gpus", "max_gpus"))
        if self.rigid:
            least = most = asked
        if not least <= len(devices) <= most or len(set(devices)) != len(devices):
            self.breach(f"{job} gets {len(devices)} devices, {least} to {most} are allowed")
        for device in devices:
            if device in self.owner:
                self.breach(f"device {device} is used by {self.owner[device]} and {job}")
            if device >= self.all - self.serving and device not in self.lent:
                self.breach(f"{job} uses device {device}, which serving has not lent")
            if device in self.broken:
                self.breach(f"{job} uses device {device}, which is broken")
            self.owner[device] = job
        self.held[job] = set(devices)
        share = len(devices) / asked
        self.speed[job] = share if share <= 1 else share**0.9
        self.since[job], self.moves_at[job] = self.time, self.time + pause

    # ------------------------------------------------------------------ events

    def apply(self, event: dict[str, Any]) -> None:
        if event["t"] < self.time:
            self.breach(f"time goes back to {event['t']}")
        self.pass_to(event["t"])
        self.time = event["t"]
        getattr(self, event["kind"])(event)

    def start(self, event: dict[str, Any]) -> None:
        job = event["job"]
        if job in self.held or job in self.done:
            self.breach(f"{job} is started while it runs or after its end")
        if self.time < float(self.jobs[job]["submit_s"]):
            self.breach(f"{job} is started before it is submitted")
        self.hold(job, event["devices"], self.restart if job in self.began else 0.0)
        self.began.add(job)

    def resize(self, event: dict[str, Any]) -> None:
        job = event["job"]
        if job not in self.held:
            self.breach(f"{job} is resized and does not run")
        self.advance(job)
        self.let_go(job)
        self.hold(job, event["devices"], self.restart)

    def preempt(self, event: dict[str, Any]) -> None:
        job, saved = event["job"], event["saved_s"]
        self.advance(job)
        lost = (self.progress[job] - saved) / self.speed[job]
        if lost < -NEAR_S:
            self.breach(f"{job} saves more than it has done")
        if lost > self.save + NEAR_S:
            self.breach(f"{job} loses {lost:.0f} s, more than a checkpoint's {self.save}")
        self.progress[job] = saved
        self.let_go(job)
        del self.since[job]

    def finish(self, event: dict[str, Any]) -> None:
        job = event["job"]
        self.advance(job)
        if abs(self.progress[job] - float(self.jobs[job]["duration_s"])) > NEAR_S:
            self.breach(f"{job} ends after {self.progress[job]} of {self.jobs[job]['duration_s']} s")
        self.let_go(job)
        self.done[job] = self.time
        del self.since[job]

    def lend(self, event: dict[str, Any]) -> None:
        for device in event["devices"]:
            if device < self.all - self.serving or device in self.lent or device in self.broken:
                self.breach(f"device {device} cannot be lent")
            self.lent.add(device)
            if self.pending.pop(device, None) is None:
                self.fewer()

    def reclaim_(self, event: dict[str, Any]) -> None:
        for device in event["devices"]:
            if device not in self.lent or device in self.owner:
                self.breach(f"device {device} is not lent, or still in use, when it is called back")
            self.lent.discard(device)
            self.pending[device] = self.time + self.reclaim

    def fail(self, event: dict[str, Any]) -> None:
        for device in event["devices"]:
            if device in self.owner:
                self.breach(f"device {device} fails under {self.owner[device]}, which keeps it")
            serves = device >= self.all - self.serving and device not in self.lent
            if serves and self.pending.pop(device, None) is None:
                self.fewer()
            self.lent.discard(device)
            self.broken.add(device)

    def repair(self, event: dict[str, Any]) -> None:
        for device in event["devices"]:
            self.broken.discard(device)
            self.at_work += device >= self.all - self.serving

    def figures(self) -> dict[str, float]:
        """The same figures as `simulate --json`, from what was replayed alone."""
        if self.time > self.minute * 60:
            self.close()
            self.minute += 1
        missing = len(self.jobs) - len(self.done)
        if missing:
            self.breach(f"{missing} jobs have no end")
        waits = [t - float(self.jobs[j]["submit_s"]) - self.busy[j] for j, t in self.done.items()]
        ends = [t - float(self.jobs[j]["submit_s"]) for j, t in self.done.items()]
        useful = sum(float(self.jobs[j]["duration_s"]) * int(self.jobs[j]["gpus"]) for j in self.done)
        needs = (self.loads[m % len(self.loads)] for m in range(self.minute))
        idle = sum((self.serving - need) * 60.0 for need in needs)
        return {
            "mean_queue_s": sum(waits) / max(1, len(waits)),
            "mean_jct_s": sum(ends) / max(1, len(ends)),
            "slo_violation_share": self.short / max(1, self.minute),
            "goodput": useful / self.device_s if self.device_s else 0.0,
            "idle_recovered_share": self.lent_s / idle if idle else 0.0,
            "jobs_done": len(self.done),
        }


def replay(events: Path, jobs: Path, load: Path, rigid: bool = False) -> tuple[dict[str, float], list[str]]:
    """(figures, breaches) of a file of events."""
    with jobs.open() as rows, load.open() as minutes:
        needs = [int(row["need"]) for row in csv.DictReader(minutes)]
        judge = Replay(list(csv.DictReader(rows)), needs, rigid)
    with events.open() as lines:
        judge.begin(json.loads(next(lines)))
        for line in lines:
            event = json.loads(line)
            if event["kind"] == "reclaim":
                event["kind"] = "reclaim_"  # `reclaim` is the time that it takes
            judge.apply(event)
    return judge.figures(), judge.breaches


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--rigid"]
    figures, breaches = replay(*map(Path, words), rigid="--rigid" in sys.argv)
    print(json.dumps({"figures": figures, "breaches": breaches[:20], "breached": len(breaches)}))
    sys.exit(4 if breaches else 0)
