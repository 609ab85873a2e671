"""A step that resumes is started again where its process got no memory, or stood still.

It goes on from its own checkpoint. What to do otherwise is the step's affair: it reads what ended the attempt
before it (ended.json in its scratch). A step stands still when nothing has come from it for five times its
median step, as many times more as its longest step is longer, and a minute at least; its stacks are asked
for first.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from ...artefact import ENDED, Scratch, Watch
from ...errors import Lacking, Resumable
from ...units import show_s
from .reporting import AT_LENGTH, is_driven

LEAST_S, STEPS = 60.0, 5.0  # of silence: at least this long, and this many median steps
STACKS_S = 1.0  # to write the stacks
MOST_HANGS = 3


class KilledForMemory(Lacking):
    """The system ended the process and its own words do not say why: for its memory, by all that is seen."""


class Hung(Exception):
    """It stood still, and was ended."""

    def __init__(self, silent_s: float) -> None:
        super().__init__(show_s(silent_s))
        self.silent_s = silent_s


@dataclass(slots=True)
class Patience:
    """What a process has said, and when. Time counts only while this process runs too: a machine that slept
    is no hang."""

    at_work: bool = False  # its bar is open
    at_length: bool = False
    longest: float = 1.0  # its longest step, in median steps
    waits: deque[float] = field(default_factory=lambda: deque(maxlen=101))
    silent_s: float = 0.0
    ticked: float = 0.0

    def hear(self, message: dict[str, Any]) -> None:
        self.at_length = message.get("log") in AT_LENGTH
        self.longest = message.get("fields", {}).get("longest_step", self.longest)
        if message.get("progress") == "train":
            if message["done"] and not message["closed"]:
                self.waits.append(self.silent_s)
            self.at_work = not message["closed"]
        self.silent_s = 0.0

    def tick(self, now: float) -> bool:
        """Whether it stands still."""
        self.silent_s += min(now - self.ticked, 1.0) if self.ticked else 0.0
        self.ticked = now
        return self.at_work and not self.at_length and bool(self.waits) and self.silent_s > self.limit_s

    @property
    def limit_s(self) -> float:
        if is_driven():  # the driver ends it
            return float("inf")
        return max(LEAST_S, STEPS * self.longest * median(self.waits))


def end_hung(child: subprocess.Popen[bytes], patience: Patience) -> None:
    """Ask all of its processes for their stacks, on their standard error; end them. Raises Hung."""
    silent_s = patience.silent_s
    with suppress(ProcessLookupError):
        for number in (signal.SIGUSR1, signal.SIGCONT):  # one that was stopped writes them too
            os.killpg(child.pid, number)
        time.sleep(STACKS_S)
        os.killpg(child.pid, signal.SIGKILL)
    raise Hung(silent_s)


def until_done(attempt: Callable[[Patience], Any], scratch: Scratch, watch: Watch) -> Any:
    """Attempt after attempt. Raises Lacking at the third that stood still, and what an attempt raises."""
    hangs = 0
    while True:
        patience = Patience()
        try:
            return attempt(patience)
        except Resumable:  # the step has noted what to do otherwise, and ends by itself where nothing helps
            if watch.stop:
                raise
        except KilledForMemory:
            if watch.stop or not patience.at_work:  # a smaller step helps nothing where none was under way
                raise
            watch.log("train.killed")
            scratch.write(ENDED, json.dumps({"by": "memory"}).encode())
        except Hung as hung:
            hangs += 1
            watch.log("train.hung", silent_s=round(hung.silent_s, 1), time=hangs, of=MOST_HANGS)
            if hangs >= MOST_HANGS:
                raise stands_still(hangs) from hung


def stands_still(hangs: int) -> Lacking:
    return Lacking(
        "step.hung",
        f"the training stood still {hangs} times",
        why="no step was done for five times what the longest should take, and a minute at least",
        hint="the stacks of its processes stand in the log under child.output: see `steelyard logs`; "
        "the last checkpoint is kept",
    )


def oom_kills() -> int | None:
    """How many processes this machine's kernel has ended for memory, those of cgroups too; None elsewhere."""
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/vmstat").read_text("ascii").splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("oom_kill ")))
    return None
