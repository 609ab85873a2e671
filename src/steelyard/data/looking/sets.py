"""A data set as a person looks at it: rows that stayed, rows that were dropped and why, where all came from.

A set is what `steelyard clean` wrote, the dataset of a run, or data that nobody has cleaned yet: those are
judged here and nothing is written. Not here: what is shown of a row (shown.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from ...errors import Refused, Where, WrongUse
from ..account import FileAccount
from ..clean_files import given_id, inputs_of
from ..cleaning import Cleaning, CleanOrder
from ..reading.folders import DROPPED, REPORT
from ..reading.sources import RowReader, Source, files_of, records
from ..row import Row, Unreadable

KINDS = ("pairs", "labels")  # whatever a stage may teach is a row to look at
ACCOUNT = "account.json"
SPLIT = "split.json"  # its folder holds rows of a set once more, divided
WRITTEN = ("train.jsonl", "validation.jsonl", "test.jsonl")


@dataclass(frozen=True, slots=True)
class Drop:
    reasons: tuple[str, ...]
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a set. `row` None: it cannot be read (`why`), or its text lies nowhere."""

    id: str
    row: Row | None
    drop: Drop | None = None
    part: str = ""  # the file that it stayed in
    why: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """Files of rows, to be read again."""

    files: tuple[tuple[Source, str, Path], ...]  # with the name that ids begin with
    own_ids: bool  # a row has the id that it brought, where it brought one

    def rows(self) -> Iterator[Row | Unreadable]:
        for source, name, path in self.files:
            account = FileAccount(name, source.ability, path)
            reader = RowReader.of(source, account)
            for line, fields in records(source, account, lenient=True, check=bool(source.map)):
                own = given_id(fields) if self.own_ids else ""
                yield reader.row(line, fields, "" if own == "" else str(own))


@dataclass(frozen=True, slots=True)
class DataSet:
    """`parts`: files of the rows that stayed, as cleaning left them; without them they are the origin's."""

    name: str
    drops: Mapping[str, tuple[Drop, ...]]
    parts: tuple[tuple[str, Path], ...] = ()
    origin: Origin | None = None  # None: the texts of dropped rows are not at hand

    def kept(self) -> Iterator[Entry]:
        if not self.parts:
            yield from (entry for entry in self.judged() if entry.drop is None)
            return
        for name, path in self.parts:
            origin = Origin(((Source(path=str(path), kinds=KINDS), name, path),), own_ids=True)
            for item in origin.rows():
                yield entry_of(item, None, name)

    def dropped(self) -> Iterator[Entry]:
        """In the order of the rows; of a set without its origin in that of dropped.jsonl, with no text."""
        if self.origin is not None:
            yield from (entry for entry in self.judged() if entry.drop is not None)
            return
        for id, drops in self.drops.items():
            yield from (Entry(id, None, drop) for drop in drops)

    def judged(self) -> Iterator[Entry]:
        """Every row of the origin, with what became of it."""
        take = taking(self.drops)
        for item in self.origin.rows() if self.origin else ():
            yield entry_of(item, take(item.id))


def entry_of(item: Row | Unreadable, drop: Drop | None, part: str = "") -> Entry:
    if isinstance(item, Unreadable):
        return Entry(item.id, None, drop, part, item.why)
    return Entry(item.id, with_ability(item), drop, part)


def with_ability(row: Row) -> Row:
    """Rows of a dataset name their ability themselves."""
    own = (row.raw or {}).get("ability")
    return replace(row, ability=own) if isinstance(own, str) and own else row


def taking(drops: Mapping[str, tuple[Drop, ...]]) -> Callable[[str], Drop | None]:
    """What became of the next row of an id. Rows may share one: then the first is what the others repeat."""
    met: dict[str, int] = {}

    def take(id: str) -> Drop | None:
        mine = drops.get(id)
        if mine is None:
            return None
        place = met.get(id, -1 if mine[0].evidence.get("of") == id else 0)
        met[id] = place + 1
        return mine[place] if 0 <= place < len(mine) else None

    return take


# ------------------------------------------------------------------ opening


