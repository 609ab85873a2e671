"""The recipe's sources: which files they mean, and each record of them as a row.

Reading is a stream; only a table with `thread` is held, since its turns may lie far apart.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import Where, WrongUse
from .files import FORMATS, SUFFIXES, TABLES, Broken, DataFile, open_data
from .row import Message, Row, Unreadable
from .shapes import MAP_WORDS, SHAPES, Content, Misfit, content_of, filled, mapped, shape_of, string


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One entry of `data`. `map` gives the columns of `user`, `assistant`, `system`, `thread` or `text`."""

    path: str
    ability: str = "main"
    format: str | None = None  # of the file (jsonl, csv ...) or of its rows (alpaca, sharegpt ...)
    weight: float | None = None
    map: Mapping[str, str] = field(default_factory=dict)
    sheet: str | None = None
    encoding: str | None = None
    line: int | None = None  # in the recipe

    @staticmethod
    def of(settings: Mapping[str, Any]) -> Source:
        """From plain settings; unknown keys are left to the recipe's own check."""
        names = Source.__dataclass_fields__
        return Source(**{k: v for k, v in settings.items() if k in names and v is not None})

    @property
    def where(self) -> Where:
        return Where(self.path, field="data")


@dataclass(slots=True)
class Told:
    """What the account says of one file. `name` is free of the folder that the project lies in."""

    name: str
    ability: str
    path: Path
    weight: float | None = None
    format: str = ""
    encoding: str = ""
    bytes: int = 0
    rows_in: int = 0
    kept: int = 0
    table_rows: int | None = None  # where `thread` joins rows to conversations

    def as_json(self) -> dict[str, Any]:
        body = {
            "name": self.name, "ability": self.ability, "format": self.format, "encoding": self.encoding,
            "bytes": self.bytes, "in": self.rows_in, "kept": self.kept, "dropped": self.rows_in - self.kept,
        }  # fmt: skip
        if self.weight is not None:
            body["weight"] = self.weight
        if self.table_rows is not None:
            body["table_rows"] = self.table_rows
        return body


# ------------------------------------------------------------------ files


def files_of(sources: Sequence[Source], root: Path) -> list[tuple[Source, Told]]:
    """Each file of each source, in order, with a name that no other file has. Raises WrongUse."""
    found: list[tuple[Source, Told]] = []
    taken: set[str] = set()
    for source in sources:
        for path in paths_of(source, root):
            name = unique(name_of(path, root), taken)
            found.append((source, Told(name, source.ability, path, source.weight)))
    return found


def paths_of(source: Source, root: Path) -> list[Path]:
    """The files that a path, folder or pattern means, sorted. Raises WrongUse."""
    path = root / Path(source.path).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        inside = sorted(p for p in path.iterdir() if p.is_file() and known(p))
        return inside or missing(source, path, f"the folder {source.path} holds no data file")
    if glob.has_magic(source.path):
        matched = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
        return matched or missing(source, path, f"no file matches {source.path}")
    return missing(source, path, f"there is no file {source.path}")


def known(path: Path) -> bool:
    return Path(path.name.removesuffix(".gz")).suffix.lower() in SUFFIXES and not path.name.startswith(".")


def missing(source: Source, path: Path, message: str) -> list[Path]:
    """Always raises, naming the nearest file."""
    folder = next((p for p in path.parents if p.is_dir()), Path("/"))
    beside = sorted(p.name for p in folder.iterdir() if known(p)) if folder.is_dir() else []
    near = nearest(path.name, beside)
    raise WrongUse(
        "data.missing_file",
        message,
        where=Where(str(path), field="data.path"),
        why=f"looked in {folder}" + ("" if folder == path.parent else f"; {path.parent} is not there"),
        hint=f"did you mean {near}?" if near else "paths are taken from the recipe's folder",
    )


def nearest(name: str, names: Sequence[str]) -> str | None:
    from rapidfuzz import fuzz, process

    found = process.extractOne(name, names, scorer=fuzz.WRatio, score_cutoff=45)
    return found[0] if found else None


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
    told: Told | None = None,
    lenient: bool = False,
) -> Iterator[Row | Unreadable]:
    """Every record of a source, in order, as a row or as what could not be read.

    `told`, if given, names the one file to read and is filled in on the way. Raises WrongUse for what no
    single line is guilty of: a missing file or column, an unknown encoding or format.
    """
    source = as_source(source)
    check_words(source)
    for one in [told] if told else [t for _, t in files_of([source], root)]:
        yield from file_rows(source, one, lenient)


