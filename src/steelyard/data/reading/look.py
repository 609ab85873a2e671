"""A first look at a file, before there is a recipe: columns with sample cells, sheets, a likely map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from ..row import Row
from .columns import NO_GUESS, SAMPLE_ROWS, Column, Guess, guess_map
from .files import Broken, DataFile, open_data
from .kinds import Answers
from .shapes import shape_of
from .sources import Source, paths_of, rows


@dataclass(frozen=True, slots=True)
class Sniff:
    """What `init` learns of a file."""

    format: str
    encoding: str
    shape: str | None  # of the rows; None = it needs `map`
    columns: tuple[Column, ...]
    guess: Guess  # the likely map where `shape` is None
    rows: int
    unreadable: int
    sheet: str | None = None  # of a workbook: the one looked at, where it is not the first
    sheets: Mapping[str, int] = field(default_factory=dict)  # rows of each


def sniff(path: Path, sheet: str | None = None) -> Sniff:
    """Format, encoding, columns and number of rows. Raises WrongUse.

    Of a workbook the first sheet that has a question and an answer, else the one with the most rows.
    """
    path = paths_of(Source(path=str(path)), Path("."))[0]
    first = open_data(path, lenient=True, sheet=sheet)
    if first.format != "xlsx" or sheet:
        return sniff_sheet(first)
    return sniff_book(path)


def sniff_book(path: Path) -> Sniff:
    names = sheet_names(path)
    sniffs = {name: sniff_sheet(open_data(path, lenient=True, sheet=name)) for name in names}
    usable = [name for name, s in sniffs.items() if s.shape or s.guess]
    chosen = usable[0] if usable else max(names, key=lambda name: sniffs[name].rows)
    return replace(
        sniffs[chosen],
        sheet=None if chosen == names[0] else chosen,
        sheets={name: s.rows for name, s in sniffs.items()},
    )


def sheet_names(path: Path) -> tuple[str, ...]:
    file = open_data(path, lenient=True)
    next(file.records(), None)
    return file.sheets


def sniff_sheet(file: DataFile) -> Sniff:
    """One pass: the first rows are a sample, the rest is only counted."""
    sample: list[dict[str, Any]] = []
    count = bad = 0
    for _, fields in file.records():
        count += 1
        if isinstance(fields, Broken):
            bad += 1
        elif len(sample) < SAMPLE_ROWS:
            sample.append(fields)
    names = [c for c in file.columns or list(sample[0] if sample else {}) if c]
    columns = tuple(Column.of(name, sample) for name in names)
    shape = shape_of(dict.fromkeys(names))
    if shape == "text" and file.columns:
        shape = None  # a table's column of this name is prose of any kind: its owner says what it teaches
    guess = NO_GUESS if shape else guess_map(columns)
    return Sniff(file.format, str(file.encoding or ""), shape, columns, guess, count, bad)


def rows_with(path: Path, names: Sequence[str], sheet: str | None = None) -> int:
    """How many rows have something in every one of these columns."""
    file = open_data(paths_of(Source(path=str(path)), Path("."))[0], lenient=True, sheet=sheet)
    return sum(
        all(str(fields.get(name) or "").strip() for name in names)
        for _, fields in file.records()
        if not isinstance(fields, Broken)
    )


def answers_of(source: Source, root: Path = Path(".")) -> Answers:
    """What the answers of a source look like, by its first rows; for the gate's `compare`."""
    texts = [row.answers[-1] for row in islice(rows(source, root, lenient=True), SAMPLE_ROWS * 5)
             if isinstance(row, Row) and row.messages and row.answers]  # fmt: skip
    return Answers.of(texts)
