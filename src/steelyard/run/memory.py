"""The peak memory of a step, and how long it took."""

from __future__ import annotations

import os
import threading
import time

from ..processes import family, proportional_bytes

SAMPLE_S = 0.1
STEADY_SAMPLE_S = 1.0
SHORT_SAMPLE_S, SHORT_S = 0.02, 5.0  # the peak of a short step lasts some hundredths of a second


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