def as_source(source: Source | Mapping[str, Any] | str | Path) -> Source:
    if isinstance(source, Source):
        return source
    if isinstance(source, Mapping):
        return Source.of(source)
    return Source(path=str(source))


def check_words(source: Source) -> None:
    """Format and the words of `map` are ones that are known. Raises WrongUse."""
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


def file_rows(source: Source, told: Told, lenient: bool) -> Iterator[Row | Unreadable]:
    file = open_data(told.path, source.format, source.encoding, source.sheet, lenient)
    told.format, told.encoding = file.format, str(file.encoding or "")
    names = {MAP_WORDS[word]: column for word, column in source.map.items()}
    reader = conversations if "thread" in names else singles
    try:
        yield from reader(file, source, told, names)
    finally:
        told.bytes = file.bytes or told.path.stat().st_size


def singles(file: DataFile, source: Source, told: Told, names: dict[str, str]) -> Iterator[Row | Unreadable]:
    """One row a record."""
    shape = source.format if source.format in SHAPES else None
    read: Callable[[Mapping[str, Any]], Content]
    read = (lambda f: mapped(f, names)) if names else (lambda f: content_of(f, shape))
    checked = False
    for line, fields in file.records():
        told.rows_in += 1
        if isinstance(fields, Broken):
            yield unreadable(told, line, fields.kind, fields.why)
            continue
        if not checked:
            check_columns(file, told, fields, names, shape)
            checked = True
        try:
            if names and file.format not in TABLES:
                need(fields, names)
            yield row_of(read(fields), fields, source, told, line, names)
        except Misfit as e:
            yield unreadable(told, line, "wrong_shape", str(e))


def need(fields: Mapping[str, Any], names: Mapping[str, str]) -> None:
    lost = next((c for w, c in names.items() if w in ("user", "assistant", "text") and c not in fields), None)
    if lost:
        raise Misfit(f"field {lost!r} is missing")


def unreadable(told: Told, line: int, kind: str, why: str) -> Unreadable:
    return Unreadable(f"{told.name}:{line}", told.name, line, kind, why, str(told.path))


def row_of(
    content: Content,
    fields: Mapping[str, Any],
    source: Source,
    told: Told,
    line: int,
    names: Mapping[str, str],
) -> Row:
    messages, text = content
    accept = fields.get(names.get("accept", "accept"))
    compare = fields.get(names.get("compare", "compare"))
    return Row(
        id=f"{told.name}:{line}",
        source=told.name,
        line=line,
        ability=source.ability,
        messages=messages,
        text=text,
        accept=tuple(map(filled, accept)) if isinstance(accept, list) else (),
        compare=compare if compare in ("text", "json", "label") else None,
        weight=source.weight,
        raw=dict(fields),
    )


def check_columns(
    file: DataFile, told: Told, first: Mapping[str, Any], names: Mapping[str, str], shape: str | None
) -> None:
    """The columns that `map` names are there; without a map, the columns show a shape. Raises WrongUse."""
    columns = [c for c in file.columns or list(first) if c]
    for word, column in names.items():
        if column not in columns and (file.columns or word in ("user", "assistant", "text", "thread")):
            near = nearest(column, columns)
            raise WrongUse(
                "data.missing_column",
                f"{told.name} has no column {column!r}",
                where=Where(str(told.path), 1, f"data.map.{word}"),
                why=f"its columns are {', '.join(columns[:12])}",
                hint=f"did you mean {near}?" if near else f"map: {{{word}: COLUMN}}",
            )
    if names and not {"text", "user", "assistant"} & set(names):
        raise WrongUse(
            "data.map_incomplete", "map names no column with text",
            where=Where(str(told.path), field="data.map"), hint="map: {user: COLUMN, assistant: COLUMN}",
        )  # fmt: skip
    if not names and file.columns and not shape and not shape_of(dict.fromkeys(columns)):
        raise no_shape(told, columns)


def no_shape(told: Told, columns: list[str]) -> WrongUse:
    guess = guess_map(columns)
    example = (
        ", ".join(f"{w}: {c}" for w, c in guess.items()) or f"user: {columns[0]}, assistant: {columns[-1]}"
    )
    return WrongUse(
        "data.no_shape",
        f"the columns of {told.name} say not which is the question and which the answer",
        where=Where(str(told.path), 1, "data.map"),
        why=f"its columns are {', '.join(columns[:12])}",
        hint=f"map: {{{example}}}",
    )


