"""CSV files in: rows as dicts of text, with errors that name file, line and column."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from steelyard.errors import Where, WrongUse


def read_table(path: Path, required: Sequence[str] = ()) -> list[dict[str, str]]:
    """Rows of a CSV file with a header line; a missing cell is "".

    Raises WrongUse where the file is not there, is not UTF-8, lacks a `required` column or a row is too long.
    """
    return [row for _, row in numbered(path, required)]


def numbered(path: Path, required: Sequence[str] = ()) -> list[tuple[int, dict[str, str]]]:
    """The rows of `read_table`, each with the line where it ends, counted from 1."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(_rows(csv.DictReader(file, restval=""), path, required))
    except FileNotFoundError as e:
        raise WrongUse("table.missing", f"{path} is not there", where=Where(str(path))) from e
    except (UnicodeDecodeError, csv.Error, IsADirectoryError) as e:
        raise WrongUse("table.unreadable", f"{path} is no CSV in UTF-8: {e}", where=Where(str(path))) from e


def _rows(reader: csv.DictReader, path: Path, required: Sequence[str]):
    lacking = [name for name in required if name not in (reader.fieldnames or ())]
    if lacking:
        raise WrongUse(
            "table.column_missing",
            f"the header lacks the column {lacking[0]!r}",
            where=Where(str(path), 1, lacking[0]),
            hint=f"columns needed: {', '.join(required)}",
        )
    for row in reader:
        if None in row:
            raise WrongUse(
                "table.row_too_long",
                "a row has more cells than the header has columns",
                where=Where(str(path), reader.line_num),
                hint="quote cells that hold a comma",
            )
        yield reader.line_num, row
