"""The file of events: one JSON object a line, the first tells the fleet. Live drivers write the same."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import Where, WrongUse

Write = Any  # (fields) -> None


@contextmanager
def events_file(path: Path | None) -> Iterator[Write]:
    """A function that writes one event. The file stands under its name only when all of it is written."""
    if path is None:
        yield None
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        file = draft.open("w", encoding="utf-8")
    except OSError as error:
        hint = "give a path in a folder that can be written"
        raise WrongUse("events.file", f"cannot write {path}", where=Where(str(path)), hint=hint) from error
    encode = json.JSONEncoder(separators=(",", ":")).encode
    try:
        with file:
            yield lambda fields: file.write(encode(fields) + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
