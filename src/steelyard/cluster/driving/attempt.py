"""One attempt at a job: started, found again by a later driver, asked to end, and how it ended.

Its folder: order.json, keeper.json, worker.json, report.jsonl, output, errors, exit.json.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ...artefact import write_durably
from ...processes import JOB, REPORT, family
from . import keeper

KILL_AFTER_S = 5.0  # what has not ended so long after its time to save is killed
TAIL_BYTES = 16_384
KILLED = 128 + signal.SIGKILL
UNBEGUN = (keeper.FENCED, keeper.NO_LOCK)


@dataclass(slots=True)
class Attempt:
    """`seq`: of the decision that began it. `end_s`: when it is killed, once it has been asked to end."""

    job: str
    seq: int
    folder: Path
    devices: tuple[int, ...]
    keeper_pid: int
    keeper_started: str
    child: subprocess.Popen[bytes] | None = None  # None: an earlier driver's
    end_s: float | None = None
    held: list[int] = field(default_factory=list)  # processes that stand still for a probe of their device
    ahead_s: float | None = 0.0  # how far our monotonic clock is ahead of its machine's

    @property
    def report(self) -> Path:
        return self.folder / "report.jsonl"

    def alive(self) -> bool:
        if self.child is not None:
            return self.child.poll() is None
        # Without a mark it never began: no process, and signals to process 0 would be to our own group.
        return bool(self.keeper_started) and started_at(self.keeper_pid) == self.keeper_started

    def processes(self) -> list[int]:
        return family([self.keeper_pid]) if self.alive() else []

    def ask_to_end(self) -> None:
        """SIGTERM to the worker: its children are its own affair. First it is let go on."""
        self.let_go_on()
        with suppress(OSError, ValueError, KeyError):
            os.kill(json.loads((self.folder / "worker.json").read_text())["pid"], signal.SIGTERM)

    def let_go_on(self) -> None:
        _signal(self.processes(), signal.SIGCONT)

    def ask_for_stacks(self) -> None:
        """SIGUSR1 to those of its processes that heed it: another would die of it, and take them along."""
        for pid in self.processes():
            if heeds(pid, signal.SIGUSR1):
                with suppress(OSError):
                    os.kill(pid, signal.SIGUSR1)

    def is_stopped(self) -> bool:
        """Whether a signal holds one of its processes."""
        return any(process_state(pid) == "T" for pid in self.processes())

    def hold(self) -> None:
        """It stands still: a probe beside it would measure it too."""
        if not self.held:
            self.held = [pid for pid in self.processes() if process_state(pid) != "T"]
            _signal(self.held, signal.SIGSTOP)

    def release(self) -> None:
        _signal(self.held, signal.SIGCONT)
        self.held = []

    def kill(self) -> None:
        """The keeper first: nothing else of it can begin then; then what has a session of its own."""
        if self.alive():
            with suppress(ProcessLookupError):
                os.killpg(self.keeper_pid, signal.SIGKILL)
        mark = f"{REPORT}={self.folder}/".encode()
        keeper.end_all(lambda pid: keeper.is_marked(pid, mark))

    def exit(self) -> tuple[int, str]:
        """Exit code and last words, once it is not alive."""
        elsewhere = self.keeper_started and not self.keeper_started.startswith(boot())
        if elsewhere and not (self.folder / "exit.json").exists():
            return KILLED, "heartbeat lost: the machine was started again"
        return exit_of(self.folder)


def exit_of(folder: Path) -> tuple[int, str]:
    """Exit code and last words, as the keeper has noted them; without a note it was killed."""
    document: dict[str, Any] = {"code": KILLED, "oom_kills": 0, "why": ""}
    with suppress(OSError, ValueError, TypeError):
        document |= json.loads((folder / "exit.json").read_text())
    code = int(document["code"])
    if document["why"]:
        return code, document["why"]
    if code == KILLED:
        return code, "oom_kill" if document["oom_kills"] else ""
    return code, last_words(tail(folder / "output"), tail(folder / "errors")) if code else ""


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(OSError):
            os.kill(pid, number)


def started_at(pid: int) -> str:
    """When a process began: its boot, and the kernel's count. Empty where there is none, or only a zombie."""
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else f"{boot()}:{fields[19]}"
    return ""


def heeds(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for this signal."""
    with suppress(OSError, StopIteration, ValueError):
        lines = Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines()
        caught = next(line.split()[1] for line in lines if line.startswith("SigCgt:"))
        return bool(int(caught, 16) >> (number - 1) & 1)
    return False


@cache
def boot() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return ""


def process_state(pid: int) -> str:
    """R, S, D, T, ... as in proc(5)."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[0]
    return ""


def begin(
    job: str, seq: int, epoch: int, places: Mapping[str, Path], command: tuple[str, ...],
    devices: tuple[int, ...], more: Mapping[str, str], idle: bool = False,
) -> Attempt:  # fmt: skip
    """Start the keeper of a new attempt. `places`: folder, lock, lease, cwd; owner, where machines share it.

    `idle`: it gets a core only while nobody else wants it. Raises OSError.
    """
    folder = places["folder"]
    folder.mkdir(parents=True, exist_ok=True)
    own = {REPORT: str(folder / "report.jsonl"), JOB: job}
    order: dict[str, Any] = {name: str(path) for name, path in places.items() if name != "folder"}
    order |= {"epoch": epoch, "command": list(command), "idle": idle, "mark": f"{REPORT}={folder.parent}/"}
    write_durably(folder / "order.json", json.dumps(order).encode())
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", keeper.__file__, str(folder / "order.json")],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True, env={**os.environ, **own, **dict(more)},
    )  # fmt: skip
    started = started_at(child.pid)
    noted = {"pid": child.pid, "started": started, "devices": list(devices)}
    write_durably(folder / "keeper.json", json.dumps(noted).encode())
    return Attempt(job, seq, folder, devices, child.pid, started, child)


def find(job: str, seq: int, folder: Path, devices: tuple[int, ...]) -> Attempt | None:
    """An attempt of an earlier driver; None where that driver died before it began it."""
    if not (folder / "order.json").exists():
        return None
    try:
        noted = json.loads((folder / "keeper.json").read_text())
    except (
        OSError,
        ValueError,
    ):  # the driver died between the start and the note: the keeper can be asked for
        pid = keeper_of(folder)
        noted = {"pid": pid, "started": started_at(pid)}
    return Attempt(job, seq, folder, devices, noted["pid"], noted["started"])


def keeper_of(folder: Path) -> int:
    """The process that has this order on its command line; 0 where there is none."""
    order = str(folder / "order.json").encode()
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if order in process.read_bytes().split(b"\0"):
                return int(process.parent.name)
    return 0


def tail(path: Path) -> str:
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return file.read().decode("utf-8", "replace")
    return ""


def last_words(output: str, errors: str) -> str:
    """What an end has to say, equal for equal ends: the error document, else the last line; numbers of four
    digits and more, which differ from time to time, as #."""
    document = _error_of(output)
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    words = document or (lines[-1] if lines else "")
    if not document and "Traceback (most recent call last)" in errors:
        words = f"Traceback (most recent call last): {words}"
    return re.sub(r"0x[0-9a-fA-F]+|\d{4,}", "#", words)[:400]


def _error_of(output: str) -> str:
    for line in reversed(output.splitlines()):
        with suppress(ValueError, TypeError, KeyError):
            error = json.loads(line)["error"]
            return f"{error['code']}: {error['message']}"
    return ""
