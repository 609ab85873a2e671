"""What a worker says of itself, and what follows from its silence or its pace. Pure but for the reading.

Lines of its report, JSON: {"mono": monotonic seconds, ...} with one of
    {"step": n}         done so far, in whatever it counts; it grows within an attempt
    {"saved": n}        a checkpoint of step n is on disk
    {"damaged": file}   a checkpoint was not as it had been written, and was set aside
    {"long": true}      what comes next (a save, a look) has no pace
    {"paused": true}    it stands still on purpose; {"paused": false}: no more
"""

from __future__ import annotations

import json
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

SILENT_S, STEPS = 60.0, 5.0  # as long, and as many median steps
STOPPED_S = 10.0  # stopped by a signal for so long
START_S = 1_800.0  # to the first step
SLOW, OF, TIMES = 30, 20, 1.3  # in 20 of the last 30 samples 1.3 times the median before them
ENOUGH = 30  # samples before those


@dataclass(slots=True)
class Heard:
    """Of one attempt. `at_s`: when the last line was written."""

    since_s: float
    at_s: float
    step: int = -1
    saved: int = -1
    damaged: list[str] = field(default_factory=list)
    at_length: bool = False
    paused: bool = False
    waits: deque[float] = field(default_factory=lambda: deque(maxlen=101))
    paces: deque[float] = field(default_factory=lambda: deque(maxlen=400))
    offset: int = 0
    fresh: bool = False  # the last sample stands before a pause or a save: the next one tells nothing

    def hear(self, line: dict[str, Any]) -> None:
        at_s = max(float(line.get("mono", self.at_s)), self.at_s)
        wait_s, self.at_s = at_s - self.at_s, at_s
        self.saved = int(line.get("saved", self.saved))
        self.at_length = bool(line.get("long"))
        if "damaged" in line:
            self.damaged.append(str(line["damaged"]))
        if "paused" in line:
            self.paused = bool(line["paused"])
        if "step" in line:
            steps = int(line["step"]) - self.step
            if self.step >= 0 and steps > 0 and not self.fresh:
                self.waits.append(wait_s)
                self.paces.append(wait_s / steps)
            self.step, self.fresh = int(line["step"]), False
        else:
            self.fresh = True

    def read(self, report: Path) -> None:
        """The whole lines that are new."""
        with suppress(OSError), report.open("rb") as file:
            file.seek(self.offset)
            data = file.read()
            whole = data.rfind(b"\n") + 1
            self.offset += whole
            for line in data[:whole].splitlines():
                with suppress(ValueError, TypeError, AttributeError):
                    self.hear(json.loads(line))

    @property
    def place(self) -> int:
        """How far it has come, for good: its last checkpoint, or its step where it has told of none."""
        return self.saved if self.saved >= 0 else self.step

    def silent(self, now_s: float) -> bool:
        """It says nothing for far longer than it should take."""
        if self.paused or self.at_length:
            return False
        if not self.waits:
            return now_s - self.since_s > START_S
        return now_s - self.at_s > max(SILENT_S, STEPS * median(self.waits))

    def slow(self) -> bool:
        """Its last steps took longer than those before them; asked once, then both are forgotten."""
        paces = list(self.paces)
        if len(paces) < SLOW + ENOUGH:
            return False
        usual = median(paces[:-SLOW])
        found = sum(pace > TIMES * usual for pace in paces[-SLOW:]) >= OF
        if found:
            for _ in range(SLOW):
                self.paces.pop()
        return found
