"""What keys have used up, in Postgres, for services of many hosts: each request is counted where all look.

One row a key and owner, locked while a claim is added to it (settling.py), so that N services let in as much
as one would. Its clock counts, not the hosts'. Tables lie in a schema of their own with a version; a newer
version only adds. Not here: what a service does while the database is away (sharing.py).
"""

from __future__ import annotations

import secrets
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import orjson

from ....errors import Lacking, Problem, Where
from .postgres_address import FIELD, PostgresAddress
from .settling import Claim, Held, Row, Standing, Sums, Unheard, Whose, settled
from .sqlite import Counts

if TYPE_CHECKING:
    from pg8000.native import Connection

WAIT_S = 2.0  # for the server, for each of its answers, for a lock
STALE_S = 0.5  # a connection that fails so soon was closed while nobody used it
IDLE_MS = 10_000  # a service that hangs within a transaction keeps its rows no longer
MIGRATION_LOCK = 0x5354454C  # one service at a time changes the schema
MIGRATIONS = (
    """
    CREATE TABLE steelyard.accounts (
      key_id text NOT NULL, owner text NOT NULL, period bigint NOT NULL DEFAULT 0,
      tokens bigint NOT NULL DEFAULT 0, state jsonb, changed_at timestamptz NOT NULL DEFAULT now(),
      PRIMARY KEY (key_id, owner))
    """,
)
# All values of a statement are one JSON text, quoted by the client library: so that two messages do for a
# transaction, `BEGIN` and the rows, the new rows and `COMMIT`.
READ = """
SELECT key_id, owner, period, tokens, state, extract(epoch FROM clock_timestamp())::float8{number}
FROM steelyard.accounts
WHERE (key_id, owner) IN (SELECT key_id, owner FROM jsonb_to_recordset({keys}) AS w(key_id text, owner text))
ORDER BY key_id, owner {lock}
"""
NUMBER = ", pg_current_xact_id()::text"
ADD = """
INSERT INTO steelyard.accounts (key_id, owner)
SELECT key_id, owner FROM jsonb_to_recordset({keys}) AS w(key_id text, owner text)
ORDER BY key_id, owner ON CONFLICT DO NOTHING
"""
WRITE = """
UPDATE steelyard.accounts a SET period = n.period, tokens = n.tokens, state = n.state, changed_at = now()
FROM jsonb_to_recordset({rows}) AS n(key_id text, owner text, period bigint, tokens bigint, state jsonb)
WHERE a.key_id = n.key_id AND a.owner = n.owner
"""
COUNTS = "SELECT coalesce(pg_xact_status({number}::xid8), 'committed')"
Rows = dict[Whose, tuple[Row | None, float]]  # None: nothing has been counted yet; and when, by its clock


