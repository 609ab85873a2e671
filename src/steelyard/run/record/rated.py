"""Rows of rated answers that a run's model learns beside those of its recipe, and where a refresh stands.

runs/NAME/feedback/   accepted.json       what the service's model has learnt
                      trying.json         what the refresh that is under way, or was stopped, learns
                      state.json          what the last refresh came to; no text
                      rated-ABILITY.jsonl the rows as a source of data; at `guarded` in memory alone

Texts of users: files of their owner alone, and sealed at `guarded`. Not here: which ratings count (data).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...artefact import named_private_folder, write_durably
from ...errors import CheckFailed, Where
from ...recipe import Recipe, Source
from .workdir import Workdir

FOLDER = "feedback"
ACCEPTED, TRYING, STATE = "accepted.json", "trying.json", "state.json"
SOURCES = "rated-*.jsonl"
NAMES = {"ability", "kind", "fields", "hash"}  # of a row
SHARE = 0.1  # of an ability whose sources have weights: what is drawn from ratings


def folder_of(place: Workdir) -> Path:
    return place.folder / FOLDER


def read_rated(place: Workdir, name: str) -> list[dict[str, Any]]:
    """{"ability", "kind", "fields", "hash"} each; none where nothing was written. Raises as `read` does."""
    rows = read(place, name).get("rows", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() >= NAMES for row in rows):
        raise unreadable(folder_of(place) / name)
    return rows


def read(place: Workdir, name: str) -> dict[str, Any]:
    """{} where nothing was written. Raises CheckFailed where it is damaged, Refused where it is sealed for
    another key: a run that went on without it would unlearn what raters have said."""
    path = folder_of(place) / name
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return {}
    try:
        return dict(json.loads(place.keys.open_bytes(text, name) if place.keys else text))
    except (ValueError, TypeError) as error:
        raise unreadable(path) from error


def unreadable(path: Path) -> CheckFailed:
    return CheckFailed(
        "refresh.damaged", f"{path} is damaged, or sealed", where=Where(str(path)),
        hint=f"rm {path}; then steelyard refresh RECIPE learns from the ratings anew",
    )  # fmt: skip


def write(place: Workdir, name: str, document: dict[str, Any]) -> None:
    folder = folder_of(place)
    folder.mkdir(mode=0o700, exist_ok=True)
    text = json.dumps(document, ensure_ascii=False).encode()
    write_durably(folder / name, place.keys.seal_bytes(text) if place.keys else text)
    (folder / name).chmod(0o600)


def write_rated(place: Workdir, name: str, rows: Sequence[dict[str, Any]]) -> None:
    write(place, name, {"v": 1, "rows": list(rows)})


def accept(place: Workdir) -> None:
    """What was tried is what the service's model has learnt."""
    folder = folder_of(place)
    if (folder / TRYING).exists():
        (folder / TRYING).replace(folder / ACCEPTED)


def drop_tried(place: Workdir) -> None:
    """Its rows as a source go too: the next run writes what it reads."""
    for path in (folder_of(place) / TRYING, *folder_of(place).glob(SOURCES)):
        path.unlink(missing_ok=True)


# ------------------------------------------------------------------ as sources of a run


@contextmanager
def with_rated(recipe: Recipe, place: Workdir, name: str = ACCEPTED) -> Iterator[Recipe]:
    """The recipe with a source an ability more; the recipe itself where it asks for no refresh."""
    rows = read_rated(place, name) if recipe.refresh else []
    rows = [row for row in rows if row["ability"] in recipe.abilities]
    if not rows:
        yield recipe
        return
    folder = readable(place)
    try:
        files = written(folder, rows)
        sources = tuple(source_of(recipe, ability, path) for ability, path in files.items())
        yield replace(recipe, data=(*recipe.data, *sources))
    finally:
        if place.keys:
            shutil.rmtree(folder, ignore_errors=True)


def readable(place: Workdir) -> Path:
    """Where a run reads the rows: the path is part of what a data set is made of, so it stays the same."""
    if place.keys:
        return named_private_folder(hashlib.sha256(str(place.folder).encode()).hexdigest()[:16])
    return folder_of(place)


def written(folder: Path, rows: Sequence[dict[str, Any]]) -> dict[str, Path]:
    """A file an ability, of its chats, pairs and labels."""
    files: dict[str, Path] = {}
    for ability in dict.fromkeys(row["ability"] for row in rows):
        path = folder / f"rated-{file_name(ability)}.jsonl"
        lines = [json.dumps(r["fields"], ensure_ascii=False) for r in rows if r["ability"] == ability]
        write_durably(path, "".join(f"{line}\n" for line in lines).encode())
        path.chmod(0o600)
        files[ability] = path
    return files


def file_name(ability: str) -> str:
    """Its own for each: a long one, or one with a slash, by its hash too."""
    if len(ability) <= 40 and "/" not in ability:
        return ability
    return f"{ability[:20].replace('/', '-')}-{hashlib.sha256(ability.encode()).hexdigest()[:16]}"


def source_of(recipe: Recipe, ability: str, path: Path) -> Source:
    weights = [source.weight for source in recipe.data if source.ability == ability]
    own = sum(1.0 if weight is None else weight for weight in weights)
    weight = own * SHARE / (1 - SHARE) if any(weight is not None for weight in weights) else None
    return Source(path=os.path.relpath(path, recipe.root) if inside(path, recipe.root) else str(path),
                  ability=ability, format="jsonl", weight=weight)  # fmt: skip


def inside(path: Path, root: Path) -> bool:
    return path.resolve().is_relative_to(root.resolve())


# ------------------------------------------------------------------ erased


def erase_rated(place: Workdir, hashes: Collection[str]) -> list[Path]:
    """Rows with these hashes go; the files that were changed. The next run writes anew what it reads.

    Raises Refused where they are sealed for another key.
    """
    folder = folder_of(place)
    changed = [folder / name for name in (ACCEPTED, TRYING) if erased_in(place, name, hashes)]
    for path in folder.glob(SOURCES):
        text = path.read_bytes()
        if any(hash.encode() in text for hash in hashes):  # it is in the id of its row
            path.unlink()
            changed.append(path)
    return changed


def erased_in(place: Workdir, name: str, hashes: Collection[str]) -> bool:
    try:
        rows = read_rated(place, name)
    except CheckFailed:  # damaged, and may hold one: a refresh learns from the ratings anew
        (folder_of(place) / name).unlink()
        return True
    left = [row for row in rows if row["hash"] not in hashes]
    if len(left) < len(rows):
        write_rated(place, name, left)
    return len(left) < len(rows)
