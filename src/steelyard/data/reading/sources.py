"""The recipe's sources: which files they mean, and each record of them as a row.

Reading is a stream; only a table with `thread` is held, since its turns may lie far apart.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import Problem, Where, WrongUse
from ..account import FileAccount
from ..row import Row, Unreadable
from .columns import check_columns, nearest
from .files import FORMATS, ROWS, SUFFIXES, TABLES, Broken, DataFile, Record, open_data, pieces_of_lines
from .folders import INFO, INFOS, SPLITS, STATE, dataset_files, describes, is_dataset
from .messages import Misfit
from .opened import bare, packed
from .shapes import MAP_WORDS, SHAPES, Content, MapNames, content_of, filled, mapped
from .stores.remote import local_copy, nothing_at, url_of
from .threads import conversations

COMPARE_WORDS = ("text", "json", "label", "contains", "number", "chrf", "judge")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One entry of `data`. `map` gives the columns of `user`, `assistant`, `system`, `thread` ..."""

    path: str
    ability: str = "main"
    format: str | None = None  # of the file (jsonl, csv ...) or of its rows (alpaca, sharegpt ...)
    weight: float | None = None
    map: Mapping[str, str | Sequence[str]] = field(default_factory=dict)  # several columns are joined
    sheet: str | None = None
    encoding: str | None = None
    line: int | None = None  # in the recipe
    kinds: tuple[str, ...] = ()  # "pairs", "labels": taken where a stage teaches them
    chars: int | None = None  # of a document's passage, at most

    @staticmethod
    def of(settings: Mapping[str, Any]) -> Source:
        """From plain settings; unknown keys are left to the recipe's own check."""
        names = Source.__dataclass_fields__
        return Source(**{k: v for k, v in settings.items() if k in names and v is not None})

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """The columns of each of our words."""
        return {
            MAP_WORDS[word]: (columns,) if isinstance(columns, str) else tuple(columns)
            for word, columns in self.map.items()
        }


# ------------------------------------------------------------------ files


def files_of(sources: Sequence[Source], root: Path) -> list[tuple[Source, FileAccount]]:
    """Each file of each source, in order, with a name that no other file has. Raises WrongUse."""
    files: list[tuple[Source, FileAccount]] = []
    taken: set[str] = set()
    for number, source in enumerate(sources):
        for path in paths_of(source, root):
            name = unique(name_of(path, root), taken)
            account = FileAccount(name, source.ability, path, source.weight, number, sheet=source.sheet)
            files.append((source, account))
    return files


def paths_of(source: Source, root: Path) -> list[Path]:
    """The files that a path, folder, pattern or URL means, sorted; those of a URL are copied here first.

    Raises WrongUse; for a URL also Lacking.
    """
    url = url_of(source.path)
    if url is not None:
        return copied_paths(local_copy(url, is_needed), url)
    path = root / Path(source.path).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        inside = dataset_files(path, is_data) if is_dataset(path) else lying_in(path)
        return inside or missing(source, path, f"the folder {source.path} holds no data file")
    if glob.has_magic(source.path):
        matched = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
        return matched or missing(source, path, f"no file matches {source.path}")
    return missing(source, path, f"there is no file {source.path}")


def needed_files(source: Source, root: Path) -> list[Path]:
    """What another machine must have to read a source that lies here: its files, and of a data set those that
    say which of them count. Raises WrongUse.
    """
    paths, folder = paths_of(source, root), root / Path(source.path).expanduser()
    if not folder.is_dir() or not is_dataset(folder):
        return paths
    said = {at / name for at in (folder, *(p.parent for p in paths)) for name in (INFO, INFOS, SPLITS, STATE)}
    return [*paths, *sorted(path for path in said - set(paths) if path.is_file())]


def copied_paths(copy: Path, url: str) -> list[Path]:
    """Of a URL: its file, or all below its folder, since stores have no folders; of a data set its shards."""
    if copy.is_file():
        return [copy]
    inside = dataset_files(copy, is_data) if is_dataset(copy) else rows_first(copy.rglob("*"))
    if not inside:
        raise nothing_at(url)
    return inside


def lying_in(folder: Path) -> list[Path]:
    return rows_first(folder.iterdir())


def rows_first(paths: Iterable[Path]) -> list[Path]:
    """Files of rows; where there are none, documents: beside rows they are mostly notes about them."""
    inside = sorted(p for p in paths if p.is_file() and is_data(p) and not describes(p))
    return [p for p in inside if suffix_of(p) in ROWS] or inside


