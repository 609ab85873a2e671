"""What no run, service or recipe refers to any more, and its removal.

A run refers to what run.json in its folder names: every artefact that it made or reused, refusals too, and
the scratch of a step that it can go on with, written down before the step begins. One that was cut off keeps
what the run before it referred to. A folder in which a run works is left alone. Of the cache, engines' copies
of models go unless a run needs them or a process has them open (a service holds its folders open for as long
as it lives); what was measured, counted and pulled stays.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import Lacking, Where, WrongUse
from ..places import cache_folder
from .known import entries, lock_holder
from .record.delete import delete
from .record.promotions import referred
from .record.workdir import Workdir, locked

YOUNG_S = 3600.0  # a folder in the making is left alone so long: its maker may be any process
KINDS = (".damaged-", ".draft-", ".scratch-", ".part-")


@dataclass(frozen=True, slots=True)
class Waste:
    """A folder that can go."""

    path: str
    kind: str  # of an artefact; damaged, draft, scratch; served, converted
    bytes: int
    why: str


@dataclass(frozen=True, slots=True)
class Spared:
    """A folder that stays although nothing refers to it, or that was not looked at."""

    path: str
    why: str


def collect(*, workdir: Path | None = None, dry_run: bool = False) -> dict[str, Any]:
    """{"removed": [...], "spared": [...], "bytes": n, "dry_run": bool}; with `workdir` that folder alone.

    `dry_run` lists the same and removes nothing. Never raises for a folder that cannot be removed: it is
    spared, with the reason.
    """
    removed: list[Waste] = []
    spared: list[Spared] = []
    for place in places(workdir):
        try:
            with held(place, dry_run):
                gone, stayed = remove(of_workdir(place), dry_run)
                removed += gone
                spared += stayed
        except (Lacking, OSError) as error:
            spared.append(Spared(str(place.folder), getattr(error, "message", str(error))))
    if workdir is None:
        gone, stayed = remove(of_cache(), dry_run)
        removed += gone
        spared += stayed
    return {
        "removed": [asdict(w) for w in removed],
        "spared": [asdict(s) for s in spared],
        "bytes": sum(w.bytes for w in removed),
        "dry_run": dry_run,
    }


@contextmanager
def held(place: Workdir, dry_run: bool) -> Iterator[None]:
    """Work alone in the folder. Raises Lacking where a run works there; a look takes no lock."""
    if not dry_run:
        with locked(place):
            yield
    elif (holder := lock_holder(place)) is not None:
        raise Lacking(
            "run.locked", f"process {holder} works in {place.folder}", where=Where(str(place.folder))
        )
    else:
        yield


def places(workdir: Path | None) -> list[Workdir]:
    """Work folders of known runs, or the one that was named."""
    if workdir is not None:
        if not workdir.is_dir():
            raise WrongUse(
                "gc.no_folder",
                f"there is no folder {workdir}",
                where=Where(field="--workdir"),
                hint="steelyard status lists the folders of runs",
            )
        return [Workdir(workdir.absolute())]
    return [Workdir(Path(entry["workdir"])) for entry in entries()]


def remove(waste: Iterable[Waste], dry_run: bool) -> tuple[list[Waste], list[Spared]]:
    """Largest first. What a process has open is spared."""
    removed, spared = [], []
    open_paths = paths_in_use()
    for one in sorted(waste, key=lambda w: (-w.bytes, w.path)):
        if any(path == one.path or path.startswith(f"{one.path}/") for path in open_paths):
            spared.append(Spared(one.path, "a process has it open"))
        elif (fault := None if dry_run else delete(Path(one.path))) is not None:
            spared.append(Spared(one.path, fault))
        else:
            removed.append(one)
    return removed, spared


# ------------------------------------------------------------------ one work folder


def of_workdir(place: Workdir) -> Iterator[Waste]:
    """What lies in a work folder and is not of its last run or its service."""
    referred, store = referred_of(place), place.folder / "artefacts"
    for folder in store.iterdir() if store.is_dir() else ():
        if folder.name not in referred and not folder.is_symlink():
            kind = next((k.strip(".-") for k in KINDS if folder.name.startswith(k)), None)
            why = {
                "damaged": "it was damaged and has been made anew",
                "draft": "a step that ended early was writing it",
                "part": "it was about to be removed",
                "scratch": "the run that could have gone on from it has changed",
            }.get(kind or "", "neither the last run, its service nor `rollback` refers to it")
            yield Waste(str(folder), kind or folder.name.rpartition("-")[0], size_of(folder), why)


def referred_of(place: Workdir) -> set[str]:
    """Folders that the last run, the live service and `rollback` refer to; of a run that was cut off those of
    the run before it too.

    Raises Lacking where no run has noted it."""
    run = read_json(place.refers)
    if run is None or not isinstance(run.get("artefacts"), list):
        raise Lacking("gc.unknown", "no run has noted yet what it refers to", where=Where(str(place.refers)))
    return {*run["artefacts"], *run.get("earlier", ())} | served_artefacts(place) | referred(place)


def served_artefacts(place: Workdir) -> set[str]:
    """Folders of artefacts that a live service of this folder may read again."""
    from ..serving import find

    service = find(place.service)
    if service is None:
        return set()
    state = read_json(place.service / "service.json") or {}
    names = {Path(str(value)).name for value in state.values() if isinstance(value, str)}
    store = place.folder / "artefacts"
    folders = list(store.iterdir()) if store.is_dir() else []
    return names | {f.name for f in folders if state.get("fingerprint") in hash_in(f)}


def hash_in(folder: Path) -> tuple[str, ...]:
    """The content hash in a plain manifest; none of a sealed one, whose engine reads a copy in memory."""
    manifest = read_json(folder / "manifest.json") or {}
    return (str(manifest["hash"]),) if "hash" in manifest else ()


def size_of(path: Path) -> int:
    """Bytes of all files below; what cannot be read counts nothing."""
    total = 0
    for folder, _, files in os.walk(path) if path.is_dir() else [(path.parent, (), (path.name,))]:
        for name in files:
            with suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def read_json(path: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        value = json.loads(path.read_text(encoding="utf-8"))
        return value if isinstance(value, dict) else None
    return None


# ------------------------------------------------------------------ the cache


def of_cache() -> Iterator[Waste]:
    """Engines' copies of models and conversions of GGUF files that no run needs."""
    cache = cache_folder()
    runs = [run for place in places(None) if (run := read_json(place.refers)) is not None]
    working = any(lock_holder(place) for place in places(None))  # it may just have made what it needs
    needed = {str(name) for run in runs for name in run.get("cached", ())}
    needed |= {name for place in places(None) for name in referred(place)}
    for part, why in PARTS.items():
        folder = cache / part
        for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
            in_the_making = young(entry) and (working or entry.name.startswith("."))
            if entry.name not in needed and not in_the_making:
                yield Waste(str(entry), part, size_of(entry), why)


PARTS = {
    "served": "no run needs this engine's copy; `serve` makes it again",
    "converted": "no run was made from this conversion; `up` makes it again",
}


def young(path: Path) -> bool:
    with suppress(OSError):
        return time.time() - path.stat().st_mtime < YOUNG_S
    return True


# ------------------------------------------------------------------ what is in use


def paths_in_use() -> set[str]:
    """Files and folders that some process has open, mapped, or named on its command line (Linux)."""
    paths: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            paths |= {os.fsdecode(word) for word in words if word.startswith(b"/")}
        with suppress(OSError):
            lines = (process / "maps").read_text("utf-8", "replace").splitlines()
            paths |= {line[line.index("/") :] for line in lines if "/" in line}
        with suppress(OSError):
            paths |= {os.readlink(fd) for fd in (process / "fd").iterdir()}
    return paths
