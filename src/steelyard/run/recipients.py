"""Who opens a run: the recipe's recipients, put into the header of every sealed file of its work folder.

The payloads stay. What somebody has copied, header or content, is not taken back by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import Refused, Where, WrongUse
from ..recipe import Recipe
from ..trust import is_sealed
from .record.workdir import Workdir, locked, opened


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """`keys`: ids of those who open it now. `closed`: files that one's own key does not open, as before."""

    files: tuple[Path, ...]
    closed: tuple[Path, ...]
    keys: tuple[str, ...]


def rewrap_run(recipe: Recipe, workdir: Path | None = None) -> Rewrapped:
    """From now on the key of the recipe and its recipients open the run, nobody else. Killed, run it again.

    Raises WrongUse (trust is open, a recipient that is not there), Lacking where the run is under way.
    """
    place = opened(recipe, workdir)
    if place.keys is None:
        raise WrongUse(
            "trust.open_run",
            "nothing of this run is sealed: trust is open",
            where=Where(str(recipe.path), field="trust"),
            hint="trust: {level: guarded, recipients: [...]}",
        )
    files, closed = [], []
    with locked(place):
        for path in sealed_files(place):
            try:
                place.keys.rotate(path, place.keys.recipients)
                files.append(path)
            except Refused:  # of another key
                closed.append(path)
    return Rewrapped(tuple(files), tuple(closed), tuple(r.key_id.hex() for r in place.keys.recipients))


def sealed_files(place: Workdir) -> Iterator[Path]:
    """Artefacts, resume points and the log; the service's own store and log are sealed for its key alone."""
    below = place.store.folder
    everything = sorted(below.rglob("*")) if below.is_dir() else []
    yield from (path for path in (*everything, place.log) if path.is_file() and is_sealed(path))