def is_needed(path: Path) -> bool:
    """Of a folder elsewhere: a file of rows, or one that says which of them count."""
    return is_data(path) or path.name in (INFO, INFOS, SPLITS, STATE)


def is_data(path: Path) -> bool:
    return suffix_of(path) in SUFFIXES and not path.name.startswith(".")


def suffix_of(path: Path) -> str:
    return Path(bare(path.name)).suffix.lower()


def missing(source: Source, path: Path, message: str) -> list[Path]:
    """Always raises, naming the nearest file."""
    folder = next((p for p in path.parents if p.is_dir()), Path("/"))
    beside = sorted(p.name for p in folder.iterdir() if is_data(p)) if folder.is_dir() else []
    near = nearest(path.name, beside)
    raise WrongUse(
        "data.missing_file",
        message,
        where=Where(str(path), field="data.path"),
        why=f"looked in {folder}" + ("" if folder == path.parent else f"; {path.parent} is not there"),
        hint=f"did you mean {near}?" if near else "paths are taken from the recipe's folder",
    )


def name_of(path: Path, root: Path) -> str:
    """Relative to the project where it lies in it, else the bare name: equal data, equal bytes anywhere."""
    resolved, base = path.resolve(), root.resolve()
    return resolved.relative_to(base).as_posix() if resolved.is_relative_to(base) else path.name


def unique(name: str, taken: set[str]) -> str:
    number, given = 1, name
    while name in taken:
        number += 1
        name = f"{given}#{number}"
    taken.add(name)
    return name


# ------------------------------------------------------------------ rows


def rows(
    source: Source | Mapping[str, Any] | str | Path,
    root: Path = Path("."),
    file: FileAccount | None = None,
    lenient: bool = False,
) -> Iterator[Row | Unreadable]:
    """Every record of a source, in order, as a row or as what could not be read.

    `file`, if given, is the one file to read and is filled in on the way. Raises WrongUse for what no
    single line is guilty of: a missing file or column, an unknown encoding or format.
    """
    source = as_source(source)
    check_words(source)
    for one in [file] if file else [f for _, f in files_of([source], root)]:
        reader = RowReader.of(source, one)
        for line, fields in records(source, one, lenient):
            yield reader.row(line, fields)


def as_source(source: Source | Mapping[str, Any] | str | Path) -> Source:
    if isinstance(source, Source):
        return source
    if isinstance(source, Mapping):
        return Source.of(source)
    return Source(path=str(source))


def check_words(source: Source) -> None:
    """Format and the words of `map` are ones that exist. Raises WrongUse."""
    words = (*FORMATS, *SHAPES)
    if source.format is not None and source.format not in words:
        near = nearest(source.format, words)
        raise WrongUse(
            "data.unknown_format", f"there is no format {source.format!r}",
            where=Where(source.path, field="data.format"),
            hint=f"did you mean {near}?" if near else f"one of {', '.join(words)}",
        )  # fmt: skip
    for word in source.map:
        if word not in MAP_WORDS:
            near = nearest(word, tuple(MAP_WORDS))
            raise WrongUse(
                "data.unknown_map_word", f"map has no word {word!r}",
                where=Where(source.path, field=f"data.map.{word}"),
                hint=f"did you mean {near}?" if near else "map: {user: COLUMN, assistant: COLUMN}",
            )  # fmt: skip


def records(source: Source, account: FileAccount, lenient: bool, check: bool = True) -> Iterator[Record]:
    """The records of one file, counted; of a table with `thread`, one a conversation.

    `check` False leaves columns that fit no shape to each row. A `lenient` reading makes of a fault of the
    whole file one more record. Raises Problem.
    """
    try:
        yield from records_of_file(source, account, lenient, check)
    except Problem as fault:
        if not lenient or fault.code not in FILE_FAULTS:
            raise
        account.fault = fault
        account.read += 1
        yield account.read, Broken("unreadable_file", fault.why or fault.message)


# Of one file; one whose columns are not those of `map` says something of the recipe.
FILE_FAULTS = ("data.unreadable_file", "data.no_reader", "data.undecodable", "data.column_twice")


def records_of_file(source: Source, account: FileAccount, lenient: bool, check: bool) -> Iterator[Record]:
    file = open_data(account.path, source.format, source.encoding, source.sheet, lenient)
    account.format, account.encoding = file.format, str(file.encoding or "")
    file.chars = source.chars or file.chars
    checked = checked_records(file, source, account) if check else file.records()
    joined = conversations(checked, source.names, account) if "thread" in source.names else checked
    try:
        for record in joined:
            account.read += 1
            account.bytes = file.bytes  # so far, where a reader counts them on its way
            yield record
    finally:
        account.bytes = file.bytes or account.path.stat().st_size


