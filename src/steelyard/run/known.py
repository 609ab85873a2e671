"""Runs of this user: which folders there are, what lives in them, their events, and how to end them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..artefact import Watch, write_durably
from ..errors import Where, WrongUse
from ..places import state_folder
from ..recipe import Recipe
from ..trust import keys_of, read_log
from .record.workdir import Workdir, trust_of
from .service.canary import canary_of, end_canary

POLL_S = 0.5
STOP_S = 30.0  # a run stops after its next safe point


def registry() -> Path:
    return state_folder() / "runs"


def remember(workdir: Workdir, run: str, recipe: Recipe, watch: Watch) -> None:
    """Note where a run lives, so that `status`, `logs`, `stop` and `gc` find it from anywhere."""
    folder = str(workdir.folder)
    entry = {"workdir": folder, "run": run, "name": recipe.name, "trust": trust_of(recipe)}
    entry["recipe"] = str(recipe.path.absolute()) if recipe.path else ""
    file = registry() / f"{hashlib.sha256(folder.encode()).hexdigest()[:16]}.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_durably(file, json.dumps(entry, ensure_ascii=False).encode())
    except OSError as error:  # a read-only home must not forbid a run
        watch.log("run.not_remembered", why=str(error))


def exports_folder() -> Path:
    """Notes of what left: an export lies wherever the user wanted it."""
    return state_folder() / "exports"


def note_export(folder: Path, hash: str, to: str) -> None:
    """So that `data trace` finds it; a read-only home must not forbid an export."""
    entry = {"folder": str(folder.absolute()), "hash": hash, "to": to}
    name = hashlib.sha256(entry["folder"].encode()).hexdigest()[:16]
    with suppress(OSError):
        exports_folder().mkdir(parents=True, exist_ok=True)
        write_durably(exports_folder() / f"{name}.json", json.dumps(entry, ensure_ascii=False).encode())


def exports() -> list[dict[str, Any]]:
    """{"folder", "hash", "to"} of those that are still there."""
    found = []
    for file in sorted(exports_folder().glob("*.json")):
        with suppress(OSError, ValueError, TypeError, KeyError):
            entry = json.loads(file.read_text(encoding="utf-8"))
            entry = {name: str(entry[name]) for name in ("folder", "hash", "to")}
            if Path(entry["folder"]).exists():
                found.append(entry)
    return found


def entries(workdir: Path | None = None) -> list[dict[str, Any]]:
    """Known runs whose folder is still there, oldest first; only that of `workdir` where it is given."""
    runs = []
    for file in sorted(registry().glob("*.json"), key=modified):
        entry = read_entry(file)
        if entry is None or not Path(entry["workdir"]).is_dir():
            with suppress(OSError):
                file.unlink(missing_ok=True)
        elif workdir is None or Path(entry["workdir"]) == workdir.absolute():
            runs.append(entry)
    return runs


def modified(file: Path) -> float:
    with suppress(OSError):
        return file.stat().st_mtime
    return 0.0


def read_entry(file: Path) -> dict[str, Any] | None:
    """One line of the registry; None where it is damaged or just removed."""
    with suppress(OSError, ValueError):
        entry = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(entry, dict) and {"workdir", "run", "name", "trust"} <= set(entry):
            return entry
    return None


def status(workdir: Path | None = None) -> list[dict[str, Any]]:
    """One entry a known run: {"run", "name", "state": running|serving|dead|stopped, "service", "workdir"}.

    dead: its service ended without being told to; `up` brings it back.
    """
    return [described(entry) for entry in entries(workdir)]


def service_sockets() -> list[str]:
    """Where the services of this user on this machine say whether they have work."""
    from ..serving import find, services

    published = [find(Workdir(Path(entry["workdir"])).service) for entry in entries()]
    started = [service.get("control", "") for service in services()]
    return [*(service.control for service in published if service), *filter(None, started)]


def described(entry: dict[str, Any]) -> dict[str, Any]:
    from ..serving import died, find

    place = Workdir(Path(entry["workdir"]))
    service, holder = find(place.service), lock_holder(place)
    address = {"url": service.url, "pid": service.pid} if service else None
    state = "running" if holder else "serving" if service else "dead" if died(place.service) else "stopped"
    described = {k: entry[k] for k in ("run", "name", "workdir")}
    described |= {"state": state, "service": address, "pid": holder}
    if candidate := canary_of(place):
        described["canary"] = {"pid": candidate.pid, "hash": candidate.fingerprint}
    return described


def lock_holder(place: Workdir) -> int | None:
    """The process that works in the folder now, if one does."""
    with suppress(OSError, ValueError), (place.folder / ".lock").open("r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(file.read())
    return None


def chosen(name: str | None, workdir: Path | None) -> dict[str, Any]:
    """The run of that id, recipe name or folder; without a name the newest. Raises WrongUse."""
    runs = entries(workdir)
    wanted = [e for e in runs if name in (None, e["run"], e["name"], e["workdir"])]
    if not wanted:
        names = ", ".join(e["run"] for e in runs) or "none"
        raise WrongUse(
            "run.unknown",
            f"there is no run {name!r}" if name else "there is no run yet",
            where=Where(field="RUN"),
            hint=f"known runs: {names}; see steelyard status",
        )
    return wanted[-1]


def stop(name: str, *, workdir: Path | None = None, now: bool = False) -> dict[str, Any]:
    """End the run (after its next safe point) and the service of that name. Raises WrongUse.

    `now`: the service does not wait for the requests under way.
    """
    from ..serving import bury, find

    entry = chosen(name, workdir)
    place = Workdir(Path(entry["workdir"]))
    holder, service = lock_holder(place), find(place.service)
    if holder:
        os.kill(holder, signal.SIGTERM)
        end = time.monotonic() + STOP_S
        while lock_holder(place) and time.monotonic() < end:
            time.sleep(0.1)
    end_canary(place, Watch())
    if service:
        service.stop(now=now)
    if older := find(place.service):  # one was about to take its place
        older.stop(now=now)
    bury(place.service)
    return {"run": entry["run"], "process": holder, "service": service.pid if service else None}


def logs(
    name: str | None = None, *, workdir: Path | None = None, follow: bool = False
) -> Iterator[dict[str, Any]]:
    """Events of a run, oldest first; with `follow` it goes on as they come."""
    entry = chosen(name, workdir)
    place = Workdir(Path(entry["workdir"]), keys_of(entry["trust"]))
    shown = 0
    while True:
        lines = list(read_log(place.log, place.keys))
        yield from (json.loads(line) for line in lines[shown:])
        shown = len(lines)
        if not follow:
            return
        time.sleep(POLL_S)
