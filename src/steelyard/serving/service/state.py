"""Which processes serve, so that `status` and `stop` find them again.

service.json in a run's folder, and services/PID.json in the user's state folder for those of `serve`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from ...artefact import write_durably
from ...places import state_folder

FILE = "service.json"
LOG = "log.jsonl"  # beside it: the service's own
CANARY_LOG = "canary.log.jsonl"  # and that of a candidate which answers copies of its requests
STOP_S = 4.0  # after the drain, then by force: SIGTERM is to end a service within 5 s


def write_state(folder: Path, state: dict[str, Any], name: str = FILE) -> None:
    import psutil

    started = psutil.Process(os.getpid()).create_time()
    write_durably(folder / name, orjson.dumps({**state, "started_at": started}, option=orjson.OPT_INDENT_2))


def read_state(folder: Path, name: str = FILE) -> dict[str, Any] | None:
    """The service that a file names, None where it does not live any more."""
    state, alive = _written(folder, name)
    return state if alive else None


def forget_state(folder: Path, before: dict[str, Any] | None = None) -> None:
    """This process serves no longer; a successor's file stays. Who was killed leaves its file behind.

    `before`: of the service that stood here before this one and stands yet: it is the one to be found."""
    state, _ = _written(folder)
    if state and state["pid"] == os.getpid():
        with suppress(OSError):
            if before:
                return write_durably(folder / FILE, orjson.dumps(before, option=orjson.OPT_INDENT_2))
        _unlink(folder)


def died(folder: Path) -> dict[str, Any] | None:
    """What the file of a service says that ended without a word: killed, or its machine was."""
    state, alive = _written(folder)
    return None if alive else state


def bury(folder: Path) -> None:
    """Forget a service that has died: nobody wants it back."""
    if died(folder):
        _unlink(folder)


def _unlink(folder: Path) -> None:
    with suppress(OSError):
        (folder / FILE).unlink()


def _written(folder: Path, name: str = FILE) -> tuple[dict[str, Any] | None, bool]:
    """What the file of a service says, None where it says nothing, and whether that process lives."""
    with suppress(OSError, orjson.JSONDecodeError, KeyError, TypeError):
        state: dict[str, Any] = orjson.loads((folder / name).read_bytes())
        return state, lives(state["pid"], state["started_at"])
    return None, False


def lives(pid: int, started_at: float) -> bool:
    """Numbers of dead processes are given out again: the start time tells them apart."""
    import psutil

    with suppress(psutil.Error):
        process = psutil.Process(pid)
        same = abs(process.create_time() - started_at) < 1.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    return False


def registry() -> Path:
    """Where services in the foreground are noted: url, pid and what they serve, never a key."""
    return state_folder() / "services"


def register(url: str, source: str, control: str = "", drain_s: float = 1.0) -> None:
    """Note this process as a service; a read-only home must not forbid one."""
    with suppress(OSError):
        folder = registry()
        folder.mkdir(parents=True, exist_ok=True)
        state = {"url": url, "pid": os.getpid(), "source": source, "drain_s": drain_s, "control": control}
        write_state(folder, state, f"{os.getpid()}.json")


def forget() -> None:
    """This process serves no longer."""
    with suppress(OSError):
        (registry() / f"{os.getpid()}.json").unlink(missing_ok=True)


def services() -> list[dict[str, Any]]:
    """Those that live, oldest first: {"url", "pid", "source", "control", "started_at"}. Entries of the
    dead go."""
    found = []
    for file in registry().glob("*.json"):
        if state := read_state(file.parent, file.name):
            found.append(state)
        else:
            with suppress(OSError):
                file.unlink(missing_ok=True)
    return sorted(found, key=lambda state: state["started_at"])
