"""What keys have used up, shared by all services of this host that serve by one file of keys.

Each service adds what it has counted since the last time and reads the sum back: one transaction, every
half second. Between two of them a service knows only its own share, so a limit may be passed by what others
let in meanwhile; it is paid back, since levels may fall below 0.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WAIT_S = 2.0  # for another service's transaction
SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS used (
  key_id TEXT PRIMARY KEY, owner TEXT NOT NULL, period INTEGER NOT NULL, tokens INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS levels (
  key_id TEXT NOT NULL, kind TEXT NOT NULL, a_minute REAL NOT NULL, level REAL NOT NULL, at_s REAL NOT NULL,
  PRIMARY KEY (key_id, kind));
"""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """Of one key over all services: tokens of the period, and what lies ready of each limit."""

    period: int
    tokens: int
    levels: dict[str, float]


class SharedAccounts:
    """One file of SQLite beside the keys. Calls block; OSError where the file cannot be used."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def used(self) -> dict[str, tuple[str, int, int]]:
        """{key: (owner, period, tokens)} as it stands; {} where there is no file yet."""
        if not self.file.exists():
            return {}
        with self._lock:
            try:
                rows = self._opened().execute("SELECT key_id, owner, period, tokens FROM used")
                return {key_id: (owner, period, tokens) for key_id, owner, period, tokens in rows}
            except sqlite3.Error as e:
                raise OSError(0, str(e), str(self.file)) from e

    def settle(self, claims: Sequence[Claim], now_s: float | None = None) -> dict[str, Sum]:
        """Add these, and the sums. All or nothing: after an error the same claims come again."""
        now_s = time.time() if now_s is None else now_s
        with self._lock:
            try:
                connection = self._opened()
                connection.execute("BEGIN IMMEDIATE")
                try:
                    sums = {claim.key_id: _settled(connection, claim, now_s) for claim in claims}
                    connection.execute("COMMIT")
                    return sums
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as e:
                raise OSError(0, str(e), str(self.file)) from e

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self.file.touch(0o600)
            connection = sqlite3.connect(
                self.file, timeout=WAIT_S, isolation_level=None, check_same_thread=False
            )
            connection.executescript(SCHEMA)
            connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost the last seconds
            self._connection = connection
        return self._connection

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def _settled(connection: sqlite3.Connection, claim: Claim, now_s: float) -> Sum:
    row = connection.execute("SELECT owner, period, tokens FROM used WHERE key_id = ?", [claim.key_id])
    # Without a row (a first time, a file that was lost) what this service knows of is the sum so far.
    owner, period, tokens = row.fetchone() or (claim.owner, claim.period, claim.known - claim.tokens)
    anew = owner not in ("", claim.owner)  # an id that was given out again
    if anew or period < claim.period:
        period, tokens = claim.period, 0
    if period == claim.period:  # else: of a period that is over; the others have begun the next
        tokens += claim.tokens
    values = (claim.key_id, claim.owner, period, max(0, tokens))
    connection.execute("INSERT OR REPLACE INTO used VALUES (?, ?, ?, ?)", values)
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
    before, level, at_s = connection.execute(asked, [key_id, kind]).fetchone() or (a_minute, a_minute, now_s)
    if before != a_minute:
        level, at_s = a_minute, now_s
    passed_s = max(0.0, now_s - at_s)  # a clock that was set back gives nothing
    level = min(a_minute, level + passed_s * a_minute / 60) - taken
    values = (key_id, kind, a_minute, level, now_s)
    connection.execute("INSERT OR REPLACE INTO levels VALUES (?, ?, ?, ?, ?)", values)
    return level
