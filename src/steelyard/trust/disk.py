"""A file appears whole or not at all, and a disk that refuses is one clear error.

Not here: what is written.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import Lacking, Problem, Where


@contextmanager
def atomic(dst: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Write `dst` through a temporary name beside it: fsync, rename, fsync of the folder.

    On any exception nothing is left behind. Raises Lacking where the disk is full or read-only.
    """
    part = dst.with_name(f".{dst.name}.{os.getpid()}-{os.urandom(4).hex()}.part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb", buffering=0) as file:
            yield file
            os.fsync(file.fileno())
        os.replace(part, dst)
        sync_folder(dst.parent)
    except OSError as e:
        raise disk_problem(e, dst) from e
    finally:
        part.unlink(missing_ok=True)


def write_once(path: Path, data: bytes, mode: int) -> None:
    """Whole or not at all, and durably. Raises FileExistsError, never writes over a file; other OSErrors as
    they come."""
    part = path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(part, path)  # unlike a rename, it cannot replace what another process wrote meanwhile
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def write_all(file: BinaryIO, data: bytes | bytearray | memoryview) -> None:
    """An unbuffered write may be short (near a full disk): go on until all is written or it fails."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def sync_folder(folder: Path) -> None:
    """A rename is durable only once the folder itself is on disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def disk_problem(error: OSError, path: Path) -> Problem | OSError:
    """The problem that an OSError at `path` means to a user; other errors come back as they are."""
    where = Where(str(path))
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Lacking(
            "disk.full",
            f"no space left on the disk for {path.name}",
            where=where,
            why=str(error),
            hint="free some space, or use another folder, then run the same command again",
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return Lacking(
            "disk.read_only",
            f"{path.parent} cannot be written",
            where=where,
            why=str(error),
            hint="choose a folder that you may write to",
        )
    return error
