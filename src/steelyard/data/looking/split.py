"""Rows divided into train, validation and test: what is nearly the same never stands on two sides.

The side of a group follows from the seed and its content, so the order of the rows, the files they lie in and
the number of workers change nothing. Lines are written in their order. Files have a temporary name until all
are whole, and split.json, which says so, is last.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson

from ...artefact import Watch, write_durably
from ...errors import Where, WrongUse
from ...trust import disk_problem, sync_folder
from ..account import FileAccount
from ..clean_files import (
    DROPPED,
    Block,
    blocks,
    body_of,
    durable,
    given_id,
    inputs_of,
    mapper,
    stop_if_asked,
)
from ..reading.sources import Source
from ..row import Row, digest, prompt_key
from ..whole import GrowingRagged, Ragged, asked_shingles, groups_of
from .sets import KINDS, SPLIT, cleaned_at, with_ability

PARTS = ("train", "validation", "test")
NEAR = 0.5  # Jaccard index of the questions, as cleaning has it


@dataclass(frozen=True, slots=True)
class Piece:
    """The rows of a block: what the division must know of each, and its line."""

    lines: list[bytes]
    keys: list[bytes]  # 16 bytes of the question, 16 of all texts
    abilities: list[str]
    shingles: Ragged
    unreadable: int


@dataclass(slots=True)
class Rows:
    """All rows that can be read, in their order."""

    folder: Path
    keys: list[bytes] = field(default_factory=list)
    ability: array[int] = field(default_factory=lambda: array("i"))
    names: dict[str, int] = field(default_factory=dict)  # of abilities
    shingles: GrowingRagged | None = None
    unreadable: int = 0

    def add(self, piece: Piece) -> None:
        if self.shingles is None:
            self.shingles = GrowingRagged.of(np.uint64, self.folder)
        self.keys += piece.keys
        self.ability.extend(self.names.setdefault(name, len(self.names)) for name in piece.abilities)
        self.shingles.append(piece.shingles)
        self.unreadable += piece.unreadable


def split_set(
    path: Path,
    output: Path,
    shares: Mapping[str, float],
    seed: int = 0,
    near: float | None = NEAR,
    workers: int = 1,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Divide the rows of a file, a folder or a cleaned set into `output`; returns the account in split.json.

    `shares`: of each part, in all 1. `near` None: only equal questions stay together. Rows that cannot be
    read are left out and counted. Raises WrongUse where there are none, or where a part would stay empty.
    """
    source = Source(path=str(path), kinds=KINDS)
    files = [FileAccount(name, source.ability, p) for p, name in rows_of(path, output)]
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output) as held:
            rows = Rows(output)
            with mapper(workers) as map_blocks:
                for _, piece in map_blocks(read_piece, blocks(files, source)):
                    stop_if_asked(watch)
                    rows.add(piece)
                    held.writelines(piece.lines)
            groups = groups_at(rows, near)
            sides = sides_of(rows, groups, shares, seed)
            refuse_empty_part(sides, shares, path)
            held.seek(0)
            write_parts(held, sides, tuple(shares), output)
        account = account_of(rows, groups, sides, shares) | {"seed": seed, "near": near}
        write_durably(output / SPLIT, orjson.dumps(account, option=orjson.OPT_INDENT_2))
    except OSError as e:
        raise disk_problem(e, Path(e.filename or output)) from e
    return account


def rows_of(path: Path, output: Path) -> list[tuple[Path, str]]:
    """Files of rows; of a cleaned set those that stayed. Raises WrongUse."""
    files = inputs_of(path, output)
    if (path / DROPPED).is_file():
        return [(p, name) for name, p in cleaned_at(path, None).parts]
    return files


def read_piece(block: Block) -> Piece:
    """Pure; runs in a worker."""
    items = [
        (block.reader.row(line, fields, str(given_id(fields))), given_id(fields))
        for line, fields in block.records
    ]
    rows = [(with_ability(row), own) for row, own in items if isinstance(row, Row)]
    return Piece(
        lines=[body_of(row, own if own != "" else None) for row, own in rows],
        keys=[prompt_key(row) + digest(*row.parts) for row, _ in rows],
        abilities=[row.ability for row, _ in rows],
        shingles=asked_shingles([row for row, _ in rows]),
        unreadable=len(items) - len(rows),
    )


