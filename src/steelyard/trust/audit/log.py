"""The audit log's file: lines in a chain, each signed, and signed heads that say how long it is.

    log.jsonl    a line an act; `prev` is the hash of the line before
    head.json    {"seq","hash","first","bytes",...} of the last line, signed, written after each line
    beside the signing key: audit-heads/<hash of the log's path>.json, the same head once more

A cut at the end leaves sound lines, so the head tells of it; who may write the second head may read the key.
Each line and each head is on the disk (fsync) before `append` returns. A process killed between them leaves a
log that is one line longer than its head says: those lines are signed, and the next `append` takes them in. A
line torn by a crash has no newline and stands after the head's end: it was never reported as written, the
next `append` takes it away and notes its bytes in `torn_bytes`. Several processes may append: each holds the
file's lock for one line.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

from ...errors import Problem, Where, WrongUse
from ...places import audit_folder, signing_key_file
from ..disk import atomic, disk_problem, write_all
from ..installation import SigningKey, VerifyingKey, read_line
from .line import DOMAIN, GENESIS, clock, hash_of

LOG, HEAD = "log.jsonl", "head.json"
HEAD_DOMAIN = b"steelyard/audit/1/head"  # another one: no line can be given out for a head


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """How far the log goes: lines, hash of the last and of the first, and where the last one ends."""

    seq: int = 0
    hash: str = GENESIS
    first: str = ""
    bytes: int = 0
    at: str = ""


def log_here() -> Path:
    """The folder of this installation's log. Raises WrongUse where it is switched off."""
    if (folder := audit_folder()) is None:
        raise WrongUse(
            "audit.off", "the audit log is switched off", where=Where(field="STEELYARD_AUDIT"),
            hint="unset STEELYARD_AUDIT, or name the folder of a log: --log DIR",
        )  # fmt: skip
    return folder


def second_head(folder: Path) -> Path:
    """Where the head is kept once more: with the key, away from the log."""
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
    return signing_key_file().parent / "audit-heads" / f"{name}.json"


def read_head(path: Path, key: VerifyingKey) -> Head | None:
    """None where it is not there, or not signed by `key`."""
    with suppress(OSError, KeyError, TypeError):
        document = key.opened(path.read_bytes().rstrip(b"\n"), HEAD_DOMAIN)
        return Head(**{part.name: document[part.name] for part in fields(Head)}) if document else None
    return None


class AuditLog:
    """The log in a folder."""

    def __init__(self, folder: Path, key: SigningKey) -> None:
        self.folder, self.key = folder, key

    def append(self, document: dict[str, Any]) -> int:
        """One line more, on the disk when this returns; its number. Raises Lacking (disk), OSError."""
        path = self.folder / LOG
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                return self._append(file, document)
        except OSError as e:
            raise disk_problem(e, path) from e

    def _append(self, file: BinaryIO, document: dict[str, Any]) -> int:
        end, torn_bytes = self._end(file)
        place = {"v": 1, "seq": end.seq + 1, **clock(), **document, "prev": end.hash}
        if torn_bytes:
            place["torn_bytes"] = torn_bytes
        line = self.key.signed(place, DOMAIN)
        write_all(file, (b"" if _ends_in_newline(file) else b"\n") + line + b"\n")
        os.fsync(file.fileno())
        self._keep(_after(end, line, place["at"], file.tell()))
        return end.seq + 1

    def _end(self, file: BinaryIO) -> tuple[Head, int]:
        """The last sound line, and the bytes of a torn one, which are taken away.

        A log that somebody cut or changed goes on from its head: the gap stays for `verify` to find.
        """
        end = self._head(file)
        if os.fstat(file.fileno()).st_size < end.bytes:
            return end, 0
        file.seek(end.bytes)
        *lines, torn = file.read().split(b"\n")
        for line in lines:
            document = self.key.opened(line, DOMAIN)
            if document is None or document["prev"] != end.hash:
                return end, 0
            end = _after(end, line, document["at"], end.bytes + len(line) + 1)
        if torn:
            file.truncate(end.bytes)
        return end, len(torn)

    def _head(self, file: BinaryIO) -> Head:
        """The one that goes further, of this log: another may have stood here before it."""
        beside, second = (
            read_head(self.folder / HEAD, self.key),
            read_head(second_head(self.folder), self.key),
        )
        file.seek(0)
        first = beside.first if beside else hash_of(file.readline().rstrip(b"\n"))
        found = [head for head in (beside, second) if head is not None and head.first == first]
        return max(found, key=lambda head: head.seq, default=Head())

    def _keep(self, head: Head) -> None:
        """The head, twice. The second place may be closed to a service: then the first must do."""
        line = self.key.signed({"v": 1, **asdict(head)}, HEAD_DOMAIN)
        with atomic(self.folder / HEAD) as file:
            write_all(file, line + b"\n")
        other = second_head(self.folder)
        kept = read_head(other, self.key)
        if kept is not None and kept.first != head.first:
            return  # of a log that was here and is gone: what tells of it stays
        with suppress(OSError, Problem):
            other.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with atomic(other) as file:
                write_all(file, line + b"\n")


def _after(end: Head, line: bytes, at: str, size: int) -> Head:
    digest = hash_of(line)
    return Head(seq=end.seq + 1, hash=digest, first=end.first or digest, bytes=size, at=at)


def _ends_in_newline(file: BinaryIO) -> bool:
    """Leaves the file at its end. Only a log that somebody cut may end elsewhere."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return True
    file.seek(size - 1)
    return file.read(1) == b"\n"


def read_acts(folder: Path) -> Iterator[dict[str, Any]]:
    """The acts, in order, as they stand there; not verified. Raises WrongUse where there is no log."""
    path = folder / LOG
    if not path.is_file():
        raise no_log(folder)
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n") and (document := read_line(line)) is not None:
                yield document


def no_log(folder: Path) -> WrongUse:
    return WrongUse(
        "audit.none", "there is no audit log", where=Where(str(folder / LOG)),
        hint="it begins with the first act; name the folder of another: --log DIR",
    )  # fmt: skip
