"""What went wrong, where, why, and what to do: one tree of exceptions, one exit code a branch.

Raise where the cause is at hand; only `cli`, `serving` and the step workers catch. Nothing else lives here.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Where:
    """The place a problem points at: a file, a line counted from 1, a dotted field."""

    file: str | None = None
    line: int | None = None
    field: str | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        return ", ".join(part for part in (place, self.field) if part)


class Problem(Exception):
    """Any failure that a user can act on. `exit_code` 1 means a bug of ours."""

    exit_code = 1

    def __init__(
        self,
        code: str,
        message: str,
        *,
        where: Where | None = None,
        why: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code  # dotted and stable, `recipe.unknown_key`: scripts rely on it
        self.message = message
        self.where = where
        self.why = why
        self.hint = hint

    def as_json(self) -> dict[str, Any]:
        """The error document of the contract: {"error": {code, message, where, hint}}."""
        where = self.where or Where()
        return {
            "error": {
                "code": self.code,
                "message": self.message,
                "where": {"file": where.file, "line": where.line, "field": where.field},
                "why": self.why,
                "hint": self.hint or f"see `steelyard --help`, exit code {self.exit_code}",
            }
        }

    @staticmethod
    def from_json(document: dict[str, Any], exit_code: int, resumable: bool = False) -> Problem:
        """Rebuild a problem that a step worker has sent over a pipe."""
        error = document["error"]
        branch = next((c for c in Problem.__subclasses__() if c.exit_code == exit_code), Problem)
        branch = Resumable if resumable else branch
        return branch(
            error["code"],
            error["message"],
            where=Where(**error["where"]),
            why=error.get("why"),
            hint=error["hint"],
        )


class WrongUse(Problem):
    """A wrong flag, recipe or input file."""

    exit_code = 2


class Refused(Problem):
    """A policy or limit forbids it: trust level, budget, deadline."""

    exit_code = 3


class CheckFailed(Problem):
    """A check found something: a gate, a scan, a verification."""

    exit_code = 4


class Lacking(Problem):
    """The environment lacks something: a package, memory, disk, a port."""

    exit_code = 5


class Resumable(Lacking):
    """Carried out again in a fresh process, the work goes on: this one's memory is in pieces."""


class Stopped(Problem):
    """Interrupted; the same command goes on."""

    exit_code = 6


# What the operating system refuses, as the user should read it: (code, why, hint).
OS_REFUSALS = {
    errno.ENOSPC: (
        "disk.full",
        "no space is left on the disk",
        "free space, then run the same command again",
    ),
    errno.EDQUOT: ("disk.full", "the disk quota is used up", "free space, then run the same command again"),
    errno.EROFS: ("disk.read_only", "the file system is read-only", "choose another folder with --workdir"),
    errno.EACCES: ("disk.denied", "permission is denied", "choose another folder, or mend its permissions"),
    errno.EPERM: ("disk.denied", "permission is denied", "choose another folder, or mend its permissions"),
    errno.ENOTDIR: (
        "disk.no_folder",
        "a part of its path is a file, where a folder has to be",
        "choose another folder, or move that file away",
    ),
    errno.EMFILE: ("system.files", "too many files are open", "raise the limit with ulimit -n"),
}
# How libraries say it: glibc, the loader, C++, OpenBLAS and Rust, Python.
NO_MEMORY_WORDS = (
    "allocate memory", "failed to map segment", "bad_alloc", "bad alloc", "memory allocation", "memoryerror",
    "can't start new thread",
)  # fmt: skip


def from_os_error(error: OSError) -> Problem | None:
    """The Lacking that an OSError stands for, or None for another error."""
    if error.errno not in OS_REFUSALS:
        return None
    code, why, hint = OS_REFUSALS[error.errno]
    file = str(error.filename) if error.filename else None
    return Lacking(code, f"cannot write {file or 'to the disk'}", where=Where(file), why=why, hint=hint)


def trace_of(error: Exception) -> str:
    """Where it was raised and its kind, without its own text, which may quote a row or a prompt."""
    import traceback

    return "".join(traceback.format_tb(error.__traceback__)) + type(error).__name__


def tells_no_memory(text: str) -> bool:
    """Whether a library's words, or the last ones of a process, say that it got no memory."""
    text = text.lower()
    return any(words in text for words in NO_MEMORY_WORDS)


def got_no_memory(error: BaseException) -> bool:
    """Whether an allocation failed, here or in what the error followed from.

    torch and OpenVINO raise RuntimeError or ImportError for it, and others go on from there.
    """
    # A SystemError without a word: Python could not even allocate the error.
    silent = isinstance(error, SystemError) and not str(error)
    if isinstance(error, MemoryError) or silent or tells_no_memory(str(error)):
        return True
    before = error.__cause__ or error.__context__
    return before is not None and got_no_memory(before)


def no_cluster(address: str, why: str) -> Lacking:
    return Lacking(
        "cluster.not_reached",
        f"no cluster can be reached at {address}",
        where=Where(field="resources.ray"),
        why=why,
        hint="steelyard cluster start on the head and on this machine, with keys of one CA and token",
    )


def no_memory() -> Lacking:
    """This process could get no more memory."""
    return Lacking(
        "memory.exhausted",
        "there is not enough memory",
        why="an allocation failed",
        hint="free memory, or raise the limit of this shell (ulimit -v), and run again",
    )


@contextmanager
def writing_in(folder: object) -> Iterator[None]:
    """What the system refuses without naming a file (a full disk at a write) is reported of `folder`."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in OS_REFUSALS:
            error.filename = str(folder)
        raise
