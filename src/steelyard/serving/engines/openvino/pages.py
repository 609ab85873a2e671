"""Pages of a weights' file are handed back while the file loads.

OpenVINO maps the file and copies each matrix into a layout of its own; the pages that it has read would stay
in the memory of the process, as many bytes again as the weights. They lie in the cache of the system: what
is read once more (rows of the embedding) comes from there. Linux alone; elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

EVERY_S = 0.01  # some 20 MB of pages: a core reads and copies 1 to 2 GB/s
MADV_DONTNEED = 4
MAPS = Path("/proc/self/maps")


@contextmanager
def handed_back(file: Path) -> Iterator[None]:
    """Within, and once at the end. What loads must let other threads run, as the library does."""
    if not sys.platform.startswith("linux"):
        yield
        return
    ended = Event()
    thread = Thread(target=_keep_on, args=(str(file.resolve()), ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _keep_on(file: str, ended: Event) -> None:
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    while True:
        last = ended.wait(EVERY_S)
        for start, end in _mapped(file):
            madvise(start, end - start, MADV_DONTNEED)
        if last:
            return


def _mapped(file: str) -> Iterator[tuple[int, int]]:
    """Places of the file that nobody writes to: a written page would be lost."""
    for line in MAPS.read_text().splitlines():
        place, rights, *rest = line.split(maxsplit=5)
        if len(rest) == 4 and rest[3] == file and "w" not in rights:
            start, end = (int(x, 16) for x in place.split("-"))
            yield start, end
