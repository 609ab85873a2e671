"""Children that die with their parent, and how much memory a family of processes holds."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1  # prctl(2)
SAMPLE_S = 0.1
STEADY_SAMPLE_S = 1.0
SHORT_SAMPLE_S, SHORT_S = 0.02, 5.0  # the peak of a short step lasts some hundredths of a second


def die_with(parent: int) -> None:
    """Let the kernel kill this process when `parent` ends; at once if it already has."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def family(pids: Iterable[int]) -> list[int]:
    """The processes named and all that descend from them."""
    found: dict[int, None] = {}
    left = list(pids)
    while left:
        pid = left.pop()
        found[pid] = None
        left += [child for child in children(pid) if child not in found]
    return list(found)


def children(pid: int) -> list[int]:
    """Direct children of all threads; the kernel's own list, since walking /proc costs milliseconds."""
    with suppress(OSError):
        lists = [t / "children" for t in Path(f"/proc/{pid}/task").iterdir()]
        return [int(child) for file in lists for child in file.read_text().split()]
    return []


def proportional_bytes(pid: int) -> int:
    """PSS of one process: what it holds, shared pages counted once among their sharers."""
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


class PeakMemory:
    """Samples the memory of this process and its family while the block runs, and takes its time.

    `steady` is for a service under a timed load: reading a large process's pages stalls it for milliseconds.
    """

    def __init__(self, steady: bool = False) -> None:
        self.steady = steady
        self.bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self.started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s = time.monotonic() - self.started
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, sum(proportional_bytes(pid) for pid in family([os.getpid()])))
            short = time.monotonic() - self.started < SHORT_S
            pause_s = STEADY_SAMPLE_S if self.steady else SHORT_SAMPLE_S if short else SAMPLE_S
            if self._over.wait(pause_s):
                return
