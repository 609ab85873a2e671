"""Engines' own copies of models, in the cache, and which model each was made from.

When rows are erased, or a job is deleted, copies of what learnt them go too. A note is a file beside the
copies, with the hash of the source.
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

from ..places import cache_folder


def copies_folder() -> Path:
    return cache_folder() / "served"


def notes_folder() -> Path:
    return cache_folder() / "served_of"


def note_copy(name: str, source: str) -> None:
    """The copy of that name is of the model with that hash; a cache that cannot be written is no end."""
    with suppress(OSError):
        note = notes_folder() / name
        if not note.exists():
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(source, "utf-8")


def noted_copies() -> list[tuple[Path, str]]:
    """(folder of a copy, hash of its source), by name; the folder may be gone."""
    notes = notes_folder()
    found = sorted(notes.iterdir()) if notes.is_dir() else []
    return [(copies_folder() / note.name, note.read_text("utf-8").strip()) for note in found]


def forget_copy(copy: Path) -> None:
    """Remove it, and then its note."""
    if copy.is_dir() and not copy.is_symlink():
        shutil.rmtree(copy, ignore_errors=True)
    else:
        copy.unlink(missing_ok=True)
    (notes_folder() / copy.name).unlink(missing_ok=True)


def forget_copies(folder: Path) -> None:
    """Those of the artefacts below a folder, which is about to go."""
    manifests = (json.loads(path.read_bytes()) for path in folder.rglob("manifest.json"))
    hashes = {manifest.get("hash") for manifest in manifests}
    for copy, source in noted_copies():
        if source in hashes:
            forget_copy(copy)
