"""`steelyard clean`: files in, cleaned files and a report out, with no recipe.

Each row is judged as `up` judges it (judging/). Lines go in blocks of about 1 MB, to one process or many;
what needs the order of the rows (duplicates) or all of them is decided in that order by one, and a
second pass leaves out what only the whole set could say. So any number of workers gives the same bytes.
Outputs have a temporary name until all are whole: after a kill the same command makes the same files.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson

from ..artefact import Watch
from ..errors import Stopped, Where, WrongUse
from ..processes import die_with_parent
from ..trust import atomic, disk_problem, sync_folder
from .account import Account, FileAccount
from .clean import drop_line
from .cleaning import model_at
from .judging import Batch, Lines, Sieve, asked_alone, equal_batch, equal_lines, judge
from .questions import Questions
from .reading.columns import guess_map
from .reading.files import SUFFIXES, TABLES, Broken, Record, open_data
from .reading.folders import DROPPED, REPORT, every_file
from .reading.messages import Misfit
from .reading.opened import bare, packed
from .reading.shapes import content_of
from .reading.sources import (
    RowReader,
    Source,
    check_words,
    is_data,
    is_needed,
    line_pieces,
    name_of,
    paths_of,
    records,
)  # fmt: skip
from .reading.stores.remote import local_copy, url_of
from .reading.stores.sending import check_here, folder_for
from .row import Row, as_line
from .steps import Rules, suppressed

BLOCK_BYTES = 1 << 20
PII = "mask"  # here the rows leave for elsewhere: personal data is replaced unless asked otherwise


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of one file, and how it becomes rows: records, or whole lines that nobody looked into yet."""

    reader: RowReader
    records: list[Record] = field(default_factory=list)
    lines: bytes = b""
    first: int = 1  # the number of the first line


def clean_files(
    input: Path,
    output: Path,
    report: Path | None = None,
    contamination: Path | None = None,
    workers: int = 1,
    settings: Mapping[str, Any] | None = None,
    map: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
    dry_run: bool = False,
    others: AbstractContextManager[Mapper] | None = None,
) -> dict[str, Any]:
    """Clean a file or a folder of files into `output`, a folder here or a URL; returns the report.

    {"in", "kept", "dropped", "changed", "by_reason", "masked", "personal", "repaired", "manner", "made",
    "bytes_in", "seconds", "mb_per_s", "files", "unreadable", "faults": {file: why}, "input"}. A dry run
    writes the report and dropped.jsonl alone. `settings` are the words of the recipe's `clean`, `map` the
    columns as in its `data`; `others` maps blocks elsewhere, as `mapper` does here. Lines and files that
    cannot be read are dropped. Raises WrongUse (2): nothing to read, all lines unreadable, output in the
    input folder.
    """
    check_here(report, "--report")
    url, elsewhere = url_of(input), url_of(output)
    if url is not None and url == elsewhere:
        raise same_folder(output)
    with folder_for(output, dry_run) as folder:
        here = input if url is None else local_copy(url, is_needed)
        source = Source(path=str(here), map=dict(map or {}))
        asked = Asked(contamination, settings or {}, workers, dry_run, others)
        document = clean_into(folder, source, asked, watch or Watch())
        document["input"] |= {"url": url} if url else {}
        for target in {report or folder / REPORT, *([folder / REPORT] if elsewhere else [])}:
            write_report(target, document)
    return document


@dataclass(frozen=True, slots=True)
class Asked:
    """Of one cleaning: the file of questions, the words of a recipe for its rules, who maps the blocks."""

    contamination: Path | None
    given: Mapping[str, Any]
    workers: int
    dry_run: bool
    others: AbstractContextManager[Mapper] | None


def rules_for(given: Mapping[str, Any]) -> Rules:
    """Of the words of a recipe's `clean`, as rows that leave for elsewhere want them."""
    more = {**model_at(given, Path(".")), "unreadable": "drop", "suppressed": suppressed()}
    return Rules(**{"pii": PII, **given, **more})


