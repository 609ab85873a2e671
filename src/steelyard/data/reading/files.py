"""Files as streams of records: JSONL, JSON, CSV, XLSX, Parquet, Arrow, documents; packed; any known encoding.

A record is (line, fields) or (line, Broken): a reader never raises for one bad line, only for a file that
cannot be read at all. `pyarrow` and `openpyxl` load when a file needs them.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from ...errors import Where, WrongUse
from .documents import PASSAGE_CHARS, READERS, declared, document_records
from .encoding import Encoding, decodes, detect, given
from .opened import (
    CPU,
    FAULTS,
    LINE_BYTES_MAX,
    PART_BYTES,
    Broken,
    Record,
    bare,
    binary,
    bounded,
    lacking,
    too_long,
    unreadable_file,
)
from .workbook import check_book, rows_of

DOCUMENTS = tuple(READERS)
FORMATS = ("jsonl", "json", "csv", "tsv", "xlsx", "parquet", "arrow", *DOCUMENTS)
ROWS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".xlsx": "xlsx",
        ".xlsm": "xlsx", ".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow"}  # fmt: skip
SUFFIXES = ROWS | {".txt": "txt", ".md": "md", ".markdown": "md", ".html": "html", ".htm": "html",
                   ".xhtml": "html", ".pdf": "pdf", ".docx": "docx", ".warc": "warc"}  # fmt: skip
BOM = b"\xef\xbb\xbf"
CELL_CHARS_MAX = 1 << 27
TABLES = ("csv", "tsv", "xlsx", "parquet", "arrow")
NO_TEXT = ("xlsx", "parquet", "arrow", "pdf", "docx", "warc")  # their bytes are in no encoding
MENDS = "fix the line, or set `clean: {unreadable: drop}`"


@dataclass(slots=True)
class DataFile:
    """One open file. `columns` is known for tables once reading has begun; `bytes` grows while reading."""

    path: Path
    format: str
    encoding: Encoding | None = None  # None where bytes are no text
    sheet: str | None = None
    sheets: tuple[str, ...] = ()  # of a workbook, once reading has begun
    columns: list[str] | None = None
    bytes: int = 0
    chars: int = PASSAGE_CHARS  # of a passage, at most

    @property
    def is_utf8(self) -> bool:
        return self.encoding is not None and self.encoding.name.startswith(("utf-8", "ascii"))

    def records(self) -> Iterator[Record]:
        """Every record, in order. Raises WrongUse for a file that is not what its name says."""
        with told_as(self.path):
            yield from READ[self.format](self)


@contextmanager
def told_as(path: Path) -> Iterator[None]:
    """What goes wrong while a file is read, as one error of ours."""
    try:
        yield
    except FAULTS as e:
        raise unreadable_file(path, "its gzip stream is cut or damaged", e) from e
    except OSError as e:
        raise unreadable_file(path, e.strerror or str(e), e) from e


def open_data(
    path: Path, format: str | None = None, encoding: str | None = None, sheet: str | None = None,
    lenient: bool = False,
) -> DataFile:  # fmt: skip
    """Look at a file: format by name, encoding by content.

    `lenient` reads a file of unknown encoding as UTF-8 with broken lines. Raises WrongUse.
    """
    if path.is_dir():
        raise unreadable_file(path, "the folder cannot be listed: permission is denied")
    name = format if format in FORMATS else format_of(path)
    if name in NO_TEXT:
        return DataFile(path, name, sheet=sheet)
    if encoding:
        return DataFile(path, name, given(encoding, Where(str(path), field="data.encoding")))
    try:
        with binary(path) as file:
            detected = detect(file) or (declared_in(file) if name == "html" else None)
    except (OSError, *FAULTS) as e:
        raise unreadable_file(path, str(e), e) from e
    if detected is None and not lenient:
        raise unknown_encoding(path)
    return DataFile(path, name, detected or Encoding("utf-8", "mostly"))


def declared_in(file: Any) -> Encoding | None:
    """What a page of HTML says of itself, where its bytes do not say it."""
    file.seek(0)
    name = declared(file.read(4096))
    try:
        return Encoding(codecs.lookup(name).name, "declared") if name else None
    except LookupError:
        return None


def format_of(path: Path) -> str:
    """By the name; a `.gz` or `.zst` behind it does not count. Raises WrongUse."""
    suffix = Path(bare(path.name)).suffix.lower()
    if suffix not in SUFFIXES:
        raise WrongUse(
            "data.unknown_format",
            f"{path.name} has no format that can be read",
            where=Where(str(path)),
            hint=f"name it {', '.join(sorted(SUFFIXES))}, or set `format: jsonl` in the recipe",
        )
    return SUFFIXES[suffix]


def unknown_encoding(path: Path) -> WrongUse:
    """Names the first line whose bytes no known encoding explains."""
    with binary(path) as file:
        line = next((n for n, text in enumerate(file, 1) if not decodes(text, "utf-8")), None)
    return WrongUse(
        "data.undecodable",
        f"the bytes of {path.name} are in no known encoding",
        where=Where(str(path), line),
        why="it is neither UTF-8, UTF-16 nor GB18030",
        hint="set `encoding:` for this source, or drop such lines by `clean: {unreadable: drop}`",
    )


# ------------------------------------------------------------------ JSON


def jsonl(file: DataFile) -> Iterator[Record]:
    assert file.encoding
    lines = wide_lines(file) if file.encoding.wide else byte_lines(file)
    for number, line in lines:
        if isinstance(line, Broken):
            yield number, line
        elif line.strip():
            yield number, parse(line)


def byte_lines(file: DataFile) -> Iterator[tuple[int, bytes | Broken]]:
    """Lines as UTF-8 bytes, cut before decoding: in every narrow encoding 0x0A is only a newline."""
    assert file.encoding
    name, utf8 = file.encoding.name, file.is_utf8
    with binary(file.path) as opened:
        for number, (line, length) in enumerate(bounded(opened), 1):
            file.bytes += length
            if number == 1:
                line = line.removeprefix(BOM)
            if length > LINE_BYTES_MAX:
                yield number, too_long()
            elif utf8:
                yield number, line
            elif decodes(line, name):
                yield number, line.decode(name).encode("utf-8", "surrogatepass")
            else:
                yield number, Broken("broken_encoding", f"its bytes are not {name}")


def pieces_of_lines(file: DataFile) -> Iterator[tuple[int, bytes | Broken]]:
    """(number of its first line, some whole lines or what is wrong with one) of JSONL in UTF-8."""
    number = 1
    with binary(file.path) as opened, told_as(file.path):
        while data := opened.read(PART_BYTES):
            data, length = rest_of_line(opened, data)
            file.bytes += length
            whole = data if length == len(data) else data[: data.rfind(b"\n") + 1]
            if whole:
                yield number, whole.removeprefix(BOM) if number == 1 else whole
            number += whole.count(b"\n")
            if whole is not data:
                yield number, too_long()
                number += 1


def rest_of_line(opened: BinaryIO, data: bytes) -> tuple[bytes, int]:
    """The data up to the end of its last line, and how long it is; that line is cut where it is too long."""
    begun = len(data) - data.rfind(b"\n") - 1
    more, length = next(bounded(opened, LINE_BYTES_MAX - begun), (b"", 0)) if begun else (b"", 0)
    return data + more, len(data) + length


def wide_lines(file: DataFile) -> Iterator[tuple[int, bytes | Broken]]:
    assert file.encoding
    with text_of(file) as text:
        for number, line in enumerate(text, 1):
            broken = "\ufffd" in line
            yield (
                number,
                Broken("broken_encoding", f"its bytes are not {file.encoding.name}")
                if broken
                else (line.encode("utf-8", "surrogatepass")),
            )
    file.bytes = file.path.stat().st_size


def parse(line: bytes) -> dict[str, Any] | Broken:
    try:
        value = orjson.loads(line.rstrip())  # so that a cut line names its own last column
    except orjson.JSONDecodeError as e:
        if not decodes(line, "utf-8"):
            return Broken("broken_encoding", "its bytes are not utf-8")
        return Broken("broken_json", f"not JSON: {e.msg}, column {e.colno}")
    if not isinstance(value, dict):
        return Broken("wrong_shape", "it is JSON, but no object")
    return value


def json_array(file: DataFile) -> Iterator[Record]:
    """A whole file of one JSON list (as alpaca files are), or JSONL under this name."""
    with binary(file.path) as opened:
        data = opened.read()
    assert file.encoding
    try:
        text = data.decode(file.encoding.name)
        values = orjson.loads(text.removeprefix("\ufeff"))
    except (UnicodeDecodeError, orjson.JSONDecodeError):
        values = None
    if not isinstance(values, list):
        yield from jsonl(file)
        return
    file.bytes = len(data)
    for number, value in enumerate(values, 1):
        yield number, value if isinstance(value, dict) else Broken("wrong_shape", "it is no object")


# ------------------------------------------------------------------ tables


def text_of(file: DataFile, newline: str = "\n") -> io.TextIOWrapper:
    """Bytes that do not decode become lone surrogates (U+FFFD in UTF-16), so that only their line is lost."""
    assert file.encoding
    errors = "replace" if file.encoding.wide else "surrogateescape"
    return io.TextIOWrapper(binary(file.path), file.encoding.name, errors, newline)


def table(file: DataFile) -> Iterator[Record]:
    """CSV or TSV with a header line; the separator is the one that the header has most of."""
    csv.field_size_limit(CELL_CHARS_MAX)
    with text_of(file, newline="") as text:
        head = text.readline()
        text.seek(0)
        separator = "\t" if file.format == "tsv" else max(",;\t|", key=head.count)
        reader = csv.reader(text, delimiter=separator)
        header = next(reader, [])
        file.columns = columns = [c.strip().removeprefix("\ufeff") for c in header]
        check_header(file)
        yield from cells(file, reader, columns)
    file.bytes = file.path.stat().st_size


def cells(file: DataFile, reader: Any, columns: list[str]) -> Iterator[Record]:
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as e:
            yield line, Broken("wrong_shape", str(e))
            continue
        if any(row):
            yield line, record(file, columns, row)


def record(file: DataFile, columns: list[str], row: list[str]) -> dict[str, Any] | Broken:
    if len(row) > len(columns) and not any(row[len(columns) :]):
        row = row[: len(columns)]  # a spreadsheet ends its lines with the separators of empty columns
    if len(row) != len(columns):
        return Broken("wrong_shape", f"it has {len(row)} cells where the header has {len(columns)}")
    joined = "".join(row)
    if not joined.isascii() and any("\udc80" <= c <= "\udcff" or c == "\ufffd" for c in joined):
        return Broken("broken_encoding", f"its bytes are not {file.encoding.name if file.encoding else ''}")
    return dict(zip(columns, row, strict=True))


def check_header(file: DataFile) -> None:
    columns = file.columns or []
    twice = next((c for n, c in enumerate(columns) if c and c in columns[:n]), None)
    if twice:
        raise WrongUse(
            "data.column_twice", f"two columns of {file.path.name} are named {twice!r}",
            where=Where(str(file.path), 1), hint="give each column its own name",
        )  # fmt: skip


def xlsx(file: DataFile) -> Iterator[Record]:
    try:
        from openpyxl import load_workbook
    except ImportError as e:
        raise lacking("openpyxl", "XLSX", CPU) from e
    check_book(file.path)
    try:
        book = load_workbook(file.path, read_only=True, data_only=True)
    except Exception as e:  # openpyxl raises what zipfile, xml and KeyError give
        raise unreadable_file(file.path, f"it is no XLSX workbook: {type(e).__name__}", e) from e
    try:
        rows = rows_of(sheet_of(book, file), file.path)
        _, header = next(rows, (1, ()))
        file.columns = columns = [str(c).strip() if c is not None else "" for c in header]
        check_header(file)
        for line, row in rows:
            if any(c is not None for c in row):
                padded = (*row, *[None] * (len(columns) - len(row)))
                yield line, {c: v for c, v in zip(columns, padded, strict=False) if c}
    finally:
        book.close()
    file.bytes = file.path.stat().st_size


def sheet_of(book: Any, file: DataFile) -> Any:
    file.sheets = tuple(book.sheetnames)
    if file.sheet is None:
        return book[book.sheetnames[0]]
    if file.sheet not in book.sheetnames:
        raise WrongUse(
            "data.missing_sheet", f"{file.path.name} has no sheet {file.sheet!r}",
            where=Where(str(file.path), field="data.sheet"), hint=f"it has {', '.join(book.sheetnames)}",
        )  # fmt: skip
    return book[file.sheet]


def parquet(file: DataFile) -> Iterator[Record]:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as e:
        raise lacking("pyarrow", "Parquet", CPU) from e
    line = 0
    try:
        with ParquetFile(file.path) as opened:
            file.columns = list(opened.schema_arrow.names)
            for batch in opened.iter_batches(batch_size=1024, use_threads=False):
                for fields in batch.to_pylist():
                    line += 1
                    yield line, fields
    except pyarrow.ArrowException as e:
        raise unreadable_file(file.path, "it is no whole Parquet file", e) from e
    file.bytes = file.path.stat().st_size


def arrow(file: DataFile) -> Iterator[Record]:
    """As `datasets` saves its shards (a stream), or as a file of Arrow's own kind."""
    try:
        import pyarrow
        from pyarrow import ipc
    except ImportError as e:
        raise lacking("pyarrow", "Arrow", CPU) from e
    line = 0
    try:
        with pyarrow.memory_map(str(file.path)) as opened:
            for batch in batches_of(ipc, pyarrow, opened):
                file.columns = list(batch.schema.names)
                for start in range(0, batch.num_rows, 1024):
                    for fields in batch.slice(start, 1024).to_pylist():
                        line += 1
                        yield line, fields
    except pyarrow.ArrowException as e:
        raise unreadable_file(file.path, "it is no whole Arrow file", e) from e
    file.bytes = file.path.stat().st_size


def batches_of(ipc: Any, pyarrow: Any, opened: Any) -> Iterator[Any]:
    try:
        stream = ipc.open_stream(opened)
    except pyarrow.ArrowInvalid:
        opened.seek(0)
        whole = ipc.open_file(opened)
        yield from (whole.get_batch(number) for number in range(whole.num_record_batches))
        return
    yield from stream


# ------------------------------------------------------------------ documents


def document(file: DataFile) -> Iterator[Record]:
    name = file.encoding.name if file.encoding else ""
    yield from document_records(file.path, file.format, name, file.chars)
    file.bytes = file.path.stat().st_size


READ = {"jsonl": jsonl, "json": json_array, "csv": table, "tsv": table, "xlsx": xlsx, "parquet": parquet,
        "arrow": arrow, **dict.fromkeys(DOCUMENTS, document)}  # fmt: skip
