"""The ledger file: appended to by many runs at once, never rewritten.

SQLite in WAL mode, so that a reader never waits for a writer and a kill loses at most the row being written.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from steelyard.errors import Lacking, Where

SCHEMA = """
CREATE TABLE IF NOT EXISTS steps (
  id INTEGER PRIMARY KEY, time_s REAL NOT NULL, run TEXT NOT NULL, step TEXT NOT NULL, machine TEXT NOT NULL,
  hardware TEXT NOT NULL, features TEXT NOT NULL, predicted TEXT NOT NULL, measured TEXT NOT NULL,
  versions TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS by_machine ON steps (machine, step);
PRAGMA user_version = 1;
"""
WAIT_S = 30.0  # a writer holds the lock for milliseconds; longer means a dead disk


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One step of one run. `hardware` is "here", or "untested: <device>" where it could not be run here."""

    run: str
    step: str
    machine: str  # fingerprint
    features: Mapping[str, Any] = field(
        default_factory=dict
    )  # settings, shape, tokens: what the prediction knew
    predicted: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    hardware: str = "here"
    time_s: float = 0.0  # seconds since 1970; 0 = now, set when written

    def as_json(self) -> dict[str, Any]:
        """The row as a plain dict."""
        return {
            f.name: (dict(v) if isinstance(v := getattr(self, f.name), Mapping) else v) for f in fields(self)
        }


JSON_COLUMNS = ("features", "predicted", "measured", "versions")
COLUMNS = tuple(f.name for f in fields(Row))


@dataclass(frozen=True, slots=True)
class Ledger:
    """The ledger in one file, made at the first write."""

    path: Path

    def write(self, row: Row) -> None:
        """Append one row, durably. Raises Lacking where the file is damaged or cannot be written."""
        columns = row.as_json() | {"time_s": row.time_s or time.time()}
        values = [
            json.dumps(columns[c], sort_keys=True) if c in JSON_COLUMNS else columns[c] for c in COLUMNS
        ]
        with self._open() as db:
            db.execute(
                f"INSERT INTO steps ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})", values
            )

    def rows(self, **where: Any) -> list[Row]:
        """Rows whose columns equal `where` (run, step, machine, hardware), oldest first; [] if no file."""
        unknown = set(where) - set(COLUMNS) | set(where) & set(JSON_COLUMNS)
        if unknown:
            raise ValueError(f"not a column to choose by: {sorted(unknown)}")
        if not self.path.exists():
            return []
        clause = " AND ".join(f"{name} = ?" for name in where) or "1"
        with self._open() as db:
            records = db.execute(
                f"SELECT {', '.join(COLUMNS)} FROM steps WHERE {clause} ORDER BY id", list(where.values())
            ).fetchall()
        return [_row(values) for values in records]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self.path, timeout=WAIT_S)
            try:
                _write_ahead(db)
                db.execute("PRAGMA synchronous = FULL")
                db.executescript(SCHEMA)
                with db:
                    yield db
            finally:
                db.close()
        except sqlite3.OperationalError as e:
            raise Lacking(
                "ledger.unusable",
                f"the ledger cannot be used: {e}",
                where=Where(str(self.path)),
                hint="check that the folder is writable and the disk is not full",
            ) from e
        except sqlite3.DatabaseError as e:
            raise self._put_aside(e) from e
        except OSError as e:
            raise Lacking("ledger.unusable", f"{e.strerror}", where=Where(str(self.path))) from e

    def _put_aside(self, cause: Exception) -> Lacking:
        """Rename a damaged file, its journal with it: the next call starts a new one and nothing is lost."""
        count = next(n for n in range(1, 10_000) if not self._aside(n).exists())
        for tail in ("", "-wal", "-shm"):
            part = self.path.with_name(self.path.name + tail)
            if part.exists():
                part.rename(self._aside(count).with_name(self._aside(count).name + tail))
        return Lacking(
            "ledger.damaged",
            f"the ledger is damaged ({cause}); it was kept as {self._aside(count).name}",
            where=Where(str(self.path)),
            hint="run the same command again: it starts a new ledger",
        )

    def _aside(self, count: int) -> Path:
        return self.path.with_name(f"{self.path.name}.damaged-{count}")


def _write_ahead(db: sqlite3.Connection) -> None:
    """Switch to WAL. SQLite does not wait its time-out for this lock, so it is asked for again."""
    end = time.monotonic() + WAIT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as e:
            if "locked" not in str(e) or time.monotonic() > end:
                raise
            time.sleep(0.01)


def _row(values: tuple) -> Row:
    columns = dict(zip(COLUMNS, values, strict=True))
    return Row(**{k: json.loads(v) if k in JSON_COLUMNS else v for k, v in columns.items()})
