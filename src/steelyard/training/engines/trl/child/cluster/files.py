"""Files from machine to machine: by hash, in pieces, each at its place."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

from ..checkpoints import sha256_of

PIECE_BYTES = 16 * 2**20  # a slow network carries one within a heartbeat
MODEL = (".safetensors", ".json", ".jinja", ".model", ".txt")  # of a model's folder, what training reads


def listing(folder: Path, endings: tuple[str, ...] = ()) -> dict[str, str]:
    """SHA-256 by name of the files below a folder, of those with these endings; hidden ones are left out."""
    files = (f for f in sorted(folder.rglob("*")) if f.is_file())
    names = (f for f in files if not any(part.startswith(".") for part in f.relative_to(folder).parts))
    return {
        str(f.relative_to(folder)): sha256_of(f) for f in names if not endings or f.name.endswith(endings)
    }


def digest_of(hashes: Mapping[str, str]) -> str:
    """Of a whole folder: equal for equal names and bytes."""
    return sha256("\n".join(f"{hashes[name]} {name}" for name in sorted(hashes)).encode()).hexdigest()[:16]


def lacking(folder: Path, hashes: Mapping[str, str]) -> list[str]:
    """Names that are not below the folder with these bytes."""
    return [n for n, h in hashes.items() if not (folder / n).is_file() or sha256_of(folder / n) != h]


def pieces(path: Path) -> Iterator[tuple[int, bytes]]:
    """(its place, its bytes), one at least: an empty file is a file too."""
    at, size = 0, path.stat().st_size
    while True:
        yield at, read(path, at)
        at += PIECE_BYTES
        if at >= size:
            return


def read(path: Path, at: int) -> bytes:
    with path.open("rb") as file:
        file.seek(at)
        return file.read(PIECE_BYTES)


def write(path: Path, at: int, piece: bytes) -> None:
    """The first piece begins the file anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if at else "wb") as file:
        file.seek(at)
        file.write(piece)
        file.flush()
        os.fsync(file.fileno())
