"""Which revision was fetched into a folder: a small file beside it."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ..artefact import write_durably

SHORTEST_COMMIT = 7  # characters from which a name may be the beginning of a commit, as in git


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Where the files came from. `commit` pins them, where the source knows commits."""

    model_id: str
    source: str
    revision: str | None  # as the user named it; None = the source's main one
    commit: str | None

    def is_of(self, revision: str) -> bool:
        """Is it that revision, as far as the record alone can show?"""
        begins = len(revision) >= SHORTEST_COMMIT and (self.commit or "").startswith(revision)
        return revision == self.revision or begins


def place_of(folder: Path) -> Path:
    """Beside the folder, not in it: the folder is the model and nothing else."""
    return folder.with_name(f".{folder.name}.pulled.json")


def write_record(folder: Path, record: Record) -> None:
    write_durably(place_of(folder), json.dumps(asdict(record), indent=1, sort_keys=True).encode() + b"\n")


def read_record(folder: Path) -> Record | None:
    """None where nothing was written, as by earlier versions."""
    with suppress(OSError, ValueError, TypeError):
        return Record(**json.loads(place_of(folder).read_bytes()))
    return None
