"""Who may open a sealed file, changed without touching its content: part B of its header is written anew.

The header before is kept beside the file until the new one is on disk, so that a crash at any moment leaves a
file that opens: for those it was sealed for before, or for the new ones. This takes no key back that somebody
has copied: after a leak the content has to be sealed again, under a new data key.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ...errors import Where, WrongUse
from ..disk import atomic, disk_problem, sync_folder, write_all
from .header import (
    FILE,
    HEADER_BYTES,
    LOG,
    PART_A,
    SIGNED,
    WRAPS_MAX,
    Recipient,
    make_header,
    read_header,
)


def rewrap(path: Path, opener: Recipient, recipients: Sequence[Recipient]) -> None:
    """Seal the data key of `path`, a file or a log, for `recipients`, nobody else: one header, not the rest.

    Raises Refused (sealed for another key), CheckFailed (damaged), WrongUse (none, twice or too many).
    """
    check_recipients(recipients)
    with locked(path) as file:
        restore(path, file)
        before = os.pread(file, HEADER_BYTES, 0)
        part_a, data_key = read_header(before, opener, str(path), (FILE, LOG, SIGNED))
        after = make_header(part_a, data_key, tuple(recipients))
        with atomic(backup_of(path)) as saved:
            write_all(saved, before)
        put(file, after)
        drop(path)


def check_rewrap(path: Path, opener: Recipient, recipients: Sequence[Recipient]) -> None:
    """Raises what `rewrap` would, before anything is written."""
    check_recipients(recipients)
    with locked(path) as file:
        restore(path, file)
        read_header(os.pread(file, HEADER_BYTES, 0), opener, str(path), (FILE, LOG, SIGNED))


def mend(path: Path) -> None:
    """Undo a change of recipients that was cut off; nothing is done where there is none."""
    if backup_of(path).exists():
        with locked(path) as file:
            restore(path, file)


def check_recipients(recipients: Sequence[Recipient], field: str = "--to") -> None:
    if not 1 <= len(recipients) <= WRAPS_MAX or len({r.key_id for r in recipients}) != len(recipients):
        raise WrongUse(
            "trust.recipients",
            f"{len(recipients)} recipients, or one of them twice",
            where=Where(field=field),
            hint=f"name 1 to {WRAPS_MAX} different public keys, your own counted",
        )


@contextmanager
def locked(path: Path) -> Iterator[int]:
    try:
        file = os.open(path, os.O_RDWR)
    except OSError as e:
        raise disk_problem(e, path) from e
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    except OSError as e:
        raise disk_problem(e, path) from e
    finally:
        os.close(file)


def backup_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.header")


def restore(path: Path, file: int) -> None:
    """Put the header back that was saved; one of another file (its part A differs) is only dropped."""
    backup = backup_of(path)
    if not backup.exists():  # the other rotation ended while this one waited for the lock
        return
    saved = backup.read_bytes()
    if len(saved) == HEADER_BYTES and saved[: PART_A.size] == os.pread(file, PART_A.size, 0):
        put(file, saved)
    drop(path)


def put(file: int, header: bytes) -> None:
    done = 0
    while done < len(header):
        done += os.pwrite(file, header[done:], done)
    os.fsync(file)


def drop(path: Path) -> None:
    backup_of(path).unlink()
    sync_folder(path.parent)
