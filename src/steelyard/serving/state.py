"""service.json in a run's folder: which process serves, so that `status` and `stop` find it again."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from ..artefact import write_durably

FILE = "service.json"


def write_state(folder: Path, state: dict[str, Any]) -> None:
    import psutil

    started = psutil.Process(os.getpid()).create_time()
    write_durably(folder / FILE, orjson.dumps({**state, "started_at": started}, option=orjson.OPT_INDENT_2))


def read_state(folder: Path) -> dict[str, Any] | None:
    """The service that this folder's file names, None where it does not live any more."""
    with suppress(OSError, orjson.JSONDecodeError):
        state = orjson.loads((folder / FILE).read_bytes())
        return state if lives(state["pid"], state["started_at"]) else None
    return None


def lives(pid: int, started_at: float) -> bool:
    """Numbers of dead processes are given out again: the start time tells them apart."""
    import psutil

    with suppress(psutil.Error):
        process = psutil.Process(pid)
        same = abs(process.create_time() - started_at) < 1.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    return False
