"""The files below a folder, as OMS lists them: regular files alone, each by its path and its hash.

A link is not followed, and neither is anything else that is no file: both are named. Files are hashed side by
side; each is opened once, without following a link that took its place meanwhile.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PIECE_BYTES = 1 << 20
GIT = (".git", ".gitattributes", ".github", ".gitignore")  # OMS leaves these out at the top of a folder
New = Callable[[], Any]  # an empty hash
HASHES: dict[str, New] = {"sha256": hashlib.sha256, "blake2b": hashlib.blake2b}


@dataclass(frozen=True, slots=True)
class Tree:
    """Paths with `/`, sorted by code point. `strange`: links, devices, names that are no UTF-8."""

    root: Path
    files: tuple[str, ...]
    strange: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Digest:
    name: str
    hex: str


def tree_of(root: Path, ignored: Collection[str] = ()) -> Tree:
    """What lies below `root`, or `root` alone where it is a file. `ignored`: paths with all below them."""
    if not root.is_dir():
        return Tree(root.parent, (root.name,))
    files: list[str] = []
    strange: list[str] = []
    waiting = [""]
    while waiting:
        above = waiting.pop()
        for entry in os.scandir(root / above):
            name = f"{above}/{entry.name}" if above else entry.name
            if name in ignored:
                continue
            if not is_text(name):
                strange.append(os.fsencode(name).decode("utf-8", "backslashreplace"))
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(name)
            else:
                (files if entry.is_file(follow_symlinks=False) else strange).append(name)
    return Tree(root, tuple(sorted(files)), tuple(sorted(strange)))


def is_text(name: str) -> bool:
    """Python shows bytes that are no UTF-8 as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def digests(
    tree: Tree, algorithm: str = "sha256", shard_bytes: int | None = None, workers: int | None = None
) -> list[Digest]:
    """Of each file, or of each shard of it under PATH:START:END, in the tree's order. Raises OSError."""
    new = HASHES[algorithm]
    pieces = [piece for name in tree.files for piece in pieces_of(tree.root, name, shard_bytes)]
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:  # hashing lets go of the GIL
        hexes = pool.map(lambda piece: hash_of_piece(tree.root / piece[1], piece[2], piece[3], new), pieces)
        return [Digest(piece[0], value) for piece, value in zip(pieces, hexes, strict=True)]


Piece = tuple[str, str, int, int | None]  # its name, its file, from, to (None: the end)


def pieces_of(root: Path, name: str, shard_bytes: int | None) -> Sequence[Piece]:
    if shard_bytes is None:
        return [(name, name, 0, None)]
    size = (root / name).lstat().st_size
    ends = [(start, min(start + shard_bytes, size)) for start in range(0, size, shard_bytes)]
    return [(f"{name}:{start}:{end}", name, start, end) for start, end in ends]


def hash_of_piece(path: Path, start: int, end: int | None, new: New) -> str:
    """Raises OSError, also where a link or a device took the file's place."""
    digest, buffer = new(), bytearray(PIECE_BYTES)
    view = memoryview(buffer)
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(22, "no regular file", str(path))
        file.seek(start)
        left = -1 if end is None else end - start
        while left and (size := file.readinto(view[: PIECE_BYTES if left < 0 else min(left, PIECE_BYTES)])):
            digest.update(view[:size])
            left -= size if left > 0 else 0
    return digest.hexdigest()
