"""What a worker says of itself, and what follows from its silence or its pace. Pure but for the reading
and the clock.

Lines of its report, JSON: {"mono": monotonic seconds, ...} with one of
    {"step": n}         done so far, in whatever it counts; it grows within an attempt; with "of": of so many
    {"saved": n}        a checkpoint of step n is on disk
    {"damaged": file}   a checkpoint was not as it had been written, and was set aside
    {"long": true}      what comes next (a save, a look) has no pace
    {"paused": true}    it stands still on purpose; {"paused": false}: no more
"""

from __future__ import annotations

import json
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

SILENT_S, STEPS = 60.0, 5.0  # as long, and as many median steps
STOPPED_S = 1.0  # held by a signal for so long: to be let go on costs nothing
START_S = 1_800.0  # to the first step
TIMES, SPREADS = 1.3, 4.0  # a slow sample: so many times the median before, and so many spreads above it
# (last samples, slow ones among them) that make a device suspect. A suspicion costs a probe; after each the
# next one needs more. The last one counts where other jobs are slow too: that is rather a busy machine.
EVIDENCE = ((6, 5), (12, 9), (24, 17), (30, 20))
FAR, FAR_TIMES = (3, 3), 3.0  # before the first of them: so few where each took so many times the median
FEW = 10  # samples that say how long the rest will take
ENOUGH = 30  # samples before those


@dataclass(slots=True)
class Heard:
    """Of one attempt. `at_s`: when the last line was written."""

    since_s: float
    at_s: float
    step: int = -1
    saved: int = -1
    of: float = 0.0  # steps in all, where it says so
    damaged: list[str] = field(default_factory=list)
    at_length: bool = False
    paused: bool = False
    waits: deque[float] = field(default_factory=lambda: deque(maxlen=101))
    paces: deque[float] = field(default_factory=lambda: deque(maxlen=400))
    offset: int = 0
    suspicions: int = 0  # of its device, for its pace
    ahead_s: float | None = (
        0.0  # our clock before that of its machine; None: nobody knows, now is when it is read
    )
    fresh: bool = False  # the last sample stands before a pause or a save: the next one tells nothing

    def hear(self, line: dict[str, Any]) -> None:
        at_s = max(self._when(line), self.at_s)
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
            self.step, self.fresh, self.of = int(line["step"]), False, float(line.get("of") or self.of)
        else:
            self.fresh = True

    def _when(self, line: dict[str, Any]) -> float:
        if "mono" not in line:
            return self.at_s
        return time.monotonic() if self.ahead_s is None else float(line["mono"]) + self.ahead_s

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

    @property
    def is_done(self) -> bool:
        """It has said how many steps there are, and has done them."""
        return 0 < self.of <= self.step

    @property
    def left_s(self) -> float | None:
        """Seconds to its end at its median pace; None where nobody knows."""
        if not self.of or len(self.paces) < FEW:
            return None
        return max(0.0, self.of - self.step) * median(self.paces)

    def silent(self, now_s: float) -> bool:
        """It says nothing for far longer than it should take."""
        if self.paused or self.at_length:
            return False
        if not self.waits:
            return now_s - self.since_s > START_S
        return now_s - self.at_s > max(SILENT_S, STEPS * median(self.waits))

    def missed_s(self, now_s: float) -> float:
        """For how long it is overdue with a word; infinite where it would say nothing anyway."""
        if self.paused or self.at_length:
            return inf
        return now_s - self.at_s - 2 * (median(self.waits) if self.waits else 0.0)

    def slow(self, alone: bool = True) -> bool:
        """Its last steps took longer than those before them; asked once, then they are forgotten. `alone`:
        the other jobs go on as ever."""
        last, of = EVIDENCE[min(self.suspicions, len(EVIDENCE) - 1) if alone else -1]
        if alone and not self.suspicions and self._slow_in(*FAR, FAR_TIMES):
            last = FAR[0]
        elif not self._slow_in(last, of):
            return False
        self.suspicions += 1
        for _ in range(last):
            self.paces.pop()
        return True

    def slow_lately(self) -> bool:
        """The least evidence, for a job beside another one that is slow."""
        return self._slow_in(*EVIDENCE[0])

    def _slow_in(self, last: int, of: int, times: float = TIMES) -> bool:
        paces = list(self.paces)
        if len(paces) < last + ENOUGH:
            return False
        before = paces[:-last]
        usual = median(before)
        spread = 1.4826 * median(abs(pace - usual) for pace in before)  # of a normal one: its sigma
        bound = max(times * usual, usual + SPREADS * spread)
        return sum(pace > bound for pace in paces[-last:]) >= of
