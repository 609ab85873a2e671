"""A /dev/shm of a sealed run's own: a tmpfs in a mount namespace that its processes share, and nobody else.

Opened files then have no name outside the run, and go with its last process, also by kill -9. Where the
kernel has it (6.4, root) the tmpfs is never swapped out. Root can still look in through /proc/PID/root, as
into any memory. Where namespaces are refused (Docker's default profile), /dev/shm stays as it is: in a
container it is the container's own already.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import threading
from contextlib import suppress
from pathlib import Path

SHARED = Path("/dev/shm")
VARIABLE = "STEELYARD_OWN_MEMORY"  # the mount namespace whose /dev/shm is a run's own; children inherit it
HERE = "/proc/self/ns/mnt"
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000  # sched.h
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_SLAVE = 0x2, 0x4, 0x8, 0x4000, 0x80000  # sys/mount.h


def own_memory() -> bool:
    """Give this process, and all it starts from now on, a /dev/shm of their own; True where they have it.

    For the main thread of a command, before it has others that open files: a thread that is there already
    stays where it is.
    """
    if has_own_memory():
        return True
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return False
    with suppress(OSError):
        size = shutil.disk_usage(SHARED).free
        _unshare()
        _mount(None, "/", None, MS_REC | MS_SLAVE, None)  # what is mounted outside later is still seen
        _mount_memory(size)
        os.environ[VARIABLE] = os.readlink(HERE)
        return True
    return False


def has_own_memory() -> bool:
    """Is this process in the namespace that a run has made?"""
    with suppress(OSError):
        return os.environ.get(VARIABLE) == os.readlink(HERE)
    return False


def may_own_memory() -> bool:
    """Would `own_memory` succeed on this machine? Tried in a child."""
    if has_own_memory():
        return True
    if sys.platform != "linux":
        return False
    child = os.fork()
    if child == 0:
        os._exit(0 if own_memory() else 1)  # nothing else of this process may run on in it
    return os.waitpid(child, 0)[1] == 0


def _mount_memory(size: int) -> None:
    flags, options = MS_NOSUID | MS_NODEV | MS_NOEXEC, f"size={size},mode=1777"
    try:
        _mount("tmpfs", str(SHARED), "tmpfs", flags, options + ",noswap")
    except OSError:  # an older kernel, or a namespace of a user
        _mount("tmpfs", str(SHARED), "tmpfs", flags, options)


def _unshare() -> None:
    """By right as root; else in a user namespace in which nothing but the right to mount is new."""
    user, group = os.getuid(), os.getgid()
    with suppress(PermissionError):
        return _call("unshare", CLONE_NEWNS)
    _call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None) -> None:
    words = [None if word is None else word.encode() for word in (source, target, kind, options)]
    _call("mount", *words[:3], ctypes.c_ulong(flags), words[3])


def _call(name: str, *arguments: object) -> None:
    """Of the C library. Raises OSError."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
