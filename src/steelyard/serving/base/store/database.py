"""One SQLite file (WAL): used from threads, and by several processes at once.

A file that SQLite cannot read is set aside with a line in the log, and a new one begun. What a full disk
refuses is a `StoreFull`, and nothing of that transaction stays. Not here: what the tables mean (store.py).
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ....errors import Lacking
from ..errors import ApiError
from ..log import log

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
FILE = "store.sqlite"
WAIT_S = 10.0  # for another process's transaction
VERSION = 1
SCHEMA = """
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS objects (
  kind TEXT NOT NULL, id TEXT NOT NULL, owner TEXT, status TEXT, expires_at INTEGER,
  bytes INTEGER NOT NULL, record BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS by_id ON objects (kind, id);
CREATE INDEX IF NOT EXISTS by_owner ON objects (owner, kind, bytes);
CREATE INDEX IF NOT EXISTS by_status ON objects (kind, status);
CREATE INDEX IF NOT EXISTS by_end ON objects (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS lines (
  kind TEXT NOT NULL, id TEXT NOT NULL, n INTEGER NOT NULL, bytes INTEGER NOT NULL, record BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS by_line ON lines (id, kind, n);
CREATE TABLE IF NOT EXISTS parts (name TEXT NOT NULL, id TEXT NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS by_name ON parts (name, id);
CREATE INDEX IF NOT EXISTS by_whole ON parts (id);
CREATE INDEX IF NOT EXISTS by_any_id ON objects (id);
PRAGMA user_version = 1;
COMMIT;
"""


class StoreFull(ApiError):
    """The disk takes nothing more: HTTP 507. Once there is room, the same request works."""

    def __init__(self, why: str) -> None:
        message = (
            f"the disk of the service's store takes nothing more ({why}): free some space, then try again"
        )
        super().__init__(507, message, code="disk_full")


def disk_full(error: BaseException) -> StoreFull | None:
    """What a full or read-only disk means to a client; None for every other error."""
    if isinstance(error, StoreFull):
        return error
    if isinstance(error, Lacking) and error.code.startswith("disk."):
        return StoreFull(error.why or error.message)
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return StoreFull(os.strerror(error.errno))
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(error, sqlite3.OperationalError) and code is not None and code & 0xFF in REFUSED:
        return StoreFull(str(error))
    return None


class Database:
    """Opened on first use. Calls block: keep them off the event loop."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._depth = 0
        self.unshrunk = True  # an earlier process may have been killed before it had emptied the log

    def exists(self) -> bool:
        return self.path.exists()

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """None where there is no file yet. Raises StoreFull where it cannot even be opened."""
        if not self.exists():
            return []
        with self._lock, translated():
            return self._opened().execute(sql, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction; inside another one, a part of that. Raises StoreFull."""
        with self._lock, translated():
            connection = self._opened()
            if self._depth:
                yield connection
                return
            connection.execute("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # a full disk may have rolled back already
                    connection.execute("ROLLBACK")
                raise
            finally:
                self._depth = 0

    def shrink(self) -> None:
        """Give freed pages back, and leave nothing of what was deleted in the log beside the file.

        Where another connection still reads the log, `unshrunk` stays set: call it again.
        """
        self.unshrunk = True
        with self._lock, suppress(sqlite3.Error):
            self._opened().execute("PRAGMA incremental_vacuum").fetchall()
            ((busy, _, _),) = self._opened().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self.unshrunk = bool(busy)

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            try:
                self._connection = _connect(self.path)
            except sqlite3.DatabaseError as e:
                if disk_full(e) or _busy(e):
                    raise
                _set_aside(self.path, str(e))
                self._connection = _connect(self.path)
        return self._connection


def _busy(error: sqlite3.DatabaseError) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


@contextmanager
def translated() -> Iterator[None]:
    """A full disk as StoreFull."""
    try:
        yield
    except (OSError, sqlite3.OperationalError, Lacking) as e:
        if full := disk_full(e):
            raise full from e
        raise


def _connect(path: Path) -> sqlite3.Connection:
    """Raises sqlite3.DatabaseError where the file is not ours to read."""
    path.touch(mode=0o600)
    connection = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None, check_same_thread=False)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise sqlite3.DatabaseError(f"version {version} is of a later steelyard")
        if version < VERSION:
            connection.executescript(SCHEMA)
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("SELECT count(*) FROM objects WHERE kind = ''").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _set_aside(path: Path, why: str) -> None:
    """Its log and index go with it: they belong to no other file."""
    aside = f"{path.name}.unreadable-{time.time_ns():x}"
    for end in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + end).rename(path.with_name(aside + end))
    log("store.set_aside", file=aside, why=why)
