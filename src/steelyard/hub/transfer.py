"""One file of a model: fetched or gone on with, and compared with the hash that the source states."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from ..errors import CheckFailed, Lacking, Stopped, Where
from .listing import Listed

TRIES = 4  # a cut connection goes on by itself this often without one new byte
CHUNK_BYTES = 1 << 20


def fetch_file(source: Any, file: Listed, work: Path, advance: Callable[[float], Any]) -> bool:
    """Fetch or finish one file; True if a hash has been compared. Raises CheckFailed, Stopped, Lacking."""
    done, part = work / file.name, work / f"{file.name}.part"
    work.mkdir(parents=True, exist_ok=True)
    if done.is_file() and _matches(done, file, file.sha256) is not False:
        advance(done.stat().st_size)
        return _hashable(file)
    resumed = part.is_file()
    matches = _matches(part, file, _fill(source, file, part, advance) or file.sha256)
    if matches is False and resumed:  # perhaps the rest of an earlier revision: once from the start
        part.unlink()
        matches = _matches(part, file, _fill(source, file, part, advance) or file.sha256)
    if matches is False:
        part.unlink()
        raise CheckFailed(
            "hub.hash", f"{file.name} is not the file that the hub lists", where=Where(file.name),
            why="its hash or size differs", hint="fetch it again; if it stays so, do not trust this source",
        )  # fmt: skip
    os.replace(part, done)
    return matches is True


def _fill(source: Any, file: Listed, part: Path, advance: Callable[[float], Any]) -> str | None:
    """Append to the .part until it is whole; gives the hash that the server stated with it."""
    stated, tries = None, TRIES
    part.touch()
    advance(part.stat().st_size)
    while True:
        begin, why = part.stat().st_size, None
        try:
            stated = _append(source, file, part, advance) or stated
        except httpx.TransportError as e:
            why = str(e) or type(e).__name__
        size = part.stat().st_size
        if size >= file.size if file.size is not None else not why:
            return stated
        tries = TRIES if size > begin else tries - 1
        if not tries:
            raise Stopped(
                "hub.cut_off", f"{file.name} stopped at {size} of {file.size} bytes", where=Where(file.name),
                why=why or "the connection ended early",
                hint="run the same command again: it goes on from there",
            )  # fmt: skip


def _append(source: Any, file: Listed, part: Path, advance: Callable[[float], Any]) -> str | None:
    """One answer of the server into the .part, from where it ends or as far back as the server begins."""
    stated = None
    try:
        with part.open("r+b") as target:
            for at, chunk, stated in source.read(file, part.stat().st_size):  # noqa: B007  (the last one counts)
                advance(len(chunk) + min(0, at - target.seek(0, os.SEEK_END)))
                target.seek(at)
                target.truncate()
                target.write(chunk)
                if file.size is not None and at + len(chunk) > file.size:
                    break  # more than is listed: the size says so, however long it would go on
    except OSError as e:
        raise Lacking(
            "disk.write", f"{part.name} cannot be written", where=Where(str(part)), why=e.strerror,
            hint="free some space or choose another folder ($STEELYARD_CACHE), then run it again",
        ) from e  # fmt: skip
    return stated


def _hashable(file: Listed) -> bool:
    return bool(file.sha256 or file.git_sha1)


def _matches(path: Path, file: Listed, sha256: str | None) -> bool | None:
    """Does the file agree with what the hub states? None: only the size is known, and it agrees."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return False
    if sha256:
        return digest_of(path, hashlib.sha256()) == sha256.lower()
    if file.git_sha1:
        return digest_of(path, hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)) == file.git_sha1
    return None


def digest_of(path: Path, digest: Any) -> str:
    with path.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
