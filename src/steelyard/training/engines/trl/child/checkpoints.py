"""Which checkpoints are whole: their files and sizes stand in a mark that is written last."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from .group import Group

WHOLE = "whole.json"  # in a checkpoint: its files and their sizes, written when all of them are on the disk
NEEDED = ("scheduler.pt", "trainer_state.json")  # without one the library starts afresh, or fails
OPTIMIZERS = ("optimizer.pt", "optimizer_0/.metadata")  # the second is FSDP's, in shards: one of them


def whole(folder: Path) -> bool:
    """Is every file of this checkpoint there, in its size?"""
    try:
        sizes = json.loads((folder / WHOLE).read_bytes())
    except (OSError, ValueError):
        return False
    there = all((folder / n).is_file() and (folder / n).stat().st_size == s for n, s in sizes.items())
    return there and set(NEEDED) <= set(sizes) and not sizes.keys().isdisjoint(OPTIMIZERS)


def mark(folder: Path) -> None:
    """Say that a checkpoint is whole, once all of it is on the disk."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name != WHOLE)
    for file in files:
        _sync(file)
    part = folder / f".{WHOLE}.part"
    part.write_text(json.dumps({str(f.relative_to(folder)): f.stat().st_size for f in files}))
    _sync(part)
    part.rename(folder / WHOLE)
    for place in (folder, folder.parent):
        _sync(place)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
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
    return group.gathered(last)[0]
