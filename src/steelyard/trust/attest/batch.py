"""Cases from a file of JSON lines, each judged in its order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import Where, WrongUse
from .cases import Case, read_case

NEEDED = ("id", "quote", "collateral", "policy", "at")
FILES = ("quote", "collateral", "policy", "runtime_data", "nonce_store")
ALLOWED = {*NEEDED, *FILES, "nonce"}


def read_batch(path: Path) -> Iterator[tuple[str, Case]]:
    """(id, case) of each line; paths are relative to the file's folder. Raises WrongUse with the line."""
    try:
        lines = path.read_text("utf-8").split("\n")  # a text in JSON may hold other ends of lines
    except (OSError, ValueError) as e:
        raise WrongUse(
            "attest.unreadable", f"cannot read {path}", where=Where(str(path)), why=str(e),
            hint="name a file that is there and can be read",
        ) from e  # fmt: skip
    rows = [(number, read_row(line, path, number)) for number, line in enumerate(lines, 1) if line.strip()]
    for number, row in rows:
        yield row["id"], case_of(row, path, number)


def read_row(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise wrong_line(path, number, f"it is no JSON: {e}") from e
    if not isinstance(row, dict) or (missing := [name for name in NEEDED if name not in row]):
        raise wrong_line(
            path, number, f"it has no {missing[0]}" if isinstance(row, dict) else "it is no object"
        )
    if strange := [name for name, value in row.items() if name not in ALLOWED or not isinstance(value, str)]:
        raise wrong_line(path, number, f"{strange[0]} is unknown, or no text")
    return row


def case_of(row: dict[str, str], path: Path, number: int) -> Case:
    files = {name: path.parent / row[name] for name in FILES if name in row}
    try:
        return read_case(**files, at=row["at"], nonce=row.get("nonce"))  # type: ignore[arg-type]
    except WrongUse as e:
        raise wrong_line(path, number, f"{e.message}{f': {e.why}' if e.why else ''}") from e


def wrong_line(path: Path, number: int, why: str) -> WrongUse:
    return WrongUse(
        "attest.batch",
        f"a line of {path} is no case",
        where=Where(str(path), line=number),
        why=why,
        hint='a line has "id", "quote", "collateral", "policy", "at"; may have "nonce", "runtime_data"',
    )