class PostgresAccounts:
    """One database. Calls block; OSError where it cannot be used."""

    exact = side_by_side = True

    def __init__(self, address: PostgresAddress) -> None:
        self.address, self.ahead_s = address, 0.0
        self.service = secrets.token_hex(8)  # this process, among those that hold tokens
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._unheard: str | None = None  # number of a transaction

    @property
    def place(self) -> str:
        return self.address.place

    def used(self, make: bool = True) -> Counts:
        """Nothing: each request asks. Raises OSError where it does not answer, Lacking where it refuses or
        its client is not installed, and what the address raises."""
        check_client()
        self.address.context()
        self.address.password()
        with self._lock:
            try:
                with _as_os_error():
                    self._opened()
            except ConnectionRefusedByServer as e:
                raise Lacking(
                    "serve.accounts_refused", "the accounts' database takes no service in",
                    where=Where(field=FIELD), why=str(e), hint="see docs/how-to/share-with-keys.md",
                ) from e  # fmt: skip
        return {}

    def old_counts(self) -> Counts:
        return {}

    def settle(self, claims: Sequence[Claim]) -> Sums:
        """Add these, all or none, and the sums. Raises OSError, Unheard."""
        with self._lock:
            end = time.monotonic() + STALE_S if self._connection else 0.0
            try:
                return self._settled(claims)
            except OSError as e:
                if isinstance(e, Unheard) or time.monotonic() > end:
                    raise
            return self._settled(claims)  # the server had closed the older connection

    def _settled(self, claims: Sequence[Claim]) -> Sums:
        with self._dropping(), _as_os_error():
            self._opened()
            quiet = not any(claim.used or claim.wants for claim in claims)
            if quiet and (sums := self._unchanged(claims)) is not None:
                return sums
            number, rows = self._locked(claims)
            new, sums = self._added(rows, claims)
            changed = [(key, row) for key, row in new.items() if row != rows[key][0]]
            self._end(number, changed, sums)
            return sums

    def _unchanged(self, claims: Sequence[Claim]) -> Sums | None:
        """The sums as they stand, where nothing is to be written."""
        rows = self._rows(self._run(READ.format(keys=_keys(claims), number="", lock="")))
        if len(rows) < len(claims):
            return None
        new, sums = self._added(rows, claims)
        return None if any(new[key] != rows[key][0] for key in rows) else sums

    def _locked(self, claims: Sequence[Claim]) -> tuple[str, Rows]:
        """The rows, nobody else's until the end, and the transaction's number."""
        keys = _keys(claims)
        locked = READ.format(keys=keys, number=NUMBER, lock="FOR UPDATE")
        found = self._run(f"BEGIN; {locked}")
        if len(found) < len(claims):  # made without a lock held: two that make rows never wait for each other
            self._run("ROLLBACK")
            self._run(ADD.format(keys=keys))
            found = self._run(f"BEGIN; {locked}")
        return str(found[0][-1]), self._rows(found)

    def _rows(self, found: list[list[Any]]) -> Rows:
        rows = {
            (key_id, owner): (_row(owner, period, tokens, state), now_s)
            for key_id, owner, period, tokens, state, now_s, *_ in found
        }
        for _, now_s in rows.values():
            self.ahead_s = now_s - time.time()
        return rows

    def _added(self, rows: Rows, claims: Sequence[Claim]) -> tuple[dict[Whose, Row], Sums]:
        new, sums = {}, {}
        for claim in claims:
            row, now_s = rows[claim.whose]
            new[claim.whose], sums[claim.whose] = settled(row, claim, now_s, self.service)
        return new, sums

    def _end(self, number: str, changed: list[tuple[Whose, Row]], sums: Sums) -> None:
        """Raises Unheard where no answer came: it may count, or not."""
        if not changed:
            self._run("COMMIT")
            return
        try:
            self._run(f"{WRITE.format(rows=_written(changed))}; COMMIT")
        except Exception as e:
            self._unheard = number
            raise Unheard(f"the database said nothing of the end of a transaction: {e}", sums) from e

    def heard_of(self) -> bool:
        """Whether the transaction that nobody heard of counts. Raises OSError while that cannot be known."""
        with self._lock, self._dropping(), _as_os_error():
            self._opened()
            number = self._unheard
            if number is None:
                return False
            status = self._status(number)
            if status == "in progress":
                raise OSError(0, "a transaction has not ended yet")
            self._unheard = None
            return bool(status == "committed")

    def _status(self, number: str) -> str:
        """Of a transaction; a server that has not come so far (of a copy, or made anew) never had it."""
        from pg8000.exceptions import DatabaseError

        try:
            return str(self._run(COUNTS.format(number=_quoted(number)))[0][0])
        except DatabaseError as e:
            if _told(e).get("C") != IN_THE_FUTURE:
                raise
            return "unknown"

    # ------------------------------------------------------------------ the connection

    def _opened(self) -> Connection:
        if self._connection is None:
            connection = self._connect()
            try:
                _migrate(connection)
            except BaseException:
                _close(connection)
                raise
            self._connection = connection
        return self._connection

    def _connect(self) -> Connection:
        from pg8000.native import Connection

        at, wait_ms = self.address, str(int(WAIT_S * 1000))
        socket = f"{at.socket}/.s.PGSQL.{at.port}" if at.socket else None
        return Connection(
            at.user, host=at.host, port=at.port, database=at.database, password=at.password(),
            unix_sock=socket, ssl_context=at.context() or False, timeout=WAIT_S,
            application_name="steelyard",
            startup_params={
                "statement_timeout": wait_ms, "lock_timeout": wait_ms,
                "idle_in_transaction_session_timeout": str(IDLE_MS),
                "default_transaction_isolation": "read committed", "standard_conforming_strings": "on",
            },
        )  # fmt: skip

    def _run(self, sql: str) -> list[list[Any]]:
        """The rows of the last statement."""
        assert self._connection is not None
        return self._connection.run(sql) or []

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        """After any failure the connection goes, and with it what had been begun."""
        try:
            yield
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            _close(connection)

    def close(self) -> None:
        with self._lock:
            self._drop()


def check_client() -> None:
    """Raises Lacking where it is not installed."""
    if find_spec("pg8000") is None:
        raise Lacking(
            "serve.accounts_client", "the client of Postgres is not installed", where=Where(field=FIELD),
            hint="in the steelyard checkout: pip install -c constraints.txt '.[postgres]'",
        )  # fmt: skip


