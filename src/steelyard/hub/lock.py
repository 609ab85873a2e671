"""One fetch of a model at a time, between processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ..errors import Lacking, Where


@contextmanager
def alone(work: Path) -> Iterator[None]:
    """Hold the lock beside `work`; that of a dead process is void. Raises Lacking where another holds it."""
    work.parent.mkdir(parents=True, exist_ok=True)
    lock = work.with_name(f"{work.name}.lock")
    with _locked(lock, work):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # still held: whoever opened it before sees that it is gone


def _locked(lock: Path, work: Path) -> IO[str]:
    """The lock file, open and held, and still the one that bears the name."""
    import fcntl

    while True:
        handle = lock.open("w")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            handle.close()
            raise Lacking(
                "hub.busy", "another process is fetching this model", where=Where(str(work)),
                hint="wait for it, then run the same command again",
            ) from e  # fmt: skip
        if _is_named(handle, lock):
            return handle
        handle.close()  # opened before its holder removed it: a third process may hold the next one


def _is_named(handle: IO[str], lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), lock.stat())
    except FileNotFoundError:
        return False