# Column names that people give, for `init` and for hints.
USUAL: dict[str, tuple[str, ...]] = {
    "user": ("user", "prompt", "question", "input", "query", "ask", "request", "instruction", "source",
             "问题", "提问", "客户", "用户", "输入", "原文", "问"),
    "assistant": ("assistant", "answer", "response", "reply", "output", "completion", "target", "label",
                  "回复", "回答", "答案", "客服", "输出", "译文", "答"),
    "system": ("system", "系统", "系统提示"),
    "thread": ("thread", "thread_id", "ticket", "ticket_id", "conversation", "conversation_id", "session",
               "session_id", "工单号", "会话", "会话号", "对话", "对话编号"),
    "text": ("text", "content", "body", "正文", "内容", "文本"),
}  # fmt: skip


def guess_map(columns: Sequence[str]) -> dict[str, str]:
    """The likely map of a table's columns; {} where they say nothing."""
    lower = {c.strip().lower(): c for c in columns}
    found = {w: next((lower[n] for n in names if n in lower), None) for w, names in USUAL.items()}
    pair = {w: c for w, c in found.items() if c and w != "text"}
    if "user" in pair and "assistant" in pair:
        return pair
    return {"text": found["text"]} if found["text"] else {}


# ------------------------------------------------------------------ conversations


def conversations(
    file: DataFile, source: Source, told: Told, names: dict[str, str]
) -> Iterator[Row | Unreadable]:
    """Rows of a table with one `thread` value make one chat, in the order of its first row."""
    turns: dict[str, list[Message]] = {}
    first: dict[str, tuple[int, Mapping[str, Any]]] = {}
    checked, told.table_rows = False, 0
    for line, fields in file.records():
        told.table_rows += 1
        if isinstance(fields, Broken):
            told.rows_in += 1
            yield unreadable(told, line, fields.kind, fields.why)
            continue
        if not checked:
            check_columns(file, told, fields, names, None)
            checked = True
        try:
            thread = string(fields, names["thread"]) or f"\0{line}"  # no thread: a chat of its own
            messages, _ = mapped(fields, {w: c for w, c in names.items() if w != "text"})
        except Misfit as e:
            told.rows_in += 1
            yield unreadable(told, line, "wrong_shape", str(e))
            continue
        first.setdefault(thread, (line, fields))
        turns.setdefault(thread, []).extend(messages or ())
    for thread, messages_ in turns.items():
        told.rows_in += 1
        at, row = first[thread]
        yield row_of((joined(messages_), None), row, source, told, at, names)


def joined(messages: Sequence[Message]) -> tuple[Message, ...]:
    """One system prompt, empty cells left out, two turns of one side in a row made one."""
    out: list[Message] = []
    for message in messages:
        if not message["content"].strip() or (message["role"] == "system" and out):
            continue
        if out and out[-1]["role"] == message["role"]:
            out[-1] = {**out[-1], "content": f"{out[-1]['content']}\n{message['content']}"}
        else:
            out.append(message)
    return tuple(out)


# ------------------------------------------------------------------ a first look


@dataclass(frozen=True, slots=True)
class Sniff:
    """What `init` learns of a file before there is a recipe."""

    format: str
    encoding: str
    shape: str | None  # of the rows; None = it needs `map`
    columns: tuple[str, ...]
    map: Mapping[str, str]  # the likely one where `shape` is None
    rows: int
    unreadable: int


def sniff(path: Path) -> Sniff:
    """Format, encoding, columns and number of rows of a file. Raises WrongUse."""
    path = paths_of(Source(path=str(path)), Path("."))[0]
    file = open_data(path, lenient=True)
    first: dict[str, Any] = {}
    count = bad = 0
    for _, fields in file.records():
        count += 1
        if isinstance(fields, Broken):
            bad += 1
        elif not first:
            first = dict(fields)
    columns = tuple(c for c in file.columns or first if c)
    shape = shape_of(dict.fromkeys(columns))
    guess = {} if shape else guess_map(columns)
    return Sniff(file.format, str(file.encoding or ""), shape, columns, guess, count, bad)


def with_map_of(eval_source: Source, like: Source | None) -> Source:
    """An eval file has the shape of a known chat, or the columns of its ability's source."""
    if like is None or not like.map or sniff_shape(Path(eval_source.path)):
        return eval_source
    return replace(eval_source, map=like.map)


def sniff_shape(path: Path) -> str | None:
    file = open_data(path, lenient=True)
    first = next((f for _, f in file.records() if not isinstance(f, Broken)), {})
    return shape_of(dict.fromkeys(c for c in file.columns or first if c))
