"""Holds one attempt at a job: `python keeper.py ORDER.json`, a process that outlives the driver.

It takes the job's lock, which the worker inherits: while any of the two lives no other attempt begins,
whatever a driver believes. It refuses an order of a driver whose lease is over, starts the worker, waits for
it, and writes how it ended. The worker dies with it. Where the job's folder is shared by machines, files in
it name the attempt that owns the job (`owner`, a file for each lease): that may ask the worker to end, and
another name there, or a folder that nobody can read any more, ends it at once. A driver whose lease is over
may still write: its word counts for nothing. With the worker ends all that it has started.

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
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

LOCK_S = 60.0  # to wait for the attempt before this one to be gone
FENCED, NO_LOCK, NO_START = 75, 76, 127  # exit codes of an attempt that never began, or was taken its job
POLL_S = 0.5  # between two looks at who owns the job
UNREAD_S = (
    20.0  # that nobody could look: far shorter than a server keeps the lock of a machine that is gone (90 s)
)


def main(order_file: str) -> None:
    with open(order_file, encoding="utf-8") as file:
        order = json.load(file)
    folder = os.path.dirname(order_file)
    for number in (signal.SIGTERM, signal.SIGUSR1):  # meant for the worker; a handler is not inherited
        signal.signal(number, lambda *_: None)
    lock = os.open(order["lock"], os.O_RDWR | os.O_CREAT, 0o600)
    if not taken(lock, order.get("lock_s", LOCK_S)):
        return ended(folder, NO_LOCK, 0, "another attempt still owns the job")
    if epoch_of(order["lease"]) > order["epoch"]:
        return ended(folder, FENCED, 0, "a newer driver has taken over")
    owner = Owner(order, os.path.basename(folder)) if order.get("owner") else None
    if owner and not owner.is_ours():
        return ended(folder, FENCED, 0, "the job is another attempt's")
    mark = order.get("mark", "")
    end_others(mark)  # what an attempt has left whose keeper was killed
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
    code = watched(worker, owner) if owner else worker.wait()
    end_others(mark)  # before anything is written: where the folder hangs, that may take for ever
    if owner and owner.lost:
        ended(folder, FENCED, 0, owner.lost)
        os.killpg(0, signal.SIGKILL)
    ended(folder, code if code >= 0 else 128 - code, max(0, oom_kills() - before))


class Owner:
    """Who owns the job, looked at by a thread: reading from a server that is gone may stand still."""

    def __init__(self, order: dict[str, Any], name: str) -> None:
        self.order, self.name = order, name
        self.read_s, self.asked, self.lost = clock_s(), False, ""

    def is_ours(self) -> bool:
        """Opened anew each time: only then a client of a server asks it. Where a newer driver has not said
        anything yet, what an older one says may be late: it changes nothing."""
        says, epoch = newest_word(self.order["owner"], self.order["epoch"])
        lease = epoch_of(self.order["lease"])
        self.read_s = clock_s()
        if epoch < lease:
            return True
        self.asked = bool(says.get("ends"))
        return bool(says["attempt"] == self.name)

    def look(self) -> None:
        while not self.lost:
            with suppress(OSError, ValueError, KeyError):
                if not self.is_ours():
                    self.lost = "the job was taken from it"
            time.sleep(POLL_S)


def newest_word(path: str, otherwise: int) -> tuple[dict[str, Any], int]:
    """What the driver of the latest lease has said, and the epoch of that.

    PATH alone, without an epoch, is an older version's and counts as `otherwise`. Raises OSError, ValueError.
    """
    folder, name = os.path.split(path)
    ends = [one.removeprefix(f"{name}.") for one in os.listdir(folder) if one.startswith(f"{name}.")]
    epoch = max((int(end) for end in ends if end.isdecimal()), default=-1)
    with open(path if epoch < 0 else f"{path}.{epoch}", encoding="utf-8") as file:
        says: dict[str, Any] = json.load(file)
    return says, otherwise if epoch < 0 else epoch


def epoch_of(lease: str) -> int:
    with open(lease, encoding="utf-8") as file:
        return int(json.load(file)["epoch"])


def watched(worker: subprocess.Popen[bytes], owner: Owner) -> int:
    """The worker's exit code."""
    threading.Thread(target=owner.look, daemon=True).start()
    told = False
    while True:
        with suppress(subprocess.TimeoutExpired):
            return worker.wait(POLL_S)
        if clock_s() - owner.read_s > UNREAD_S:
            owner.lost = owner.lost or f"its folder could not be read for {UNREAD_S:.0f} s"
        if owner.lost:
            worker.kill()
        elif owner.asked and not told:
            told = True
            worker.send_signal(signal.SIGCONT)
            worker.terminate()


def end_others(mark: str) -> None:
    """What else the worker has started, until no more of it comes; what a disk holds up ends with that.

    Those of its group, and those with `mark` in their environment: torchrun gives each rank a session.
    """
    own = os.getpid()
    end_all(lambda pid: pid != own and group_of(pid) == own)
    if mark:
        end_all(lambda pid: pid != own and is_marked(pid, mark.encode()))


def end_all(is_one: Callable[[int], bool]) -> None:
    ended = set[int]()
    while others := {pid for pid in living() if pid not in ended and is_one(pid)}:
        for pid in others:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        ended |= others


def is_marked(pid: int, mark: bytes) -> bool:
    """Whether it was started with a variable that begins so: NAME=FOLDER/."""
    with suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        return any(line.startswith(mark) for line in file.read().split(b"\0"))
    return False


def living() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def group_of(pid: int) -> int:
    with suppress(OSError):
        return os.getpgid(pid)
    return 0


def clock_s() -> float:
    """It goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


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
