"""Which checkpoints are whole: their files and hashes stand in a mark that is written last."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from .group import Group
from .telling import Failed

WHOLE = "whole.json"  # in a checkpoint: SHA-256 of its files, written when the disk gives them back
NEEDED = ("scheduler.pt", "trainer_state.json")  # without one the library starts afresh, or fails
OPTIMIZERS = ("optimizer.pt", "optimizer_0/.metadata")  # the second is FSDP's, in shards: one of them


def whole(folder: Path) -> bool:
    """Is every file of this checkpoint there, with its bytes?"""
    try:
        hashes = json.loads((folder / WHOLE).read_bytes())
    except (OSError, ValueError):
        return False
    there = all((folder / n).is_file() and sha256_of(folder / n) == h for n, h in hashes.items())
    return there and set(NEEDED) <= set(hashes) and not hashes.keys().isdisjoint(OPTIMIZERS)


def mark(folder: Path) -> None:
    """Say that a checkpoint is whole, once the disk gives back all of it as it was written."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name != WHOLE)
    hashes = {str(file.relative_to(folder)): sha256_of(file) for file in files}
    for file in files:
        _sync(file)
        if sha256_of(file) != hashes[str(file.relative_to(folder))]:
            raise Failed("disk", folder=str(folder.parent))
    part = folder / f".{WHOLE}.part"
    part.write_text(json.dumps(hashes))
    _sync(part)
    part.rename(folder / WHOLE)
    for place in (folder, folder.parent):
        _sync(place)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        if hasattr(os, "posix_fadvise"):  # the next read comes from the disk
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def last_whole(out: Path, group: Group) -> Path | None:
    """The newest whole checkpoint; what a kill left half written is removed."""
    last = None
    if group.first:
        folders = sorted(out.glob("checkpoint-*"), key=lambda f: int(f.name.split("-")[1]))
        for folder in folders:
            if not whole(folder):
                shutil.rmtree(folder)
        last = next((f for f in reversed(folders) if f.is_dir()), None)
    name = group.gathered(last.name if last else None)[0]  # its folder may be another on each machine
    return out / name if name else None
