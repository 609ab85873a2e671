"""`steelyard clean`: files in, cleaned files and a report out, with no recipe.

Lines are cleaned in blocks of about 1 MB, by one process or many; what needs the order of the rows
(duplicates) is decided in that order by one. So any number of workers gives the same bytes. Outputs have a
temporary name until all are whole: after a kill the same command makes the same files.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from ..errors import Stopped, Where, WrongUse
from ..processes import die_with_parent
from ..trust import atomic, disk_problem, sync_folder
from .account import Account
from .clean import dumps
from .files import SUFFIXES, Broken, DataFile, open_data
from .row import Row, row_key, tight
from .shapes import Misfit, content_of
from .sources import Source, Told, known, name_of, paths_of
from .steps import Rules
from .walk import clean_row

BLOCK_BYTES = 1 << 20
DROPPED = "dropped.jsonl"


@dataclass(frozen=True, slots=True)
class Judged:
    """One record after cleaning. `line` None = it goes, and `reasons` say why."""

    id: str
    line: bytes | None
    reasons: tuple[str, ...] = ()
    key: bytes = b""  # equal for rows that teach the same
    masked: tuple[tuple[str, int], ...] = ()
    changed: bool = False
    unreadable: bool = False


Block = tuple[str, list[tuple[int, dict[str, Any] | Broken]]]  # file name, its records


def clean_files(
    input: Path,
    output: Path,
    report: Path | None = None,
    contamination: Path | None = None,
    workers: int = 1,
    settings: Mapping[str, Any] | None = None,
    watch: Any = None,
) -> dict[str, Any]:
    """Clean a file or a folder of files into `output`; returns the report.

    {"in", "kept", "dropped", "changed", "by_reason", "masked", "bytes_in", "seconds", "mb_per_s", "files"}.
    `settings` are the words of the recipe's `clean`. Unreadable lines are dropped. Raises WrongUse (2):
    nothing to read, all lines unreadable, output into the input's folder.
    """
    started = time.perf_counter()
    inputs = [(path, Told(name, "", path)) for path, name in inputs_of(input, output)]
    rules = Rules(**{**dict(settings or {}), "unreadable": "drop"})
    check = partial(judge_block, rules=rules, questions=questions_of(contamination))
    account = Account(files=[told for _, told in inputs])
    with writing(output) as files:
        seen: set[bytes] = set()
        with mapper(workers) as map_blocks:
            for (name, _), judged in map_blocks(check, blocks(inputs)):
                kept = files.of(target_of(name))
                if watch is not None and watch.stop:
                    raise Stopped("run.stopped", "cleaning was stopped", hint="run the same command again")
                for row in judged:
                    write_down(row, rules, seen, account, kept, files.dropped)
        refuse_empty(account, input)
    told = report_of(account, time.perf_counter() - started)
    target = report or output / "report.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic(target, 0o644) as file:
        file.write(orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    return told


# ------------------------------------------------------------------ files in and out


def inputs_of(input: Path, output: Path) -> list[tuple[Path, str]]:
    """The files to clean, with names free of any folder. Raises WrongUse."""
    root = input if input.is_dir() else input.parent
    if output.resolve() == root.resolve():
        raise WrongUse(
            "data.same_folder", "the output folder is the input's",
            where=Where(str(output), field="--output"),
            hint="name another folder: cleaning never writes over its input",
        )  # fmt: skip
    if input.is_dir():
        paths = [p for p in sorted(input.rglob("*")) if p.is_file() and known(p)]
        paths = [p for p in paths if not p.resolve().is_relative_to(output.resolve())]
    else:
        paths = paths_of(Source(path=str(input.absolute())), Path("/"))
    if not paths:
        raise WrongUse(
            "data.missing_file", f"{input} holds no data file", where=Where(str(input), field="--input"),
            hint=f"files end in {', '.join(sorted(SUFFIXES))}, with or without .gz",
        )  # fmt: skip
    return [(path, name_of(path, root)) for path in paths]


def target_of(name: str) -> str:
    """`notes/a.csv.gz` becomes `notes/a.jsonl`; a name of ours gets out of the way."""
    plain = Path(name.removesuffix(".gz"))
    target = plain.with_suffix(".jsonl")
    if target.as_posix() == DROPPED:
        return "dropped-rows.jsonl"
    return target.as_posix()


class Outputs:
    """Files that appear together: each has a temporary name until `publish`. One is open at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dropped = self.part(DROPPED).open("wb")
        self.made: list[str] = []
        self.name, self.file = "", self.dropped

    def part(self, name: str) -> Path:
        path = self.folder / f"{name}.part"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def of(self, name: str) -> BinaryIO:
        """The file for `name`; names come in runs, a later run goes on where the first ended."""
        if name != self.name:
            self.close()
            mode = "ab" if name in self.made else "wb"  # what a killed run left is not gone on with
            self.file = self.part(name).open(mode)  # type: ignore[assignment]
            self.made += [] if name in self.made else [name]
            self.name = name
        return self.file

    def close(self) -> None:
        if self.name:
            durable(self.file)
            self.name = ""

    def publish(self) -> None:
        """All names at once; dropped.jsonl is last and says that the rest is whole."""
        self.close()
        durable(self.dropped)
        for name in [*self.made, DROPPED]:
            os.replace(self.part(name), self.folder / name)
        sync_folder(self.folder)

    def discard(self) -> None:
        for file in (self.file, self.dropped):
            with suppress(OSError):  # a full disk fails the flush again
                file.close()
        for name in [*self.made, DROPPED]:
            self.part(name).unlink(missing_ok=True)