class ConnectionRefusedByServer(OSError):
    """It answers, and says no: a password, a right, a name, a version; or is not who it should be."""


@contextmanager
def _as_os_error() -> Iterator[None]:
    """What the client library raises, as what a file would."""
    from pg8000.exceptions import DatabaseError, Error

    try:
        yield
    except DatabaseError as e:
        told = _told(e)
        kind = ConnectionRefusedByServer if str(told.get("C", "")).startswith(REFUSING) else OSError
        raise kind(0, str(told.get("M", "the database refuses"))) from e
    except Error as e:
        kind = OSError if e.__cause__ or str(e) == BROKEN else ConnectionRefusedByServer
        raise kind(0, _cause(e)) from e
    except ssl.SSLCertVerificationError as e:
        raise ConnectionRefusedByServer(0, f"its certificate: {e.verify_message}") from e
    except OSError:
        raise
    except Problem as e:  # a password's file that has changed since the start
        raise OSError(0, e.message) from e
    except Exception as e:  # an answer that is none: the client library unpacks it as it comes
        raise OSError(0, f"the database's answer cannot be read: {type(e).__name__}") from e


BROKEN = "network error"  # what the client says of a line that ends; all else without a cause is a refusal
IN_THE_FUTURE = "22023"  # SQLSTATE of a transaction's number that was not given out yet
# Classes of SQLSTATE: who may come in, which database, which rights; of ours: a newer schema.
NEWER = "SY001"
REFUSING = ("28", "3D", "42", NEWER)


def _told(error: BaseException) -> dict[str, Any]:
    """What the server says in an error, by the letters of its protocol."""
    return error.args[0] if error.args and isinstance(error.args[0], dict) else {}


def _cause(error: BaseException) -> str:
    cause = error.__cause__
    return (getattr(cause, "strerror", None) or str(cause)) if cause else str(error)


def _migrate(connection: Connection) -> None:
    """Bring the schema up to this version. Raises ConnectionRefusedByServer where it is newer."""
    version = _version(connection)
    if version < len(MIGRATIONS):
        connection.run("BEGIN")
        connection.run("SELECT pg_advisory_xact_lock(:number ::bigint)", number=MIGRATION_LOCK)
        if (version := _version(connection)) == 0:
            connection.run("CREATE SCHEMA IF NOT EXISTS steelyard")
            connection.run("CREATE TABLE steelyard.version (version integer NOT NULL)")
            connection.run("INSERT INTO steelyard.version VALUES (0)")
        for change in MIGRATIONS[version:]:
            connection.run(change)
        if version < len(MIGRATIONS):
            connection.run("UPDATE steelyard.version SET version = :version", version=len(MIGRATIONS))
        connection.run("COMMIT")
    if version > len(MIGRATIONS):
        why = f"its schema has version {version}, this steelyard knows {len(MIGRATIONS)}: install a newer one"
        raise ConnectionRefusedByServer(0, why)


def _version(connection: Connection) -> int:
    """From the catalogue's tables: a name that is looked up may be missing from the session's cache still."""
    there = "SELECT count(*) FROM pg_tables WHERE schemaname = 'steelyard' AND tablename = 'version'"
    if not connection.run(there)[0][0]:
        return 0
    return int(connection.run("SELECT max(version) FROM steelyard.version")[0][0])


def _close(connection: Connection) -> None:
    with suppress(Exception):  # it may be broken in any way
        connection.close()


def _quoted(text: str) -> str:
    from pg8000.native import literal

    return str(literal(text))


def _keys(claims: Sequence[Claim]) -> str:
    keys = [{"key_id": claim.key_id, "owner": claim.owner} for claim in claims]
    return _quoted(orjson.dumps(keys).decode())


def _written(changed: list[tuple[Whose, Row]]) -> str:
    rows = [
        {"key_id": key_id, "owner": owner, "period": row.period, "tokens": row.tokens, "state": _state(row)}
        for (key_id, owner), row in changed
    ]
    return _quoted(orjson.dumps(rows).decode())


def _row(owner: str, period: int, tokens: int, state: Any) -> Row | None:
    if state is None:
        return None
    levels = {kind: Standing(*map(float, values)) for kind, values in state["levels"].items()}
    held = {service: Held(*map(float, values)) for service, values in state["held"].items()}
    return Row(owner=owner, period=period, tokens=tokens, levels=levels, held=held)


def _state(row: Row) -> dict[str, Any]:
    levels = {kind: [s.a_minute, s.level, s.at_s] for kind, s in row.levels.items()}
    return {"levels": levels, "held": {service: [h.tokens, h.at_s] for service, h in row.held.items()}}
