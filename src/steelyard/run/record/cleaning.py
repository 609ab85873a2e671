"""Which runs are cleaning now.

An erasure that has put its rows on the list waits for those that may have read the list before: what they
publish is looked through then, and what begins later leaves the rows out.

$STEELYARD_STATE/erased/cleaning/  a file each, locked while the cleaning goes on; that of a process that
                                   died is free, since the kernel drops the lock
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ...errors import Lacking, Where
from ...places import erased_file

WAIT_S, LOOK_S = 120.0, 0.1
MODE = 0o700


def marks() -> Path:
    return erased_file().parent / "cleaning"


@contextmanager
def cleaning(folder: Path) -> Iterator[None]:
    """While the block runs rows are read for this work folder, by the list as it is now.

    A home that cannot be written to forbids no cleaning: it takes no list either."""
    mark = marks() / f"{os.getpid()}-{secrets.token_hex(4)}"
    fd = -1
    with suppress(OSError):
        mark.parent.mkdir(parents=True, exist_ok=True, mode=MODE)
        fd = os.open(mark, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.write(fd, str(folder).encode())
    try:
        yield
    finally:
        with suppress(OSError):
            mark.unlink(missing_ok=True)
        if fd >= 0:
            os.close(fd)


def wait_for_cleanings(folder: str = "", wait_s: float = WAIT_S) -> None:
    """Until all that go on now have ended, or those of one work folder. Raises Lacking where one takes
    longer."""
    end = time.monotonic() + wait_s
    for mark in sorted(marks().glob("*")):
        while goes_on(mark) and (not folder or named(mark) == folder):
            if time.monotonic() > end:
                raise Lacking(
                    "data.cleaning", "a run is cleaning its data, and may have read the rows before",
                    where=Where(named(mark)), why="the rows are on the list: its next step leaves them out",
                    hint="wait until it trains, or stop it; then the same command again: it goes on",
                )  # fmt: skip
            time.sleep(LOOK_S)


def goes_on(mark: Path) -> bool:
    """Whether its process holds it; one that has died left it behind."""
    try:
        with mark.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mark.unlink(missing_ok=True)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def named(mark: Path) -> str:
    with suppress(OSError):
        return mark.read_text(encoding="utf-8")
    return str(mark)
