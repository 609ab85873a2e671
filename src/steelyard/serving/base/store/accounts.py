"""What keys have used up, shared by all services of this host that serve by one file of keys.

Each service adds what it has counted since the last time and reads the sum back: one transaction, every
half second; nothing is written where nothing was used. Between two of them a service knows only its own
share, so a limit may be passed by what others let in meanwhile; it is paid back: levels may fall below 0.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

WAIT_S = 2.0  # for another service's transaction
MOST = 2**63 - 1  # that a column holds
SCHEMA = """
CREATE TABLE used (
  key_id TEXT PRIMARY KEY, owner TEXT NOT NULL, period INTEGER NOT NULL, tokens INTEGER NOT NULL);
CREATE TABLE levels (
  key_id TEXT NOT NULL, kind TEXT NOT NULL, a_minute REAL NOT NULL, level REAL NOT NULL, at_s REAL NOT NULL,
  PRIMARY KEY (key_id, kind));
"""
Counts = dict[str, tuple[str, int, int]]  # {key: (owner, period, tokens)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Of one limit: what one service has taken since the last time; `before`: what lay ready there then."""

    a_minute: float
    taken: float
    before: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What one service has counted of a key since the last time. `known`: all that it knows of."""

    key_id: str
    owner: str
    period: int
    tokens: int
    known: int
    levels: dict[str, Level]

    @property
    def used(self) -> bool:
        return bool(self.tokens or any(level.taken for level in self.levels.values()))

    @property
    def shape(self) -> tuple[Any, ...]:
        """What of it stands in the file whether or not anything was used."""
        return self.key_id, self.owner, self.period, *((k, v.a_minute) for k, v in self.levels.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """Of one key over all services: tokens of the period, and what lies ready of each limit."""

    period: int
    tokens: int
    levels: dict[str, float]


class SharedAccounts:
    """One file of SQLite beside the keys. Calls block; OSError where the file cannot be used."""

    def __init__(self, file: Path, old: Path | None = None) -> None:
        """`old`: of an earlier version, taken over by whoever makes the file, and then renamed."""
        self.file, self.old = file, old
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._version = -1  # of the file, when it was last settled
        self._shapes: set[tuple[Any, ...]] = set()  # of the claims then

    def used(self, make: bool = True) -> Counts:
        """As it stands. Where there is no file yet: of the earlier version, which is taken over if `make`."""
        old = self.old is not None and self.old.exists()
        if not self.file.exists() and not (make and old):
            return self.old_counts()
        with self._lock:
            try:
                rows = self._opened().execute("SELECT key_id, owner, period, tokens FROM used")
                return {key_id: (owner, period, tokens) for key_id, owner, period, tokens in rows}
            except sqlite3.Error as e:
                raise OSError(0, str(e), str(self.file)) from e

    def old_counts(self) -> Counts:
        """Of the earlier version's file, while nobody has taken it over."""
        return {} if self.old is None else _old_counts(self.old)

    def settle(self, claims: Sequence[Claim], now_s: float | None = None) -> dict[str, Sum]:
        """Add these, and the sums; {} where there is nothing to add and nothing new.

        All or nothing: after an error the same claims come again.
        """
        now_s = time.time() if now_s is None else now_s
        with self._lock:
            try:
                connection = self._opened()
                shapes = {claim.shape for claim in claims}
                used = any(claim.used for claim in claims)
                if not used and shapes <= self._shapes and _version(connection) == self._version:
                    return {}
                with _writing(connection):
                    sums = {claim.key_id: _settled(connection, claim, now_s) for claim in claims}
                    version = _version(connection)
                self._version, self._shapes = version, shapes
                return sums
            except sqlite3.Error as e:
                raise OSError(0, str(e), str(self.file)) from e

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self.file.touch(0o600)
            connection = sqlite3.connect(
                self.file, timeout=WAIT_S, isolation_level=None, check_same_thread=False
            )
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost the last seconds
                self._make(connection)
            except BaseException:
                connection.close()
                raise
            self._connection, self._version = connection, -1
        return self._connection

    def _make(self, connection: sqlite3.Connection) -> None:
        """The tables, with the counts of the earlier version: by one service, the others find them made."""
        with _writing(connection):
            if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'used'").fetchone():
                return
            for statement in SCHEMA.split(";"):
                connection.execute(statement)
            old = self.old_counts()
            rows = [(key_id, *counts) for key_id, counts in old.items()]
            connection.executemany("INSERT OR IGNORE INTO used VALUES (?, ?, ?, ?)", rows)
        if old and self.old is not None:
            with suppress(OSError):  # it is not looked at again: the tables are made
                self.old.rename(self.old.with_name(self.old.name + ".taken-over"))

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def _old_counts(file: Path) -> Counts:
    """FILE.used of earlier versions: {key: [period, tokens, owner]}, of still earlier ones without owner.

    Rows and files that are no such thing are left out. Raises OSError where it is there and cannot be read.
    """
    try:
        document = orjson.loads(file.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return {}
    rows = document.items() if isinstance(document, dict) else ()
    return {key_id: counts for key_id, row in rows if (counts := _old_row(row))}


def _old_row(row: Any) -> tuple[str, int, int] | None:
    if not isinstance(row, list) or [type(value) for value in row] not in ([int, int], [int, int, str]):
        return None
    period, tokens, *owner = row
    if not (0 <= period <= MOST and 0 <= tokens <= MOST):
        return None
    return owner[0] if owner else "", period, tokens


@contextmanager
def _writing(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # a full disk may have rolled back already
            connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection) -> int:
    """Another one whenever another connection has written."""
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def _settled(connection: sqlite3.Connection, claim: Claim, now_s: float) -> Sum:
    asked = "SELECT owner, period, tokens FROM used WHERE key_id = ?"
    row = connection.execute(asked, [claim.key_id]).fetchone()
    # Without a row (a first time, a file that was lost) what this service knows of is the sum so far.
    owner, period, tokens = row or (claim.owner, claim.period, claim.known - claim.tokens)
    anew = owner not in ("", claim.owner)  # an id that was given out again
    if anew or period < claim.period:
        period, tokens = claim.period, 0
    if period == claim.period:  # else: of a period that is over; the others have begun the next
        tokens += claim.tokens
    values = (claim.owner, period, max(0, tokens))
    if values != row:
        connection.execute("INSERT OR REPLACE INTO used VALUES (?, ?, ?, ?)", (claim.key_id, *values))
    if anew:
        connection.execute("DELETE FROM levels WHERE key_id = ?", [claim.key_id])
    levels = {
        kind: _level(connection, claim.key_id, kind, level.a_minute, level.taken, now_s)
        for kind, level in claim.levels.items()
    }
    return Sum(period=period, tokens=max(0, tokens), levels=levels)


def _level(
    connection: sqlite3.Connection, key_id: str, kind: str, a_minute: float, taken: float, now_s: float
) -> float:
    """What has flowed in since the last time, less what was taken. A changed limit begins full."""
    asked = "SELECT a_minute, level, at_s FROM levels WHERE key_id = ? AND kind = ?"
    row = connection.execute(asked, [key_id, kind]).fetchone()
    before, level, at_s = row or (a_minute, a_minute, now_s)
    if before != a_minute:
        level, at_s = a_minute, now_s
    passed_s = max(0.0, now_s - at_s)  # a clock that was set back gives nothing
    level = min(a_minute, level + passed_s * a_minute / 60) - taken
    if taken or before != a_minute or row is None:
        values = (key_id, kind, a_minute, level, now_s)
        connection.execute("INSERT OR REPLACE INTO levels VALUES (?, ?, ?, ?, ?)", values)
    return level
