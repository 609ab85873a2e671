"""Hashes of large files that lie elsewhere and have not changed: a base of 14 GB is not read at every start.

A hash is remembered by place, size, inode and the times of the last change of content and of the entry; the
last cannot be set by a program, so a file that was written over and given its old date is read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from ..places import cache_folder
from .files import sha256_of, write_durably

LEAST_BYTES = 1 << 20  # below it reading the file is as quick as reading what is remembered
SETTLED_NS = 2_000_000_000  # a younger file may change under the same time: disks' clocks are coarse


def unchanged_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read only where the file is not the one that was hashed before."""
    state = path.stat()
    if state.st_size < LEAST_BYTES:
        return sha256_of(path)
    memory, stamp = _memory_of(path), _stamp(state)
    with suppress(OSError, ValueError, KeyError, TypeError):
        remembered = json.loads(memory.read_bytes())
        if remembered["stamp"] == stamp:
            return str(remembered["sha256"])
    digest = sha256_of(path)
    settled = time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns) > SETTLED_NS
    if settled and _stamp(path.stat()) == stamp:
        with suppress(OSError):  # a read-only home costs the reading, no more
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_durably(memory, json.dumps({"stamp": stamp, "sha256": digest}).encode())
    return digest


def _memory_of(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    return cache_folder() / "hashes" / f"{name}.json"


def _stamp(state: os.stat_result) -> list[int]:
    return [state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns]
