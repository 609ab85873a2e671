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

import psutil

PR_SET_PDEATHSIG = 1  # prctl(2)
SAMPLE_S = 0.1


def die_with(parent: int) -> None:
    """Let the kernel kill this process when `parent` ends; at once if it already has."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def family(pids: Iterable[int]) -> list[int]:
    """The processes named and all that descend from them."""
    found: dict[int, None] = {}
    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            found |= {p.pid: None for p in [process, *process.children(recursive=True)]}
    return list(found)


def proportional_bytes(pid: int) -> int:
    """PSS of one process: what it holds, shared pages counted once among their sharers."""
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


class PeakMemory:
    """Samples the memory of this process and its family (and of `extra` pids) while the block runs."""

    def __init__(self, extra: Iterable[int] = ()) -> None:
        self.extra = set(extra)
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
            pids = family([os.getpid(), *self.extra])
            self.bytes = max(self.bytes, sum(proportional_bytes(pid) for pid in pids))
            if self._over.wait(SAMPLE_S):
                return