def open_set(
    path: Path,
    source: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    on_rows: Callable[[int], None] = lambda count: None,
) -> DataSet:
    """The set at `path`: a folder of `steelyard clean`, a dataset, or data to be judged by usual rules.

    `source`: where a cleaned set's rows came from, if it does not say so itself. `settings`, as for `clean`:
    judge their sources instead (of a dataset: its ids are theirs). Raises WrongUse, Refused where sealed.
    """
    if any((path / f"{name}.sealed").exists() for name in (ACCOUNT, "train.jsonl")):
        raise Refused(
            "data.sealed", f"{path.name} is sealed", where=Where(str(path)),
            hint="look at the rows before they are sealed: steelyard data show RECIPE",
        )  # fmt: skip
    if (path / ACCOUNT).is_file() and (path / "train.jsonl").is_file():
        return dataset_at(path, settings)
    if (path / DROPPED).is_file():
        return cleaned_at(path, source)
    return judged_now(path.name, settings or plain_settings(path), on_rows)


def plain_settings(path: Path, clean: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Settings for files that no recipe names. Raises WrongUse."""
    if not path.exists():
        raise WrongUse(
            "data.missing_file", f"there is no set and no file {path}", where=Where(str(path), field="SET"),
            hint="name a folder that clean wrote, a recipe, or a file of rows",
        )  # fmt: skip
    root = path if path.is_dir() else path.parent
    return {"sources": [{"path": str(path.absolute())}], "clean": dict(clean or {}), "root": str(root)}


def dataset_at(folder: Path, settings: Mapping[str, Any] | None) -> DataSet:
    origin = origin_of(CleanOrder.of(settings)) if settings else None
    parts = tuple((name, folder / name) for name in WRITTEN if (folder / name).is_file())
    return DataSet(folder.name, read_drops(folder / DROPPED), filled(parts), origin)


def cleaned_at(folder: Path, source: Path | None) -> DataSet:
    paths = [p for p in folder.rglob("*.jsonl") if not (p.parent / SPLIT).exists()]
    names = sorted(p.relative_to(folder).as_posix() for p in paths)
    parts = tuple((name, folder / name) for name in names if name != DROPPED)
    return DataSet(folder.name, read_drops(folder / DROPPED), filled(parts), origin_at(folder, source))


def filled(parts: tuple[tuple[str, Path], ...]) -> tuple[tuple[str, Path], ...]:
    return tuple((name, path) for name, path in parts if path.stat().st_size)


def origin_at(folder: Path, source: Path | None) -> Origin | None:
    """By the report of `steelyard clean`, unless `source` says it."""
    report = folder / REPORT
    told = orjson.loads(report.read_bytes()).get("input") if report.is_file() else None
    input, map = (told or {}).get("path"), (told or {}).get("map") or {}
    path = source or (Path(input) if input else None)
    if path is None or (source is None and not path.exists()):
        return None
    return Origin(
        tuple((Source(path=str(p), map=map), name, p) for p, name in inputs_of(path, folder)), own_ids=True
    )


def origin_of(order: CleanOrder) -> Origin:
    sources = tuple(replace(source, kinds=KINDS) for source in order.sources)
    return Origin(tuple((s, f.name, f.path) for s, f in files_of(sources, order.root)), own_ids=False)


def read_drops(path: Path) -> dict[str, tuple[Drop, ...]]:
    drops: dict[str, list[Drop]] = {}
    with open(path, "rb") as lines:
        for line in lines:
            body = orjson.loads(line)
            drop = Drop(tuple(body["reasons"]), body.get("evidence") or {})
            drops.setdefault(body["id"], []).append(drop)
    return {id: tuple(of_id) for id, of_id in drops.items()}


def judged_now(
    name: str, settings: Mapping[str, Any], on_rows: Callable[[int], None] = lambda count: None
) -> DataSet:
    """What cleaning would make of these sources; nothing is written. Raises WrongUse."""
    clean = {**(settings.get("clean") or {}), "unreadable": "drop"}
    order = CleanOrder.of({"kinds": KINDS, **settings, "clean": clean})
    cleaning = Cleaning.of(order)
    drops: dict[str, tuple[Drop, ...]] = {}

    def on_drop(id: str, reasons: Any, evidence: Mapping[str, Any]) -> None:
        drops[id] = (Drop(tuple(reasons), dict(evidence)),)

    cleaning.sieve.on_drop, cleaning.on_rows = on_drop, on_rows
    try:
        for _ in cleaning.run():
            pass
    except WrongUse as e:
        if e.code != "data.nothing_kept":  # then there is all the more to look at
            raise
    return DataSet(name, drops, origin=origin_of(order))
