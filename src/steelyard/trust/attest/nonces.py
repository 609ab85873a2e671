"""Nonces that were accepted once. A file of SQLite, so that two verifiers may share it."""

from __future__ import annotations

import hashlib
from contextlib import closing
from datetime import datetime
from pathlib import Path

from ...errors import Where, WrongUse

WAIT_S = 30.0
TABLE = "CREATE TABLE IF NOT EXISTS nonces (hash BLOB PRIMARY KEY, at TEXT NOT NULL) WITHOUT ROWID"


def remember(store: Path, nonce: bytes, at: datetime) -> bool:
    """Whether the nonce is new here; it no longer is. Raises WrongUse where `store` is no such file."""
    import sqlite3

    row = hashlib.sha256(nonce).digest(), at.isoformat()
    try:
        with closing(sqlite3.connect(store, timeout=WAIT_S)) as database, database:
            database.execute(TABLE)
            return database.execute("INSERT OR IGNORE INTO nonces VALUES (?, ?)", row).rowcount == 1
    except (sqlite3.Error, ValueError) as e:  # such as a name with a zero byte
        raise WrongUse(
            "attest.nonce_store",
            f"the nonce store {store} cannot be used",
            where=Where(str(store)),
            why=str(e),
            hint="name a file that is not there yet, in a folder that can be written",
        ) from e