def line_pieces(source: Source, account: FileAccount) -> Iterator[tuple[int, bytes | Broken]] | None:
    """Whole lines of one file, uncounted (`pieces_of_lines`); None where it is read as records."""
    if source.map or source.format not in (None, "jsonl") or packed(account.path):
        return None
    try:
        file = open_data(account.path, source.format, source.encoding, lenient=True)
    except Problem:
        return None  # told when it is read as records
    if file.format != "jsonl" or not file.is_utf8:
        return None
    account.format, account.encoding = file.format, str(file.encoding)
    return counted(file, account)


def counted(file: DataFile, account: FileAccount) -> Iterator[tuple[int, bytes | Broken]]:
    """A fault of the whole file is one more record; lines count where they become rows."""
    lines = 0
    try:
        for first, piece in pieces_of_lines(file):
            account.read += isinstance(piece, Broken)
            account.bytes = file.bytes
            yield first, piece
            lines = first + (1 if isinstance(piece, Broken) else piece.count(b"\n"))
    except Problem as fault:
        account.fault = fault
        account.read += 1
        yield lines, Broken("unreadable_file", fault.why or fault.message)
    finally:
        account.bytes = file.bytes


def checked_records(file: DataFile, source: Source, account: FileAccount) -> Iterator[Record]:
    """The records, once the columns of the first good one are what `map` or a shape asks for."""
    shape = source.format if source.format in SHAPES else None
    checked = False
    for line, fields in file.records():
        if not checked and not isinstance(fields, Broken):
            check_columns(file, account, fields, source.names, shape, source.kinds)
            checked = True
        yield line, fields


@dataclass(frozen=True, slots=True)
class RowReader:
    """How the records of one file become rows. Plain values: it travels to other processes."""

    name: str
    path: str
    ability: str
    names: MapNames
    shape: str | None
    is_table: bool
    kinds: tuple[str, ...] = ()

    @staticmethod
    def of(source: Source, account: FileAccount) -> RowReader:
        shape = source.format if source.format in SHAPES else None
        names, threads = source.names, "thread" in source.names
        return RowReader(
            name=account.name, path=str(account.path), ability=source.ability,
            names={} if threads else names, shape="messages" if threads else shape,
            is_table=is_table(account.path, source.format), kinds=tuple(source.kinds),
        )  # fmt: skip

    def row(self, line: int, fields: dict[str, Any] | Broken, id: str = "") -> Row | Unreadable:
        """One record as a row; without an `id` its place is its name. Pure."""
        id = id or f"{self.name}:{line}"
        if isinstance(fields, Broken):
            return self.unreadable(id, line, fields.kind, fields.why)
        try:
            return self.row_of(id, self.content(fields), fields, line)
        except Misfit as e:
            return self.unreadable(id, line, e.kind, str(e))

    def content(self, fields: dict[str, Any]) -> Content:
        if not self.names:
            return content_of(fields, self.shape, self.kinds)
        if not self.is_table:
            need(fields, self.names)
        return mapped(fields, self.names)

    def unreadable(self, id: str, line: int, kind: str, why: str) -> Unreadable:
        return Unreadable(id, self.name, line, kind, why, self.path)

    def row_of(self, id: str, content: Content, fields: dict[str, Any], line: int) -> Row:
        accept = fields.get(self.names.get("accept", ("accept",))[0])
        compare = fields.get(self.names.get("compare", ("compare",))[0])
        return Row(
            id=id,
            source=self.name,
            line=line,
            ability=self.ability,
            messages=content.messages,
            text=content.text,
            tools=content.tools,
            rejected=content.rejected,
            label=content.label,
            accept=tuple(map(filled, accept)) if isinstance(accept, list) else (),
            compare=compare if compare in COMPARE_WORDS else None,
            raw=fields,
        )


def is_table(path: Path, format: str | None) -> bool:
    return (format if format in FORMATS else SUFFIXES.get(suffix_of(path))) in TABLES


def need(fields: Mapping[str, Any], names: MapNames) -> None:
    """Records of JSON have the columns that `map` names, each by itself. Raises Misfit."""
    wanted = [c for word in ("user", "assistant", "rejected", "text") for c in names.get(word, ())]
    lost = next((c for c in wanted if c not in fields), None)
    if lost:
        raise Misfit(f"field {lost!r} is missing")
