"""Processes that end with their parent, and the memory they hold. Linux first: elsewhere less is known."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from .errors import from_os_error, got_no_memory

# What a job of `steelyard jobs` is started with: where it reports, and its name.
REPORT, JOB = "STEELYARD_REPORT", "STEELYARD_JOB"
PR_SET_PDEATHSIG = 1  # prctl(2)
KCMP, KCMP_VM = {"x86_64": 312, "aarch64": 272}, 1  # kcmp(2): its number by the machine; compare memories


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process when the thread that started it ends; at once if it has.

    Trap: it is the starting THREAD that counts, so start children from one that lives on.
    """
    _at_parents_death(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def outlive_parent() -> None:
    """Undo `die_with_parent`."""
    _at_parents_death(0)


def _at_parents_death(signal_number: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)


def no_core_dump() -> None:
    """Neither this process nor its children leave a core file: their memory holds what is sealed on disk.

    One byte and not none: with a program in core_pattern (systemd-coredump, apport) the kernel heeds no other
    limit than 1, see core(5) and fs/coredump.c.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    most = 1 if hard == resource.RLIM_INFINITY else min(1, hard)
    resource.setrlimit(resource.RLIMIT_CORE, (most, hard))


def release_freed_memory() -> None:
    """Hand back to the system what this process has freed; glibc alone keeps it, and is asked alone."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def memory_limit_bytes() -> int | None:
    """What this process and its children may map (`ulimit -v`); None without a limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


def lacks_memory(error: Exception) -> bool:
    """Whether memory failed: the error says so, or it comes near the limit and nothing else explains it."""
    refused = from_os_error(error) if isinstance(error, OSError) else None
    return got_no_memory(error) or (refused is None and near_memory_limit())


def near_memory_limit() -> bool:
    """Whether this process has mapped over half of what it may: what fails then may well fail for that.

    A library whose allocation failed can raise anything (an attribute that is missing, a module half loaded).
    """
    limit, peak = memory_limit_bytes(), status_bytes("VmPeak")
    return limit is not None and peak is not None and peak > limit / 2


def status_bytes(name: str) -> int | None:
    """A figure of this process as Linux gives it ("VmHWM", "VmPeak"); None elsewhere."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = status.read_text("ascii", "replace").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)


def peak_rss_bytes() -> int:
    """Largest resident set of this process so far; getrusage would count what stood here before exec."""
    held = status_bytes("VmHWM")
    if held is not None:
        return held
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def family(pids: Iterable[int]) -> list[int]:
    """The processes named and all that descend from them."""
    found: dict[int, None] = {}
    left = list(pids)
    while left:
        pid = left.pop()
        found[pid] = None
        left += [child for child in children(pid) if child not in found]
    return list(found)


def children(pid: int) -> list[int]:
    """Direct children of all threads; the kernel's own list, since walking /proc costs milliseconds."""
    with suppress(OSError):
        lists = [t / "children" for t in Path(f"/proc/{pid}/task").iterdir()]
        return [int(child) for file in lists for child in file.read_text().split()]
    return []


def is_in_memory_of(pid: int, parent: int) -> bool:
    """Whether a child still runs in its parent's memory, before exec; False where unknown."""
    number = KCMP.get(platform.machine()) if sys.platform == "linux" else None
    return number is not None and ctypes.CDLL(None).syscall(number, pid, parent, KCMP_VM, 0, 0) == 0


def resident_bytes(pid: int) -> int:
    """RSS of one process, shared pages included: the kernel's counter, no walk over pages."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def proportional_bytes(pid: int) -> int:
    """PSS of one process: what it holds, shared pages counted once among their sharers."""
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