def groups_at(rows: Rows, near: float | None) -> list[int]:
    if rows.shingles is None:
        return []
    return groups_of(rows.keys, rows.shingles, near)


# ------------------------------------------------------------------ which side


def sides_of(rows: Rows, groups: Sequence[int], shares: Mapping[str, float], seed: int) -> list[str]:
    """The part of each row. Each ability is divided alike; the first part takes the rest."""
    first, *others = shares
    side_of: dict[int, str] = {}
    for name in sorted(rows.names):
        number = rows.names[name]
        mine = Counter(
            group for group, ability in zip(groups, rows.ability, strict=True) if ability == number
        )
        order = sorted(mine, key=lambda group: drawn(seed, rows.keys[group]))
        for part in others:
            fill(part, order, mine, round(shares[part] * mine.total()), side_of)
        for group in order:
            side_of.setdefault(group, first)
    return [side_of[group] for group in groups]


def fill(
    part: str, order: Iterable[int], rows: Mapping[int, int], wanted: int, side_of: dict[int, str]
) -> None:
    """Whole groups until `wanted` rows are there; one that is too large is passed over."""
    count = sum(n for group, n in rows.items() if side_of.get(group) == part)
    for group in order:
        if group not in side_of and count + rows[group] <= wanted:
            side_of[group] = part
            count += rows[group]


def drawn(seed: int, key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=16, key=str(seed).encode()).digest()


def refuse_empty_part(sides: Sequence[str], shares: Mapping[str, float], path: Path) -> None:
    at = Where(str(path), field="SET")
    if not sides:
        raise WrongUse(
            "data.empty", f"{path.name} has no rows that can be read", where=at,
            hint="name a file or folder with rows",
        )  # fmt: skip
    lost = [part for part in shares if part not in sides]
    if lost:
        raise WrongUse(
            "data.no_part", f"no row would be in {' and '.join(lost)}", where=at,
            why=f"{len(sides)} rows hang together in too few groups, or are too few",
            hint="--near 0.8 calls fewer rows alike, --near none only equal questions",
        )  # fmt: skip


# ------------------------------------------------------------------ written


def write_parts(lines: BinaryIO, sides: Sequence[str], parts: Sequence[str], output: Path) -> None:
    """Each line to its part; all names at once."""
    with ExitStack() as stack:
        files = {part: stack.enter_context(open(output / f"{part}.jsonl.part", "wb")) for part in parts}
        for line, side in zip(lines, sides, strict=True):
            files[side].write(line)
        for file in files.values():
            durable(file)
    for part in parts:
        os.replace(output / f"{part}.jsonl.part", output / f"{part}.jsonl")
    sync_folder(output)


def account_of(
    rows: Rows, groups: Sequence[int], sides: Sequence[str], shares: Mapping[str, float]
) -> dict[str, Any]:
    """Free of times and folders."""
    names = sorted(rows.names, key=rows.names.__getitem__)
    counts = Counter(zip(sides, (names[n] for n in rows.ability), strict=True))
    sizes = Counter(groups)
    return {
        "schema": "steelyard.data_split/1", "rows": len(sides), "unreadable": rows.unreadable,
        "groups": len(sizes), "largest_group": max(sizes.values(), default=0),
        "parts": {part: part_account(part, counts, shares[part]) for part in shares},
    }  # fmt: skip


def part_account(part: str, counts: Mapping[tuple[str, str], int], share: float) -> dict[str, Any]:
    mine = {ability: n for (side, ability), n in sorted(counts.items()) if side == part}
    return {"wanted": share, "rows": sum(mine.values()), "abilities": mine}


def parts_of(text: str) -> dict[str, float]:
    """The shares of "80,10,10" (train, validation, test) or "90,10" (train, test). Raises ValueError."""
    values = [float(piece) for piece in text.split(",")]
    names = PARTS if len(values) == 3 else (PARTS[0], PARTS[2])
    if len(values) not in (2, 3) or not all(0 < value < float("inf") for value in values):
        raise ValueError(text)
    return {name: value / sum(values) for name, value in zip(names, values, strict=True)}