def durable(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()


@contextmanager
def writing(folder: Path) -> Iterator[Outputs]:
    """Outputs that are published if the block ends well, and gone otherwise. Raises Lacking (disk)."""
    try:
        outputs = Outputs(folder)
        try:
            yield outputs
            outputs.publish()
        finally:
            outputs.discard()
    except OSError as e:
        raise disk_problem(e, Path(e.filename or folder)) from e


def blocks(inputs: Iterable[tuple[Path, Told]]) -> Iterator[Block]:
    """Records in pieces of about 1 MB, in order."""
    for path, told in inputs:
        file = open_data(path, lenient=True)
        told.format, told.encoding = file.format, str(file.encoding or "")
        yield from file_blocks(file, told)
        told.bytes = file.bytes or path.stat().st_size


def file_blocks(file: DataFile, told: Told) -> Iterator[Block]:
    held: list[tuple[int, dict[str, Any] | Broken]] = []
    size = 0
    for line, fields in file.records():
        told.rows_in += 1
        held.append((line, fields))
        size += (
            sum(len(v) if isinstance(v, str) else 256 for v in fields.values())
            if isinstance(fields, dict)
            else 1
        )
        if size >= BLOCK_BYTES:
            yield told.name, held
            held, size = [], 0
    if held:
        yield told.name, held


# ------------------------------------------------------------------ one block


def judge_block(block: Block, rules: Rules, questions: frozenset[str]) -> list[Judged]:
    """Every record of a block, cleaned. Pure; runs in a worker."""
    name, records = block
    return [judge(name, line, fields, rules, questions) for line, fields in records]


def judge(
    name: str, line: int, fields: dict[str, Any] | Broken, rules: Rules, questions: frozenset[str]
) -> Judged:
    place = f"{name}:{line}"
    if isinstance(fields, Broken):
        return Judged(place, None, (fields.kind,), unreadable=True)
    given = fields.get("id")
    id = str(given) if isinstance(given, str | int) and given != "" else place
    try:
        messages, text = content_of(fields, None)
    except Misfit:
        return Judged(id, None, ("wrong_shape",), unreadable=True)
    row = Row(id=id, source=name, line=line, messages=messages, text=text, raw=fields)
    clean, findings = clean_row(row, rules)
    reasons = [f.kind for f in findings if f.action == "drop"]
    if questions and rules.enabled and holds_question(row, questions):
        reasons.append("contamination")
    if reasons:
        return Judged(id, None, tuple(reasons))
    masked = tuple((f.kind, f.count) for f in findings if f.action == "redact")
    body = clean.merged()
    if isinstance(given, int):
        body["id"] = given
    return Judged(id, dumps(body), (), row_key(row), masked, clean is not row)


def write_down(
    row: Judged, rules: Rules, seen: set[bytes], account: Account, kept: BinaryIO, dropped: BinaryIO
) -> None:
    """The last word on one row, in the order of the rows."""
    reasons = row.reasons
    if row.line is not None and rules.enabled and rules.dedup != "none":
        if row.key in seen:
            reasons = ("duplicate",)
        seen.add(row.key)
    account.unreadable += row.unreadable
    if reasons or row.line is None:
        account.drop(reasons)
        dropped.write(dumps({"id": row.id, "reasons": list(reasons)}))
        return
    account.keep(dict(row.masked), row.changed)
    kept.write(row.line)


# ------------------------------------------------------------------ evaluation questions


def questions_of(path: Path | None) -> frozenset[str]:
    """The questions that must not be trained on, normalised: rows with `question`, or any known shape."""
    if path is None:
        return frozenset()
    file = open_data(paths_of(Source(path=str(path.absolute())), Path("/"))[0], lenient=True)
    return frozenset(
        tight(text)
        for _, fields in file.records()
        if not isinstance(fields, Broken)
        for text in asked_in(fields)
        if text.strip()
    )


def asked_in(fields: Mapping[str, Any]) -> list[str]:
    if isinstance(fields.get("question"), str):
        return [fields["question"]]
    try:
        messages, text = content_of(fields, None)
    except Misfit:
        return []
    return [m["content"] for m in messages if m["role"] == "user"] if messages else [text or ""]


def holds_question(row: Row, questions: frozenset[str]) -> bool:
    """A whole part or a whole paragraph of the row is a question of the evaluation."""
    return any(tight(piece) in questions for part in row.parts for piece in {part, *part.split("\n")})


# ------------------------------------------------------------------ workers


Mapper = Callable[[Callable[[Block], list[Judged]], Iterator[Block]], Iterator[tuple[Block, list[Judged]]]]


@contextmanager
def mapper(workers: int) -> Iterator[Mapper]:
    """Maps blocks in order, here or in `workers` processes, with a bounded number under way."""
    if workers <= 1:
        yield lambda check, items: ((item, check(item)) for item in items)
        return
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(workers, begin_worker, (os.getpid(),)) as pool:
        yield partial(map_in, pool, workers)


def map_in(
    pool: Any, workers: int, check: Callable[[Block], list[Judged]], items: Iterator[Block]
) -> Iterator[tuple[Block, list[Judged]]]:
    """`imap` would read all input at once; this keeps two blocks a worker."""
    under_way: list[tuple[Block, Any]] = []
    for item in items:
        under_way.append((item, pool.apply_async(check, (item,))))
        if len(under_way) >= 2 * workers:
            first, result = under_way.pop(0)
            yield first, result.get()
    for item, result in under_way:
        yield item, result.get()


def begin_worker(parent: int) -> None:
    """A killed command leaves no workers behind; Ctrl-C is for the parent alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(parent)


# ------------------------------------------------------------------ the report


def refuse_empty(account: Account, input: Path) -> None:
    if not account.rows_in:
        raise WrongUse(
            "data.empty", f"{input} has no rows", where=Where(str(input), field="--input"),
            hint="name a file or folder with rows",
        )  # fmt: skip
    if account.unreadable == account.rows_in:
        raise WrongUse(
            "data.all_unreadable", f"none of the {account.rows_in} lines of {input} can be read",
            where=Where(str(input), field="--input"),
            why=", ".join(f"{n} {kind}" for kind, n in account.by_reason.most_common()),
            hint="rows need `messages`, `prompt` and `completion`, or `text`",
        )  # fmt: skip


def report_of(account: Account, seconds: float) -> dict[str, Any]:
    return {
        "in": account.rows_in,
        "kept": account.kept,
        "dropped": account.dropped,
        "changed": account.changed,
        "by_reason": dict(sorted(account.by_reason.items())),
        "masked": dict(sorted(account.masked.items())),
        "bytes_in": account.bytes_in,
        "seconds": round(seconds, 3),
        "mb_per_s": round(account.bytes_in / seconds / 1e6, 3),
        "files": [
            {"name": f.name, "format": f.format, "encoding": f.encoding, "in": f.rows_in}
            for f in account.files
        ],
    }
