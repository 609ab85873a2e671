"""What a step keeps between its own attempts: a resume point that outlives kill -9, gone once published."""

from __future__ import annotations

import errno
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import CheckFailed
from .files import fsync_file, fsync_folder, private_folder, write_durably


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


class Scratch:
    """Named files of one step under one key. With `keys` they are sealed on disk."""

    def __init__(self, folder: Path, keys: Any = None) -> None:
        self.folder, self.keys = folder, keys
        self._opened: Path | None = None

    def write(self, name: str, source: Path | bytes) -> None:
        """Replace `name`, wholly or not at all. A `source` path is moved where it can be."""
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / name
        if isinstance(source, bytes):
            write_durably(target, self.keys.seal_bytes(source) if self.keys else source)
            return
        beside = target.with_name(f".{name}.{os.getpid()}.new")
        try:
            if self.keys:
                self.keys.seal(source, beside)
            else:
                take(source, beside)
                fsync_file(beside)
            beside.rename(target)
        finally:
            beside.unlink(missing_ok=True)
        fsync_folder(self.folder)

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
