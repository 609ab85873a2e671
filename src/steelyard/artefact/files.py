"""Durable files: written beside, fsynced, renamed; and private folders in memory for opened secrets."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

# Sealed payloads are opened here: memory, never a disk. Swap is the machine owner's affair.
MEMORY = Path("/dev/shm")
PRIVATE = "steelyard-open-"


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_folder(folder: Path) -> None:
    """A rename is durable only once the folder itself is on disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fsync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_durably(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, wholly or not at all; of several writers at once, one's whole data stay."""
    beside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.new")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(path)
    finally:
        beside.unlink(missing_ok=True)
    fsync_folder(path.parent)


def payload_files(folder: Path) -> list[Path]:
    """Files below `folder`, as sorted relative paths, the manifest left out."""
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return sorted((p for p in found if str(p) != "manifest.json"), key=lambda p: p.as_posix())


def private_folder() -> Path:
    """A folder in memory that only this user reads; gone when this process ends."""
    base = MEMORY if MEMORY.is_dir() else Path(tempfile.gettempdir())
    folder = Path(tempfile.mkdtemp(prefix=f"{PRIVATE}{os.getpid()}-", dir=base))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def sweep_private_folders() -> None:
    """Remove what processes that were killed have left opened in memory."""
    for folder in MEMORY.glob(f"{PRIVATE}*"):
        with suppress(ValueError, OSError):
            pid = int(folder.name[len(PRIVATE) :].split("-")[0])
            if not Path(f"/proc/{pid}").exists() and folder.stat().st_uid == os.getuid():
                shutil.rmtree(folder, ignore_errors=True)
