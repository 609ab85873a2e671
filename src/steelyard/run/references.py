"""The gate's exact reference in a child of its own, which keeps the networks it has loaded.

As a program (`python -m steelyard.run.references FD PARENT`) it is that child: torch stays out of `up`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ..errors import Lacking
from ..processes import die_with_parent
from .children import CHILD_ENV

KEPT = 2  # networks in FP32 at once
LOADED: dict[tuple[Path, Path | None, Path | None], Any] = {}


class References:
    """Asks the child; it is started by the first question and ends with `close`."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._line: Connection | None = None

    def ask(
        self, folder: Path, rows: list[list[int]], served: Path | None = None, of: Path | None = None
    ) -> Any:
        """One array [T, 3] a row (see gate.exact_reference). Raises Lacking where the child was killed."""
        if self._line is None:
            self._line = self._start()
        try:
            self._line.send(((folder, served, of), rows))
            return self._line.recv()
        except (EOFError, OSError) as error:
            raise Lacking(
                "gate.reference_died",
                "the process of the exact reference ended early",
                why="most often the machine ran out of memory: it holds the model in FP32",
                hint="free memory, then run the same command again",
            ) from error

    def _start(self) -> Connection:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "steelyard.run.references", str(theirs.fileno()), str(os.getpid())]
        self._child = subprocess.Popen(
            command,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
            env=os.environ | CHILD_ENV,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        return Connection(ours.detach())

    def close(self) -> None:
        """Let the child go: its memory is no part of what follows."""
        if self._line is not None and self._child is not None:
            self._line.close()
            self._child.terminate()
            self._child.wait()
        self._line = self._child = None


def network(folder: Path, served: Path | None, of: Path | None) -> Any:
    """Made, or as it was; the one asked for longest ago gives way before another is loaded."""
    from ..gate import exact_reference

    found = LOADED.pop((folder, served, of), None)
    if found is None and len(LOADED) == KEPT:
        del LOADED[next(iter(LOADED))]
    LOADED[folder, served, of] = found or exact_reference(folder, served=served, of=of)
    return LOADED[folder, served, of]


def main() -> None:
    die_with_parent(int(sys.argv[2]))
    line = Connection(int(sys.argv[1]))
    while True:
        try:
            wanted, rows = line.recv()
        except EOFError:
            return
        line.send(network(*wanted)(rows))


if __name__ == "__main__":
    main()
