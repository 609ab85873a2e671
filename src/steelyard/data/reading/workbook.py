"""A workbook within limits: what it may unpack to, and how large a sheet may say it is.

XML that packs a thousand times, a row that claims the number 10**15, a cell in the last column of each row: a
file of some kilobytes must not cost gigabytes or hours. Not here: what becomes of the rows (files.py).
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .opened import unreadable_file

HELD_BYTES = 256 << 20  # of a part that is held whole, such as the texts of all cells
SHEET_BYTES = 8 << 30  # of a sheet, which is read as it comes
BOMB_BYTES, BOMB_RATIO = 32 << 20, 200  # the scan's; a sheet of equal cells packs 60 times
SHEET_ROWS = 1 << 20  # Excel's own
SHEET_CELLS = 200_000_000


def check_book(path: Path) -> None:
    """Raises WrongUse. What a part says of its size is what zipfile unpacks at most."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as e:
        raise unreadable_file(path, f"it is no XLSX workbook: {type(e).__name__}", e) from e
    for part in parts:
        times = part.file_size // max(1, part.compress_size)
        if part.file_size > BOMB_BYTES and times > BOMB_RATIO:
            raise unreadable_file(path, f"its part {part.filename} unpacks to {times} times its size: a bomb")
        most = SHEET_BYTES if part.filename.startswith("xl/worksheets/") else HELD_BYTES
        if part.file_size > most:
            raise unreadable_file(path, f"its part {part.filename} unpacks to {part.file_size >> 20} MiB")


def rows_of(sheet: Any, path: Path) -> Iterator[tuple[int, Sequence[Any]]]:
    """(line, cells up to the last that is there). Raises WrongUse where it claims more than a sheet holds."""
    sheet.reset_dimensions()  # they are what the file says, and rows would be padded to them
    cells = 0
    for line, row in enumerate(sheet.iter_rows(values_only=True, max_row=SHEET_ROWS + 1), 1):
        cells += len(row)
        if line > SHEET_ROWS or cells > SHEET_CELLS:
            most = f"{SHEET_ROWS:,} rows or {SHEET_CELLS:,} cells"
            raise unreadable_file(path, f"a sheet of it claims more than {most}")
        yield line, row