def clean_into(output: Path, source: Source, asked: Asked, watch: Watch) -> dict[str, Any]:
    """Input and output are of this machine; the report is still to be written."""
    started = time.perf_counter()
    check_words(source)
    input = Path(source.path)
    files = [FileAccount(name, source.ability, path) for path, name in inputs_of(input, output)]
    rules, questions = rules_for(asked.given), questions_of(asked.contamination)
    check = partial(judge_block, rules=rules, questions=questions)
    with writing(output, asked.dry_run) as outputs:
        account = Account(files)
        sieve = Sieve(rules, account, on_drop=outputs.drop, folder=output, workers=asked.workers)
        with (
            asked.others or mapper(asked.workers) as map_blocks,
            watch.progress("clean", *amount(files)) as bar,
        ):
            whole = asked_alone(rules, questions)
            read: Counter[str] = Counter()
            for file, batch in judged_lines(map_blocks, check, files, source, whole):
                stop_if_asked(watch)
                write_lines(batch, sieve, file, outputs.of(target_of(file.name)))
                bar.advance(file.bytes - read[file.name])
                read[file.name] = file.bytes
        refuse_empty(account, source)
        gone = sieve.settle()
        outputs.leave_out(gone, targets_of(sieve))
        sieve.teach(gone)
    return report_of(account, time.perf_counter() - started) | {
        "input": {"path": str(input.absolute()), "map": dict(source.map)}
    }


