"""The peak memory of a step, how long it took, and the share of the cores that it had."""

from __future__ import annotations

import os
import threading
import time

from ...hardware import cores_had, cpu_times
from ...processes import family, is_in_memory_of, proportional_bytes, resident_bytes

SAMPLE_S = 0.1
STEADY_SAMPLE_S = 1.0
SHORT_SAMPLE_S, SHORT_S = 0.02, 5.0  # the peak of a short step lasts some hundredths of a second
# Shares of pages are counted by a walk over them all, milliseconds of a core for each gigabyte, and it holds
# up the process looked at: so only when more is resident than ever, and else a fiftieth of the time.
GROWN, SPARED = 1.01, 50


class PeakMemory:
    """Samples the memory of this process and its family while the block runs, and takes its time.

    `steady` is for a service under a timed load: reading a large process's pages stalls it for milliseconds.
    """

    def __init__(self, steady: bool = False) -> None:
        self.steady = steady
        self.bytes = 0
        self.share = 1.0  # of the cores, what others left
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self.started = time.monotonic()
        self._before = cpu_times()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s = time.monotonic() - self.started
        self.share = cores_had(self._before, cpu_times())
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        most, walk_at = 0.0, 0.0
        while True:
            own, now = os.getpid(), time.monotonic()
            # A child that is being started still is in our memory, which would count twice.
            pids = [pid for pid in family([own]) if pid == own or not is_in_memory_of(pid, own)]
            resident = sum(resident_bytes(pid) for pid in pids)
            if resident > GROWN * most or now >= walk_at:
                self.bytes = max(self.bytes, sum(proportional_bytes(pid) for pid in pids))
                most = max(most, resident)
                walk_at = now + SPARED * (time.monotonic() - now)
            short = time.monotonic() - self.started < SHORT_S
            pause_s = STEADY_SAMPLE_S if self.steady else SHORT_SAMPLE_S if short else SAMPLE_S
            if self._over.wait(pause_s):
                return
