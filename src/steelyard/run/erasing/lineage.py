"""Every artefact of this user's work folders, and what was made of what.

Damaged artefacts are passed by, never set aside: a look changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...artefact import Artefact
from ...errors import Problem, Where, WrongUse
from ...trust import keys_of
from ..known import entries
from ..record.lineage import descendants
from ..record.workdir import Workdir

DATASET = "dataset"
TRAINED = ("checkpoint", "healed", "requantised")  # by rows of a data set


@dataclass(frozen=True, slots=True)
class Work:
    """One work folder: its artefacts, and where its recipe lies ("" where no run has said so)."""

    place: Workdir
    name: str
    root: str
    recipe: str
    artefacts: tuple[Artefact, ...]
    closed: tuple[str, ...] = ()  # artefacts that these keys do not open

    @property
    def folder(self) -> Path:
        return self.place.folder

    def of_kind(self, kind: str) -> list[Artefact]:
        return [a for a in self.artefacts if a.kind == kind]


def works(workdir: Path | None = None) -> list[Work]:
    """Known work folders, or the one that is named. Raises WrongUse where that is none, Refused without its
    key."""
    if workdir is None:
        return [work_or_closed(entry) for entry in entries()]
    if not (workdir / "artefacts").is_dir():
        raise WrongUse(
            "data.no_work", f"{workdir} is no work folder", where=Where(str(workdir), field="--work"),
            hint="steelyard status lists the folders of runs",
        )  # fmt: skip
    known = entries(workdir)
    plain = {"workdir": str(workdir.absolute()), "name": workdir.name, "trust": ("open", None, "")}
    return [work_of(known[-1] if known else plain)]


def work_or_closed(entry: dict[str, Any]) -> Work:
    """One whose key is not at hand has no artefacts that can be read."""
    try:
        return work_of(entry)
    except Problem as problem:
        return Work(Workdir(Path(entry["workdir"])), entry["name"], "", "", (), (problem.message,))


def work_of(entry: dict[str, Any]) -> Work:
    root = entry["trust"][2]
    place = Workdir(Path(entry["workdir"]), keys_of(entry["trust"]))
    opened, closed = [], []
    for folder in published(place):
        try:
            opened.append(place.store.open(folder))
        except (Problem, OSError):
            closed.append(folder.name)
    return Work(place, entry["name"], root, entry.get("recipe", ""), tuple(opened), tuple(closed))


def published(place: Workdir) -> list[Path]:
    store = place.folder / "artefacts"
    folders = sorted(store.iterdir()) if store.is_dir() else []
    return [f for f in folders if f.is_dir() and not f.name.startswith(".")]


def unfinished(place: Workdir) -> list[Path]:
    """Drafts, scratch, what was damaged or half removed: of which nobody can say which rows it holds."""
    store = place.folder / "artefacts"
    return sorted(f for f in store.iterdir() if f.name.startswith(".")) if store.is_dir() else []


def settings_of(work: Work, dataset: Artefact) -> dict[str, Any] | None:
    """The settings that its cleaning had; None where nobody knows in which folder its paths begin."""
    return {**dataset.manifest["settings"], "root": work.root} if work.root else None


def made_of(hashes: Iterable[str], every: Iterable[Work]) -> list[tuple[Work, Artefact]]:
    """All that was made of these, over any number of steps and folders, in the order of the making."""
    pairs = [(work, a) for work in every for a in work.artefacts]
    work_of = {id(a): work for work, a in pairs}
    return [(work_of[id(a)], a) for a in descendants(hashes, [a for _, a in pairs])]


def of_hash(hash: str, every: Iterable[Work]) -> Artefact | None:
    return next((a for work in every for a in work.artefacts if a.hash == hash), None)


def read_text(artefact: Artefact, name: str) -> str:
    """A payload file; "" where it has none."""
    with suppress(OSError, Problem):
        return artefact.path(name).read_text(encoding="utf-8")
    return ""


def read_rows(artefact: Artefact, name: str) -> Iterator[dict[str, Any]]:
    """The lines of a payload file of JSONL, none where it has no such file. Texts may hold signs at which
    `str.splitlines` breaks a line, so bytes are split."""
    with suppress(OSError, Problem):
        yield from map(json.loads, artefact.path(name).read_bytes().splitlines())