def write_report(target: Path, document: Mapping[str, Any]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic(target, 0o644) as to_report:
        to_report.write(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def amount(files: Sequence[FileAccount]) -> tuple[float | None, str]:
    """(all bytes, their unit); None where a file is packed: how many it holds is known at its end."""
    known = not any(packed(file.path) or file.path.is_dir() for file in files)
    return (sum(file.path.stat().st_size for file in files) if known else None), "bytes"


def stop_if_asked(watch: Watch | None) -> None:
    if watch is not None and watch.stop:
        raise Stopped("run.stopped", "cleaning was stopped", hint="run the same command again")


def write_lines(batch: Batch | Lines, sieve: Sieve, file: FileAccount, target: BinaryIO) -> None:
    """The rows that stay for now, in their order."""
    if isinstance(batch, Lines):
        target.writelines(sieve.take_lines(batch, file))
        return
    target.writelines(judged.body for judged in sieve.take(batch, file))


def targets_of(sieve: Sieve) -> list[tuple[int, str]]:
    """(number of the first row, the file that it and those after it went to)."""
    return [(first, target_of(file.name)) for first, file in sieve.begins]


# ------------------------------------------------------------------ files in and out


def inputs_of(input: Path, output: Path) -> list[tuple[Path, str]]:
    """The files to clean, with names free of any folder. Raises WrongUse."""
    root = input if input.is_dir() else input.parent
    if output.resolve() == root.resolve():
        raise same_folder(output)
    if input.is_dir():
        closed: list[Path] = []  # folders that cannot be listed: each is an input that cannot be read
        paths = [p for p in every_file(input, closed) if is_data(p)]
        paths = [p for p in [*paths, *closed] if not p.resolve().is_relative_to(output.resolve())]
    else:
        paths = paths_of(Source(path=str(input.absolute())), Path("/"))
    if not paths:
        raise WrongUse(
            "data.missing_file", f"{input} holds no data file", where=Where(str(input), field="--input"),
            hint=f"files end in {', '.join(sorted(SUFFIXES))}, with or without .gz or .zst",
        )  # fmt: skip
    return [(path, name_of(path, root)) for path in paths]


def same_folder(output: Path) -> WrongUse:
    return WrongUse(
        "data.same_folder", "the output folder is the input's",
        where=Where(str(output), field="--output"),
        hint="name another folder: cleaning never writes over its input",
    )  # fmt: skip


def target_of(name: str) -> str:
    """`notes/a.csv.gz` becomes `notes/a.jsonl`; a file of our own name is renamed."""
    plain = Path(bare(name))
    target = plain.with_suffix(".jsonl")
    if target.as_posix() == DROPPED:
        return "dropped-rows.jsonl"
    return target.as_posix()


class Outputs:
    """Files that appear together: each has a temporary name until `publish`. One is open at a time."""

    def __init__(self, folder: Path, dry_run: bool = False) -> None:
        self.folder, self.dry_run = folder, dry_run
        self.dropped = self.part(DROPPED).open("wb")
        self.names: list[str] = []
        self.name, self.file = "", self.dropped

    def part(self, name: str) -> Path:
        path = self.folder / f"{name}.part"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def of(self, name: str) -> BinaryIO:
        """The file for `name`; names come in runs, a later run goes on where the first ended."""
        if name != self.name:
            self.close()
            mode = "ab" if name in self.names else "wb"  # what a killed run left is written anew
            self.file = self.part(name).open(mode)  # type: ignore[assignment]
            self.names += [] if name in self.names else [name]
            self.name = name
        return self.file

    def drop(self, id: str, reasons: Sequence[str], evidence: Mapping[str, Any]) -> None:
        self.dropped.write(as_line(drop_line(id, reasons, evidence)))

    def leave_out(self, rows: np.ndarray, begins: Sequence[tuple[int, str]]) -> None:
        """Write the files that hold these rows, by number and rising, again without them."""
        self.close()
        ends = [*(first for first, _ in begins[1:]), sys.maxsize]
        gone: dict[str, list[np.ndarray]] = {}
        lines: Counter[str] = Counter()
        for (first, name), end in zip(begins, ends, strict=True):
            mine = rows[np.searchsorted(rows, first) : np.searchsorted(rows, end)]
            if len(mine):
                gone.setdefault(name, []).append(mine - first + lines[name])
            lines[name] += end - first
        for name, pieces in gone.items():
            leave_out_of(self.part(name), np.concatenate(pieces))

    def close(self) -> None:
        if self.name:
            durable(self.file)
            self.name = ""

    def publish(self) -> None:
        """All names at once; dropped.jsonl is last and says that the rest is whole."""
        self.close()
        durable(self.dropped)
        for name in [DROPPED] if self.dry_run else [*self.names, DROPPED]:
            os.replace(self.part(name), self.folder / name)
        sync_folder(self.folder)

    def discard(self) -> None:
        for file in (self.file, self.dropped):
            with suppress(OSError):  # a full disk fails the flush again
                file.close()
        for name in [*self.names, DROPPED]:
            self.part(name).unlink(missing_ok=True)


def leave_out_of(path: Path, gone: np.ndarray) -> None:
    """`gone`: numbers of lines, rising."""
    kept = path.with_name(f"{path.name}.kept")
    with open(path, "rb") as lines, open(kept, "wb") as to:
        at = 0
        for number in gone.tolist():
            to.writelines(islice(lines, number - at))
            next(lines)
            at = number + 1
        shutil.copyfileobj(lines, to)
        to.flush()
        os.fsync(to.fileno())
    os.replace(kept, path)


def durable(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()


@contextmanager
def writing(folder: Path, dry_run: bool = False) -> Iterator[Outputs]:
    """Outputs that are published if the block ends well, and gone otherwise. Raises Lacking (disk)."""
    try:
        outputs = Outputs(folder, dry_run)
        try:
            yield outputs
            outputs.publish()
        finally:
            outputs.discard()
    except OSError as e:
        raise disk_problem(e, Path(e.filename or folder)) from e


def blocks(files: Iterable[FileAccount], source: Source, whole: bool = False) -> Iterator[Block]:
    """Records in pieces of about 1 MB, in order; with `whole` lines, where a file has such."""
    for file in files:
        reader = RowReader.of(source, file)
        if whole and (pieces := line_pieces(source, file)) is not None:
            yield from (line_block(reader, first, piece) for first, piece in pieces)
            continue
        yield from file_blocks(reader, records(source, file, lenient=True, check=bool(source.map)))


def line_block(reader: RowReader, first: int, piece: bytes | Broken) -> Block:
    if isinstance(piece, Broken):
        return Block(reader, [(first, piece)])
    return Block(reader, lines=piece, first=first)


def file_blocks(reader: RowReader, pieces: Iterable[Record]) -> Iterator[Block]:
    held: list[Record] = []
    size = 0
    for line, fields in pieces:
        held.append((line, fields))
        size += size_of(fields)
        if size >= BLOCK_BYTES:
            yield Block(reader, held)
            held, size = [], 0
    if held:
        yield Block(reader, held)


def size_of(fields: dict[str, Any] | Broken) -> int:
    if isinstance(fields, Broken):
        return 1
    return sum(len(v) if isinstance(v, str) else 256 for v in fields.values())


def judged_lines(
    map_blocks: Mapper,
    check: Callable[[Block], Batch | Lines],
    files: list[FileAccount],
    source: Source,
    whole: bool = False,
) -> Iterator[tuple[FileAccount, Batch | Lines]]:
    """Each block's rows with the account of its file; `whole`: as whole lines where that can be."""
    by_name = {file.name: file for file in files}
    for block, batch in map_blocks(check, blocks(files, source, whole)):
        yield by_name[block.reader.name], batch


# ------------------------------------------------------------------ one block


def judge_block(block: Block, rules: Rules, questions: Questions) -> Batch | Lines:
    """Every record of a block, cleaned. Pure; runs in a worker."""
    if block.lines:
        return equal_lines(block.reader, block.first, block.lines, rules, body_of)
    if asked_alone(rules, questions):
        return equal_batch(block.reader, block.records, rules, body_of)
    given = [None if isinstance(fields, Broken) else fields.get("id") for _, fields in block.records]
    ids = [str(given_id(fields)) for _, fields in block.records]
    items = [
        block.reader.row(line, fields, id) for (line, fields), id in zip(block.records, ids, strict=True)
    ]
    batch = judge(items, rules, questions)
    for judged, id in zip(batch.judged, given, strict=True):
        judged.body = body_of(judged.row, id) if judged.row else b""
        judged.row = judged.original = None
    return batch


def given_id(fields: dict[str, Any] | Broken) -> str | int:
    """The id that a record brought; "" where it brought none."""
    own = "" if isinstance(fields, Broken) else fields.get("id")
    return own if isinstance(own, str | int) else ""


def body_of(row: Row, given: Any) -> bytes:
    """The row as a line; a number that names it stays a number."""
    merged = row.merged()
    return as_line({**merged, "id": given} if isinstance(given, int) else merged)


# ------------------------------------------------------------------ evaluation questions


def questions_of(path: Path | None) -> Questions:
    """The questions that must not be trained on: rows with `question`, or of any known shape."""
    if path is None:
        return Questions()
    source = Source(path=url_of(path) or str(path.absolute()))
    file = open_data(paths_of(source, Path("/"))[0], lenient=True)
    rows = (question_row(fields) for _, fields in file.records() if not isinstance(fields, Broken))
    return Questions.of(row for row in rows if row is not None)


def question_row(fields: Mapping[str, Any]) -> Row | None:
    question = fields.get("question")
    if isinstance(question, str):
        messages = ({"role": "user", "content": question},)
        return Row("", "", 0, messages=messages) if question.strip() else None
    try:
        content = content_of(fields, None)
    except Misfit:
        return None
    return Row("", "", 0, messages=content.messages, text=content.text)


# ------------------------------------------------------------------ workers


Mapper = Callable[[Callable[[Block], Any], Iterator[Block]], Iterator[tuple[Block, Any]]]


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
    pool: Any, workers: int, check: Callable[[Block], Any], items: Iterator[Block]
) -> Iterator[tuple[Block, Any]]:
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
    # The pool ends its workers by SIGTERM: under the parent's handler one that waits for a block would stay.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent(parent)


# ------------------------------------------------------------------ the report


def refuse_empty(account: Account, source: Source) -> None:
    at = Where(source.path, field="--input")
    if not account.read:
        raise WrongUse(
            "data.empty", f"{source.path} has no rows", where=at, hint="name a file or folder with rows"
        )
    if account.unreadable == account.read:
        if all(file.fault for file in account.files) and account.files[0].fault:
            raise account.files[0].fault
        raise WrongUse(
            "data.all_unreadable", f"none of the {account.read} lines of {source.path} can be read", where=at,
            why=", ".join(f"{n} {kind}" for kind, n in account.by_reason.most_common()),
            hint=map_hint(account) or "rows need `messages`, `prompt` and `completion`, or `text`",
        )  # fmt: skip


def map_hint(account: Account) -> str:
    """For a table: the flag that names its columns, with a guess where its headings give one."""
    table = next((f for f in account.files if f.format in TABLES), None)
    if table is None:
        return ""
    file = open_data(table.path, lenient=True)
    next(file.records(), None)
    columns = [c for c in file.columns or [] if c]
    guess = guess_map(columns)
    pairs = ",".join(f"{w}={c if isinstance(c, str) else '+'.join(c)}" for w, c in guess.map.items())
    return f"--map {pairs or 'user=COLUMN,assistant=COLUMN'} (its columns are {', '.join(columns[:12])})"


def report_of(account: Account, seconds: float) -> dict[str, Any]:
    account.check()
    return {
        "in": account.read,
        "kept": account.kept,
        "dropped": account.dropped,
        "changed": account.changed,
        "by_reason": dict(sorted(account.by_reason.items())),
        "personal": {kind: n for kind, n in sorted(account.personal.items()) if n},
        "masked": dict(sorted(account.masked.items())),
        "repaired": {kind: rows for kind, rows in sorted(account.repaired.items()) if rows},
        "manner": dict(sorted(account.manner.items())),
        **account.terms_as_json(),
        "placeholder_answers": account.placeholder_answers,
        "made": account.made,
        "bytes_in": account.bytes_in,
        "seconds": round(seconds, 3),
        "mb_per_s": round(account.bytes_in / seconds / 1e6, 3),
        "files": [
            {"name": f.name, "format": f.format, "encoding": f.encoding, "in": f.read, "kept": f.kept}
            for f in account.files
        ],
        "unreadable": account.unreadable,
        "faults": {f.name: f.fault.why or f.fault.message for f in account.files if f.fault},
    }
