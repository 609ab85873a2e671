"""Part of the work in a process of its own; its arrays come back through a file without a name."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from ...processes import die_with_parent

Arrays = tuple[np.ndarray, ...]


class Beside:
    """`make` in a child that was forked from this process: it sees all that is in memory now."""

    def __init__(self, make: Callable[[], Iterable[Arrays]], folder: Path) -> None:
        self.make = make
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self.child = multiprocessing.get_context("fork").Process(target=self.run, args=(os.getpid(),))
        self.child.start()

    def run(self, parent: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with_parent(parent)
        for arrays in self.make():
            for array in arrays:
                np.save(self.file, array, allow_pickle=False)
        self.file.flush()

    def parts(self, arrays: int) -> Iterator[Arrays]:
        """What `make` gives, so many arrays at a time; made here, with its error, where the child failed."""
        self.child.join()
        if self.child.exitcode:
            yield from self.make()
            return
        size = self.file.seek(0, os.SEEK_END)
        self.file.seek(0)
        while self.file.tell() < size:
            yield tuple(np.load(self.file, allow_pickle=False) for _ in range(arrays))

    def close(self) -> None:
        if self.child.is_alive():
            self.child.kill()
        self.child.join()
        self.file.close()
