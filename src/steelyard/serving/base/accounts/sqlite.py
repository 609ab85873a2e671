"""What keys have used up, in one file of SQLite for all services of this host that serve by one file of keys.

Each service adds what it has counted since the last time and reads the sum back: one transaction, every
half second; nothing is written where nothing was used. Between two of them a service knows only its own
share, so a limit may be passed by what others let in meanwhile; it is paid back: levels may fall below 0.
How counts are added up: settling.py. For services of many hosts: postgres.py.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from .settling import Claim, Row, Standing, Sum, Sums, settled

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


class SqliteAccounts:
    """One file of SQLite beside the keys. Calls block; OSError where the file cannot be used."""

    exact = False  # services count for themselves between two looks

    def __init__(self, file: Path, old: Path | None = None) -> None:
        """`old`: of an earlier version, taken over by whoever makes the file, and then renamed."""
        self.file, self.old = file, old
        self.ahead_s = 0.0  # of this host's clock
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._opened_file: tuple[int, int] | None = None
        self._version = -1  # of the file, when it was last settled
        self._shapes: set[tuple[Any, ...]] = set()  # of the claims then

    @property
    def place(self) -> str:
        return str(self.file)

    @property
    def side_by_side(self) -> bool:
        """Not while the earlier version's file counts, which knows no other service."""
        return self.file.exists() or self.old is None or not self.old.exists()

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

    def settle(self, claims: Sequence[Claim], now_s: float | None = None) -> Sums:
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
                    sums = {claim.whose: _settled(connection, claim, now_s) for claim in claims}
                    version = _version(connection)
                self._version, self._shapes = version, shapes
                return sums
            except sqlite3.Error as e:
                raise OSError(0, str(e), str(self.file)) from e

    def heard_of(self) -> bool:
        """Of the last transaction, whatever came of it: a file always answers."""
        return True

    def _opened(self) -> sqlite3.Connection:
        if self._connection is not None and _identity(self.file) != self._opened_file:
            self._let_go()  # somebody has removed or replaced the file: nobody else reads this one any more
        if self._connection is None:
            with _alone_in(self.file.parent):
                self._connection = self._open()
                self._opened_file, self._version = _identity(self.file), -1
        return self._connection

    def _open(self) -> sqlite3.Connection:
        if not os.path.lexists(self.file):  # what a removed file left beside it belongs to no other
            for end in ("-wal", "-shm"):
                self.file.with_name(self.file.name + end).unlink(missing_ok=True)
        self.file.touch(0o600)
        connection = sqlite3.connect(self.file, timeout=WAIT_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost the last seconds
            self._make(connection)
        except BaseException:
            connection.close()
            raise
        return connection

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
            self._let_go()

    def _let_go(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _identity(file: Path) -> tuple[int, int] | None:
    """Which file lies there now; None: none."""
    try:
        stat = file.stat()
    except FileNotFoundError:
        return None
    return stat.st_dev, stat.st_ino


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One service at a time makes or opens a file there."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


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
    before = _row(connection, claim.key_id)
    row, total = settled(before, claim, now_s)
    row = replace(row, held={})  # each service knows its own
    if before is None or row != before:
        values = (claim.key_id, row.owner, row.period, row.tokens)
        connection.execute("INSERT OR REPLACE INTO used VALUES (?, ?, ?, ?)", values)
        _write_levels(connection, claim.key_id, before.levels if before else {}, row.levels)
    return total


def _row(connection: sqlite3.Connection, key_id: str) -> Row | None:
    asked = "SELECT owner, period, tokens FROM used WHERE key_id = ?"
    found = connection.execute(asked, [key_id]).fetchone()
    if found is None:
        return None
    owner, period, tokens = found
    asked = "SELECT kind, a_minute, level, at_s FROM levels WHERE key_id = ?"
    levels = {kind: Standing(*values) for kind, *values in connection.execute(asked, [key_id])}
    return Row(owner=owner, period=period, tokens=tokens, levels=levels)


def _write_levels(
    connection: sqlite3.Connection, key_id: str, before: Mapping[str, Standing], now: Mapping[str, Standing]
) -> None:
    gone = [(key_id, kind) for kind in before if kind not in now]
    connection.executemany("DELETE FROM levels WHERE key_id = ? AND kind = ?", gone)
    changed = [
        (key_id, kind, s.a_minute, s.level, s.at_s) for kind, s in now.items() if before.get(kind) != s
    ]
    connection.executemany("INSERT OR REPLACE INTO levels VALUES (?, ?, ?, ?, ?)", changed)
