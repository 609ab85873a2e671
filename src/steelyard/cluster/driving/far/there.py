"""What the driver asks of one node: runs there, in a process that an actor of Ray holds.

Attempts outlive this process: their keepers are in sessions of their own, and the next one finds them again
by their folders. Answers are plain data.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..attempt import Attempt, begin, find
from ..keeper import epoch_of
from ..place import ProbeHere, start_probe

CALL = "cluster:run_jobs"  # the code that has to be equal
ATTEMPTS: dict[str, Attempt] = {}
PROBES: dict[int, ProbeHere] = {}


def answer(asked: tuple[str, tuple[Any, ...]]) -> Any:
    name, words = asked
    return OPS[name](*words)


def sees(word_file: str, word: str, lock_file: str, cwds: list[str]) -> str:
    """Empty, or in words what this node does not share with the driver."""
    try:
        if Path(word_file).read_text() != word:
            return f"another folder is at {Path(word_file).parent}"
        lock = os.open(lock_file, os.O_RDWR)
    except OSError as error:
        return f"{error.strerror}: {error.filename}"
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return "its file system does not show the locks of other machines"
    except BlockingIOError:
        pass  # the driver's lock holds here too
    except OSError as error:
        return f"its file system has no locks: {error.strerror}"
    finally:
        os.close(lock)
    return next((f"there is no folder {cwd}" for cwd in cwds if not Path(cwd).is_dir()), "")


def started(
    job: str, seq: int, epoch: int, places: dict[str, str], command: tuple[str, ...],
    devices: tuple[int, ...], more: dict[str, str], idle: bool, python: str,
) -> None:  # fmt: skip
    """`python`: the driver's, for which this machine's own stands in. Raises OSError."""
    words = tuple(sys.executable if word == python else word for word in command)
    paths = {name: Path(path) for name, path in places.items()}
    ATTEMPTS[places["folder"]] = begin(job, seq, epoch, paths, words, devices, more, idle)


def look(folders: list[str], probes: list[int]) -> dict[str, Any]:
    """How these stand: clock, attempts, answers of probes."""
    for folder in [folder for folder in ATTEMPTS if folder not in folders]:
        del ATTEMPTS[folder]
    found = {folder: _state(folder) for folder in folders}
    over = {number: PROBES.pop(number).said() for number in probes if _has_answered(number)}
    return {"mono": time.monotonic(), "attempts": found, "probes": over}


def _state(folder: str) -> dict[str, Any]:
    attempt = _attempt(folder)
    if attempt is None:
        return {"alive": False, "stopped": False, "exit": (1, "heartbeat lost: it never began")}
    alive = attempt.alive()
    stopped = alive and not attempt.held and attempt.is_stopped()
    return {"alive": alive, "stopped": stopped, "exit": None if alive else attempt.exit()}


def _attempt(folder: str) -> Attempt | None:
    if folder not in ATTEMPTS:
        attempt = find("", -1, Path(folder), ())
        if attempt is None:
            return None
        ATTEMPTS[folder] = attempt
    return ATTEMPTS[folder]


def act(folder: str, what: str, epoch: int) -> None:
    """An order of a driver whose lease is over is refused; it may still let go on what it has held."""
    attempt = _attempt(folder)
    if attempt is not None and (what in ("let_go_on", "release") or not _is_over(folder, epoch)):
        ACTS[what](attempt)


def _is_over(folder: str, epoch: int) -> bool:
    with suppress(OSError, ValueError, KeyError):
        return epoch_of(json.loads(Path(folder, "order.json").read_text())["lease"]) > epoch
    return False


def begin_probe(number: int, by: tuple[str, ...], folder: str) -> None:
    with suppress(OSError):  # then it has no answer
        PROBES[number] = ProbeHere(start_probe(by, Path(folder)))


def end_probe(number: int) -> None:
    if number in PROBES:
        PROBES.pop(number).kill()


def _has_answered(number: int) -> bool:
    return number in PROBES and PROBES[number].over()


ACTS = {
    "let_go_on": Attempt.let_go_on, "ask_for_stacks": Attempt.ask_for_stacks, "kill": Attempt.kill,
    "hold": Attempt.hold, "release": Attempt.release,
}  # fmt: skip
OPS: dict[str, Any] = {
    "sees": sees, "begin": started, "look": look, "act": act, "probe": begin_probe, "end_probe": end_probe,
}  # fmt: skip
