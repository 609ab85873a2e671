"""What a step keeps between its own attempts: a resume point that outlives kill -9, gone once published."""

from __future__ import annotations

import errno
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import CheckFailed, Lacking
from .files import forget_pages, fsync_file, fsync_folder, private_folder, sha256_of, write_durably

# A file of a step's scratch: what ended its last attempt. `run` writes it, the step reads it.
ENDED = "ended.json"
# Likewise: which steps to leave out so that the rest is done in time; stays for every later attempt.
SHORTER = "shorter.json"
FEWER_WAYS = "fewer_ways.json"  # likewise, of a lift: the ways that are not tried, so that it is done in time


def set_aside(folder: Path) -> None:
    """Rename what cannot be trusted to `.damaged-...` beside it: nothing is lost, nothing uses it."""
    with suppress(OSError):  # a read-only folder: it is left out all the same
        name = folder.name.lstrip(".")
        folder.rename(folder.with_name(f".damaged-{name}-{os.getpid()}-{time.time_ns()}"))


def take(source: Path, target: Path) -> None:
    """Move a file; copy it where it lies on another file system."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copyfile(source, target)


def wrote_otherwise(folder: Path) -> Lacking:
    """What was read back is not what was written."""
    return Lacking(
        "disk.wrote_otherwise",
        f"{folder} gives back other bytes than were written",
        why="the disk, its cable or the memory is at fault",
        hint="the checkpoint before it is kept; choose another disk with --workdir",
    )


class Scratch:
    """Named files of one step under one key. With `keys` they are sealed on disk."""

    def __init__(self, folder: Path, keys: Any = None) -> None:
        self.folder, self.keys = folder, keys
        self._opened: Path | None = None

    def write(self, name: str, source: Path | bytes, before: str | None = None) -> None:
        """Replace `name`, wholly or not at all. A `source` path is moved where it can be.

        With `before` the file is read back from the disk first; the one it replaces stays under that name.
        Raises Lacking where the disk gives back other bytes: then the old one stays.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / name
        if isinstance(source, bytes):
            write_durably(target, self.keys.seal_bytes(source) if self.keys else source)
            return
        beside = target.with_name(f".{name}.{os.getpid()}.new")
        try:
            wanted = sha256_of(source) if before else ""
            if self.keys:
                self.keys.seal(source, beside)
            else:
                take(source, beside)
                fsync_file(beside)
            if before:
                self._must_hold(beside, wanted)
                with suppress(FileNotFoundError):
                    target.rename(target.with_name(before))
            beside.rename(target)
        finally:
            beside.unlink(missing_ok=True)
        fsync_folder(self.folder)

    def _must_hold(self, written: Path, wanted: str) -> None:
        """Raises Lacking where what lies on the disk has another SHA-256; sealed files are opened for it."""
        forget_pages(written)
        plain = written
        if self.keys:
            self._opened = self._opened or private_folder()
            plain = self._opened / written.name
            self.keys.open(written, plain)
        found = sha256_of(plain)
        if self.keys:
            plain.unlink()
        if found != wanted:
            raise wrote_otherwise(written.parent)

    def read(self, name: str) -> Path | None:
        """A plain readable file; None if it was never written, or is damaged: then all is set aside."""
        target = self.folder / name
        if not target.exists():
            return None
        if not self.keys:
            return target
        self._opened = self._opened or private_folder()
        plain = self._opened / name
        try:
            self.keys.open(target, plain)
        except CheckFailed:
            set_aside(self.folder)
            return None
        return plain

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
