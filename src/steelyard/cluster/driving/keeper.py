"""Holds one attempt at a job: `python keeper.py ORDER.json`, a process that outlives the driver.

It takes the job's lock, which the worker inherits: while any of the two lives no other attempt begins,
whatever a driver believes. It refuses an order of a driver whose lease is over, starts the worker, waits for
it, and writes how it ended. The worker dies with it.

Standard library alone, started by its path: it is there in 20 ms.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

LOCK_S = 60.0  # to wait for the attempt before this one to be gone
FENCED, NO_LOCK, NO_START = 75, 76, 127  # exit codes of an attempt that never began


def main(order_file: str) -> None:
    with open(order_file, encoding="utf-8") as file:
        order = json.load(file)
    folder = os.path.dirname(order_file)
    for number in (signal.SIGTERM, signal.SIGUSR1):  # meant for the worker; a handler is not inherited
        signal.signal(number, lambda *_: None)
    lock = os.open(order["lock"], os.O_RDWR | os.O_CREAT, 0o600)
    if not taken(lock, order.get("lock_s", LOCK_S)):
        return ended(folder, NO_LOCK, 0, "another attempt still owns the job")
    with open(order["lease"], encoding="utf-8") as file:
        if json.load(file)["epoch"] > order["epoch"]:
            return ended(folder, FENCED, 0, "a newer driver has taken over")
    before = oom_kills()
    with open(f"{folder}/output", "wb") as out, open(f"{folder}/errors", "wb") as err:
        try:
            worker = subprocess.Popen(
                order["command"], cwd=order["cwd"], stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                pass_fds=(lock,), preexec_fn=on_idle_cores if order.get("idle") else die_with_keeper,
            )  # fmt: skip
        except OSError as error:
            return ended(folder, NO_START, 0, f"{error.strerror}: {error.filename}")
    durably(f"{folder}/worker.json", {"pid": worker.pid})
    code = worker.wait()
    ended(folder, code if code >= 0 else 128 - code, max(0, oom_kills() - before))


def taken(lock: int, within_s: float) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            time.sleep(0.02)
    return False


def die_with_keeper() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


def on_idle_cores() -> None:
    """Its processes get a core only while nobody else wants it."""
    die_with_keeper()
    with suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def ended(folder: str, code: int, oom: int, why: str = "") -> None:
    durably(f"{folder}/exit.json", {"code": code, "oom_kills": oom, "why": why})


def durably(path: str, document: dict[str, object]) -> None:
    """Where the disk is full the driver still sees that this process is gone."""
    with suppress(OSError):
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(f"{path}.new", path)


def oom_kills() -> int:
    """Processes that the kernel ended for memory: of this cgroup where it says so, else of the machine."""
    for path, word in (*own_counters(), ("/proc/vmstat", "oom_kill ")):
        with suppress(OSError, StopIteration, ValueError), open(path, encoding="ascii") as file:
            return int(next(line.split()[1] for line in file if line.startswith(word)))
    return 0


def own_counters() -> list[tuple[str, str]]:
    counters = []
    with suppress(OSError), open("/proc/self/cgroup", encoding="ascii") as file:
        for line in file:
            _, controllers, path = line.strip().split(":", 2)
            if "memory" in controllers.split(",") and path != "/":
                counters.append((f"/sys/fs/cgroup/memory{path}/memory.oom_control", "oom_kill "))
            elif not controllers and path != "/":
                counters.append((f"/sys/fs/cgroup{path}/memory.events", "oom_kill "))
    return counters


if __name__ == "__main__":
    main(sys.argv[1])
