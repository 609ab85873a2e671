"""One of a kind at a time: a lock file that the kernel gives back however its holder ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import Problem


@contextmanager
def alone(path: Path, taken: Problem) -> Iterator[None]:
    """While the block runs nobody else holds `path`. Raises `taken` where somebody does."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise taken from error
        yield
