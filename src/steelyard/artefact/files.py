"""Durable files: written beside, fsynced, renamed; and private folders in memory for opened secrets."""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import os
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import Lacking, Refused, Where
from .namespace import SHARED, own_memory

# Sealed payloads are opened here: memory, never a disk; namespace.py makes it a run's own.
MEMORY = SHARED
IN_MEMORY = ("tmpfs", "ramfs")
PRIVATE = "steelyard-open-"
CLAIMS: dict[Path, int] = {}  # descriptors that hold the locks of this process's folders
OF_PROCESS = re.compile(rf"{PRIVATE}(\d+)-.*")  # the others have a job's name
ABOUT = ("manifest.json", "model.sig", "model.hybrid.sig")  # of a payload, no part of it


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


def forget_pages(path: Path) -> None:
    """Have the next read come from the disk, not from the pages that were written; on Linux alone."""
    if hasattr(os, "posix_fadvise"):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
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


def publish_folder(draft: Path, folder: Path) -> None:
    """A draft in its place, whole or not at all: all of it on disk, one rename, the rename on disk.

    What stands there is moved aside and goes once the new one stands.
    """
    for path in draft.rglob("*"):
        (fsync_folder if path.is_dir() else fsync_file)(path)
    fsync_folder(draft)
    old = folder.with_name(f".{folder.name}-{os.getpid()}-old")
    if folder.exists():
        folder.rename(old)
    draft.rename(folder)
    fsync_folder(folder.absolute().parent)
    shutil.rmtree(old, ignore_errors=True)


def payload_files(folder: Path) -> list[Path]:
    """Files below `folder`, as sorted relative paths; without what is said of them: manifest, signatures."""
    paths = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return sorted((p for p in paths if str(p) not in ABOUT), key=lambda p: p.as_posix())


def lies_beside(name: Path) -> bool:
    """No part of a model, given its path below the model's folder: what tools keep under dot names.

    .git, .cache/huggingface, .gitattributes. A dot file with a suffix counts: `.a.safetensors` is read as
    weights.
    """
    hidden = any(part.startswith(".") for part in name.parts[:-1])
    return hidden or (name.name.startswith(".") and not name.suffix)


def private_folder() -> Path:
    """A folder in memory, this user's alone; gone when this process ends. Raises Refused without memory.

    After kill -9 it goes with the next one that is made, or when a run or a service begins.
    """
    check_private(0)
    sweep_private_folders()
    while not _claimed(folder := Path(tempfile.mkdtemp(prefix=f"{PRIVATE}{os.getpid()}-", dir=MEMORY))):
        pass
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def named_private_folder(name: str) -> Path:
    """A folder in memory that has the same path in every run of one job; this user's alone.

    Not gone with this process: whoever makes it removes it, and after kill -9 the next run or service.
    Raises Refused where another user has it.
    """
    check_private(0)
    folder = MEMORY / f"{PRIVATE}{name}"
    while True:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise Refused(
                "trust.folder_taken",
                f"{folder} is not this user's alone",
                where=Where(str(folder), field="trust"),
                why="another user or program has made it",
                hint=f"remove {folder}, then run the same command again",
            )
        if _claimed(folder):
            return folder


def _claimed(folder: Path) -> bool:
    """Whether it is there still. Until it is let go, or this process ends, nobody sweeps it."""
    with suppress(FileNotFoundError):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        fcntl.flock(fd, fcntl.LOCK_SH)  # whoever sweeps it now is waited for
        if os.path.samestat(os.fstat(fd), folder.lstat()):
            _let_go(folder)
            CLAIMS[folder] = fd
            return True
        os.close(fd)
    return False


def _let_go(folder: Path) -> None:
    if (fd := CLAIMS.pop(folder, None)) is not None:
        os.close(fd)


def is_private(folder: Path) -> bool:
    """Is it a folder that `private_folder` made, in this process or another?"""
    return folder.parent == MEMORY and folder.name.startswith(PRIVATE)


def check_private(needed_bytes: float) -> None:
    """See that opened secrets find memory. Raises Refused where it is a disk, Lacking where too small."""
    from ..hardware import free_bytes

    kind = memory_kind()
    if kind not in IN_MEMORY:
        raise Refused(
            "trust.no_memory_folder",
            f"there is no file system in memory at {MEMORY}, and sealed files are opened there alone",
            where=Where(str(MEMORY), field="trust"),
            why=f"{MEMORY} is {kind}, a disk" if kind else f"{MEMORY} is not a folder",
            hint=f"mount -t tmpfs tmpfs {MEMORY}, or `trust: open` where plain text on a disk is allowed",
        )
    folder, memory = shutil.disk_usage(MEMORY).free, free_bytes()
    if needed_bytes > memory and memory < folder:
        raise Lacking(
            "trust.memory_too_small",
            f"opened files need {needed_bytes / 1e9:.2f} GB of memory, {memory / 1e9:.2f} GB are free",
            where=Where(field="trust"),
            why=f"{MEMORY} may grow to {folder / 1e9:.2f} GB, which this machine or container does not have",
            hint="stop what else runs here, or take a smaller model",
        )
    if needed_bytes > folder:
        raise Lacking(
            "trust.memory_too_small",
            f"opened files need {needed_bytes / 1e9:.2f} GB in {MEMORY}, {folder / 1e9:.2f} GB are free",
            where=Where(str(MEMORY), field="trust"),
            why="at `trust: guarded` a step's files are opened in memory, never on a disk",
            hint=f"docker run --shm-size {_gib(needed_bytes)}g, or mount -o remount,size=... {MEMORY}",
        )


def memory_kind() -> str | None:
    """Type of the file system where secrets are opened ("tmpfs"); None where there is no such folder."""
    return file_system(MEMORY) if MEMORY.is_dir() else None


def _gib(size: float) -> int:
    return int(size // 2**30) + 1


def file_system(folder: Path) -> str | None:
    """Type of the file system that holds a folder ("tmpfs", "ext4"); None where the kernel is silent."""
    best, kind = -1, None
    with suppress(OSError):
        path = folder.resolve()
        for line in Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines():
            left, _, right = line.partition(" - ")
            mount = Path(left.split()[4].encode().decode("unicode_escape"))
            if (path == mount or mount in path.parents) and len(mount.parts) >= best:
                best, kind = len(mount.parts), right.split()[0]
    return kind


def enter_own_memory() -> bool:
    """`own_memory`, once what was left outside of it has gone: from inside nobody sees that any more."""
    sweep_private_folders()
    return own_memory()


def sweep_private_folders() -> None:
    """Remove what processes that were killed have left opened in memory."""
    for folder in MEMORY.glob(f"{PRIVATE}*"):
        with suppress(OSError):
            _sweep(folder)


def _sweep(folder: Path) -> None:
    """Raises OSError where somebody lives who claims it, or it is another user's."""
    owner = OF_PROCESS.fullmatch(folder.name)
    if owner and Path(f"/proc/{owner[1]}").exists():
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(fd).st_uid == os.getuid():
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(fd)


@contextmanager
def folder_beside(source: Path) -> Iterator[Path]:
    """A folder for a while, for what is made of `source`: where that was opened in memory, in memory too."""
    in_memory = any(is_private(each) for each in (source, *source.parents))
    folder = private_folder() if in_memory else Path(tempfile.mkdtemp(prefix="steelyard-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _let_go(folder)
