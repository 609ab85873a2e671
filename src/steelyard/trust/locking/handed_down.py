"""What this process has unlocked, where its children find it: a file in memory without a name, by /proc.

The environment has the path alone ("/proc/PID/fd/N"): this user's processes can open it while the process
lives, as they could read its memory. A child that reads it keeps a copy for its own children, so that a
service that outlives its starter starts its engine again. Records: SHA-256 of the locked file, the secret.

Where there is no such file (macOS) nothing is handed down, and each process asks.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from contextlib import suppress

VARIABLE = "STEELYARD_UNLOCKED"
PLACE = re.compile(r"/proc/[0-9]+/fd/[0-9]+")
NAME = "steelyard-unlocked"
RECORD_BYTES = 32 + 32
MOST_BYTES = 64 * RECORD_BYTES

_own: tuple[int, int] | None = None  # process, descriptor: a forked child is another process


def hand_down(locked: bytes, secret: bytes) -> None:
    """Keep the secret of a locked file for this process's children."""
    _write(_records() | {hashlib.sha256(locked).digest(): secret})


def handed_down(locked: bytes) -> bytes | None:
    """The secret that this process, or the one that started it, has unlocked already."""
    records = _records()
    secret = records.get(hashlib.sha256(locked).digest())
    if secret is not None and (_own is None or _own[0] != os.getpid()):
        _write(records)  # the process that started this one may end first
    return secret


def _records() -> dict[bytes, bytes]:
    place = os.environ.get(VARIABLE, "")
    data = b""
    with suppress(OSError):
        # Not opened before it is known to be ours: a number may by now be a pipe of another process.
        if PLACE.fullmatch(place) and os.readlink(place).startswith(f"/memfd:{NAME}"):
            with open(place, "rb") as file:
                if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    data = file.read(MOST_BYTES)
    pieces = [data[at : at + RECORD_BYTES] for at in range(0, len(data), RECORD_BYTES)]
    return {piece[:32]: piece[32:] for piece in pieces if len(piece) == RECORD_BYTES}


def _write(records: dict[bytes, bytes]) -> None:
    global _own
    if not hasattr(os, "memfd_create"):
        return
    if _own is None or _own[0] != os.getpid():
        _own = os.getpid(), os.memfd_create(NAME, os.MFD_CLOEXEC)
    data = b"".join(name + secret for name, secret in records.items())[-MOST_BYTES:]
    os.pwrite(_own[1], data, 0)
    os.ftruncate(_own[1], len(data))
    os.environ[VARIABLE] = f"/proc/{_own[0]}/fd/{_own[1]}"
