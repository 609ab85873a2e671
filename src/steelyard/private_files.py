"""A file that must be its owner's alone: looked at once it is open, so that no other takes its place between.

Not here: the error that a user reads; each caller says what the file is for.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


class OthersMay(Exception):
    """Others than its owner may read or write the file; its text is the mode, in octal digits."""


@contextmanager
def open_private(path: Path, only_files: bool = False) -> Iterator[BinaryIO]:
    """The open file, to read. A pipe or a descriptor has no mode that counts.

    `only_files`: for these, and for a device, OSError is raised, and nobody waits for their other end. Raises
    OthersMay, OSError.
    """
    with open(path, "rb", opener=_at_once if only_files else None) as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISREG(mode) and mode & 0o077:
            raise OthersMay(f"{stat.S_IMODE(mode):04o}")
        if only_files and not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device, not a file")
        yield file


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
