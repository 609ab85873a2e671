"""The service's log: one JSON line an event; and its acts in the audit log. No text of a user stands in them.

It goes to standard error, or to a file that is turned over by its size (`log_to`); sealed line by line where
the service's trust asks for it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from ...errors import Problem
from ...trust import Keys, SealedLog, audit

FILE_BYTES = 16_000_000  # then the next file; some 100,000 requests
FILES = 4  # the newest is NAME, before it NAME.1, NAME.2, ...
Write = Callable[[bytes], None]


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def log(event: str, **fields: Any) -> None:
    """One JSON line. A log that cannot be written is no reason to stop serving."""
    with suppress(OSError, ValueError, Problem):
        _write[-1](orjson.dumps({"at": round(time.time(), 3), "event": event, **_marks, **fields}))


def mark_log(**fields: str) -> None:
    """From now on in every line."""
    _marks.update(fields)


def log_to(file: Path, keys: Keys | None = None) -> None:
    """From now on into this file, 0600. Raises OSError where it cannot be made."""
    _write.append(Turned(file, keys))


def _to_stderr(line: bytes) -> None:
    sys.stderr.buffer.write(line + b"\n")
    sys.stderr.buffer.flush()


_marks: dict[str, str] = {}
_write: list[Write] = [_to_stderr]  # the last is in use


class Turned:
    """A file of lines, at most FILES of FILE_BYTES: the oldest goes."""

    def __init__(self, file: Path, keys: Keys | None) -> None:
        self.file, self.keys = file, keys
        self.sealed = SealedLog(file, keys) if keys else None
        file.touch(mode=0o600)

    def __call__(self, line: bytes) -> None:
        if self._size() >= FILE_BYTES:
            self._turn()
        if self.sealed:
            self.sealed.append(line.decode())
            return
        with open(self.file, "ab", opener=_private) as file:
            file.write(line + b"\n")

    def _size(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def _turn(self) -> None:
        for number in range(FILES - 1, 0, -1):
            older, newer = self._named(number), self._named(number - 1)
            if newer.exists():
                newer.replace(older)
        if self.keys:
            self.sealed = SealedLog(self.file, self.keys)

    def _named(self, number: int) -> Path:
        return self.file.with_name(f"{self.file.name}.{number}") if number else self.file


# ------------------------------------------------------------------ the audit log


def written(act: str, **what: Any) -> None:
    """As `trust.audit`; where that fails the act stands. Some milliseconds: the line is on the disk then."""
    if (why := audit(act, **what)) is not None:
        log("audit.not_written", act=act, why=why.message if isinstance(why, Problem) else str(why))


async def written_aside(act: str, **what: Any) -> None:
    """The same beside the event loop."""
    await asyncio.to_thread(written, act, **what)
