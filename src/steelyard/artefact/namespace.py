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
import signal
import sys
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path

from ..errors import Lacking, Where

SHARED = Path("/dev/shm")
VARIABLE = "STEELYARD_OWN_MEMORY"  # the mount namespace whose /dev/shm is a run's own; children inherit it
HERE = "/proc/self/ns/mnt"
TRIAL_S = 10
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000  # sched.h
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_SLAVE = 0x2, 0x4, 0x8, 0x4000, 0x80000  # sys/mount.h


def own_memory() -> bool:
    """Give this process, and all it starts from now on, a /dev/shm of their own; True where they have it.

    For the main thread of a command, before it has others that open files: a thread that is there already
    stays where it is. Where it cannot be had, nothing changes. Raises Lacking where a step fails here that
    had succeeded in the trial: the process may then be nobody's, in a user namespace without a map.
    """
    if has_own_memory():
        return True
    if threading.current_thread() is not threading.main_thread() or not may_own_memory():
        return False
    before = os.readlink(HERE)
    try:
        _leave()
    except OSError as e:
        if os.readlink(HERE) == before:  # threads beside this one: a user may not leave with them
            return False
        raise Lacking(
            "trust.half_namespace",
            f"this process has left its namespace, and then {e.filename} was refused",
            where=Where(str(SHARED)),
            why=e.strerror,
            hint="nothing was opened: run the same command again",
        ) from e
    os.environ[VARIABLE] = os.readlink(HERE)
    return True


def has_own_memory() -> bool:
    """Is this process in the namespace that a run has made?"""
    with suppress(OSError):
        return os.environ.get(VARIABLE) == os.readlink(HERE)
    return False


def may_own_memory() -> bool:
    """Would `own_memory` succeed on this machine? Every step is tried in a child, which ends with it.

    A kernel may allow the first step and refuse a later one (Ubuntu's AppArmor), and there is no way back.
    """
    if has_own_memory():
        return True
    if sys.platform != "linux":
        return False
    _library()  # loaded before the fork: another thread may hold the loader's lock at that moment
    child = os.fork()
    if child == 0:
        signal.alarm(TRIAL_S)
        with suppress(BaseException):
            _leave()
            os._exit(0)
        os._exit(1)  # nothing else of this process may run on in it
    return os.waitpid(child, 0)[1] == 0


def _leave() -> None:
    """Every step. Raises OSError with the name of the step that is refused."""
    size = shutil.disk_usage(SHARED).free
    _unshare()
    _mount(None, "/", None, MS_REC | MS_SLAVE, None)  # what is mounted outside later is still seen
    _mount_memory(size)


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
    if getattr(_library(), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
