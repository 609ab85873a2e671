"""Objects of the API that outlive a request: documents and lines in SQLite, file contents beside it.

    $STEELYARD_STATE/serving/NAME/  .lock  store.sqlite  content/ID      (NAME+sealed at `trust: guarded`)

What is written together stands together or not at all. One process at a time works on batches and jobs
(`hold`); any number may read and write. Not here: what a kind means (jobs: files, batches, tuning;
api/responses), how bytes are encrypted (sealing.py).
"""

from __future__ import annotations

import fcntl
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import orjson
from starlette.requests import Request

from ....places import state_folder
from ....trust import Keys
from ..errors import ApiError
from .database import FILE, Database, translated
from .sealing import Plain, Sealed

ID = re.compile(r"[A-Za-z0-9_-]{1,80}")  # what may become a file's name
PAGE = 20
PAGE_CAP = 10_000
STRAY_S = 3600.0  # a content without an object is a stray after so long
COLUMNS = "id, owner, expires_at, bytes, record"
LIVE = "(expires_at IS NULL OR expires_at > ?)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One object: what its API shows, whose it is, and what only the server needs."""

    id: str
    owner: str | None
    shown: dict[str, Any]
    hidden: dict[str, Any] = field(default_factory=dict)
    expires_at: int | None = None  # seconds since 1970; then it goes by itself
    size_bytes: int = 0  # what its owner is charged with

    def with_shown(self, **changed: Any) -> Stored:
        return replace(self, shown={**self.shown, **changed})

    def with_hidden(self, **changed: Any) -> Stored:
        return replace(self, hidden={**self.hidden, **changed})


def store_folder(name: str, sealed: bool = False) -> Path:
    """Where the service of this name keeps what must outlive it; another name or trust, another folder."""
    plain = quote(name, safe="")[:120].lstrip(".") or "default"
    return state_folder() / "serving" / (f"{plain}+sealed" if sealed else plain)  # no quoted name has a +


def new_id(prefix: str) -> str:
    """Ids sort by their time of birth; 64 random bits make them hard to guess."""
    return f"{prefix}{time.time_ns():016x}{secrets.token_hex(8)}"


class ObjectStore:
    """Made on first use: a service that is never asked for any of this leaves no folder.

    Everything here blocks: call it in a thread. Raises StoreFull (507) where the disk takes nothing more.
    """

    def __init__(self, folder: Path, keys: Keys | None = None) -> None:
        self.folder = folder
        self.database = Database(folder)
        self.box: Plain = Sealed(keys, folder) if keys else Plain()
        self._lock: IO[bytes] | None = None

    @property
    def sealed(self) -> bool:
        """Whether nothing may lie plain on the disk."""
        return isinstance(self.box, Sealed)

    # ------------------------------------------------------------------ documents

    @contextmanager
    def together(self) -> Iterator[None]:
        """All that is written inside, or nothing of it."""
        self.folder_of("")
        with self.database.writing():
            yield

    def put(self, kind: str, stored: Stored) -> Stored:
        record = orjson.dumps([stored.shown, stored.hidden])
        values = (kind, stored.id, stored.owner, stored.shown.get("status"), stored.expires_at)
        with self.together(), self.database.writing() as connection:
            sealed = self.box.seal(record, f"{kind}/{stored.id}")
            connection.execute(
                "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*values, stored.size_bytes, sealed),
            )
        return stored

    def get(self, kind: str, object_id: str) -> Stored | None:
        """An object whose time is over is not there any more."""
        if not ID.fullmatch(object_id):
            return None
        rows = self.database.rows(
            f"SELECT {COLUMNS} FROM objects WHERE kind = ? AND id = ? AND {LIVE}",
            kind, object_id, time.time(),
        )  # fmt: skip
        return self._stored(kind, rows[0]) if rows else None

    def all(self, kind: str, owner: str | None = None) -> list[Stored]:
        """Newest first; of one owner, or of all."""
        return self._where(kind, "owner = ?" if owner is not None else "? IS NULL", owner)

    def in_state(self, kind: str, states: Iterable[str]) -> list[Stored]:
        """Newest first."""
        states = tuple(states)
        return self._where(kind, f"status IN ({', '.join('?' * len(states))})", *states)

    def _where(self, kind: str, condition: str, *values: Any) -> list[Stored]:
        sql = f"SELECT {COLUMNS} FROM objects WHERE kind = ? AND {LIVE} AND {condition} ORDER BY id DESC"
        return [self._stored(kind, row) for row in self.database.rows(sql, kind, time.time(), *values)]

    def _stored(self, kind: str, row: tuple[Any, ...]) -> Stored:
        object_id, owner, expires_at, size_bytes, record = row
        shown, hidden = orjson.loads(self.box.open(record, f"{kind}/{object_id}"))
        return Stored(
            id=object_id, owner=owner, shown=shown, hidden=hidden, expires_at=expires_at,
            size_bytes=size_bytes,
        )  # fmt: skip

    def drop(self, kind: str, *object_ids: str) -> None:
        """Documents, their lines and their contents, so that nothing of them stays on the disk."""
        for object_id in object_ids:  # contents first: a full disk has no room for a transaction
            self.content(object_id).unlink(missing_ok=True)
        if not self.database.exists():
            return
        with self.database.writing() as connection:
            for object_id in object_ids:
                for table in ("objects", "lines"):
                    connection.execute(f"DELETE FROM {table} WHERE id = ?", (object_id,))
                connection.execute("DELETE FROM parts WHERE id = ?", (object_id,))
        self.database.shrink()

    def sweep(self) -> int:
        """Drop what has expired. Returns how many went."""
        rows = self.database.rows("SELECT kind, id FROM objects WHERE expires_at <= ?", time.time())
        for kind, object_id in rows:
            self.drop(kind, object_id)
        if self.database.unshrunk and self.database.exists():
            self.database.shrink()
        return len(rows)

    # ------------------------------------------------------------------ lines: what is only added

    def append(self, kind: str, object_id: str, record: dict[str, Any], n: int | None = None) -> None:
        """Line number `n`, in place of an older one; without a number, the next."""
        self.extend(kind, object_id, [(n, orjson.dumps(record))])

    def extend(self, kind: str, object_id: str, lines: Iterable[tuple[int | None, bytes]]) -> None:
        about = f"{kind}/{object_id}"
        with self.together(), self.database.writing() as connection:
            for n, data in lines:
                connection.execute(
                    "INSERT OR REPLACE INTO lines SELECT ?1, ?2, coalesce(?3, max(n) + 1, 0), ?4, ?5"
                    " FROM lines WHERE kind = ?1 AND id = ?2",
                    (kind, object_id, n, len(data), self.box.seal(data, about)),
                )

    def lines(self, kind: str, object_id: str) -> Iterator[bytes]:
        """In the order of their numbers, some at a time."""
        about, last = f"{kind}/{object_id}", -1
        sql = "SELECT n, record FROM lines WHERE kind = ? AND id = ? AND n > ? ORDER BY n LIMIT 200"
        while rows := self.database.rows(sql, kind, object_id, last):
            last = rows[-1][0]
            yield from (self.box.open(record, about) for _, record in rows)

    def records(self, kind: str, object_id: str) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.lines(kind, object_id)]

    def numbers(self, kind: str, object_id: str) -> set[int]:
        """Of the lines that are there."""
        rows = self.database.rows("SELECT n FROM lines WHERE kind = ? AND id = ?", kind, object_id)
        return {n for (n,) in rows}

    def lines_bytes(self, kind: str, object_id: str) -> int:
        sql = "SELECT coalesce(sum(bytes), 0) FROM lines WHERE kind = ? AND id = ?"
        return sum(size for (size,) in self.database.rows(sql, kind, object_id))

    def drop_lines(self, kind: str, object_id: str) -> None:
        with self.together(), self.database.writing() as connection:
            connection.execute("DELETE FROM lines WHERE kind = ? AND id = ?", (kind, object_id))

    # ------------------------------------------------------------------ parts: what is found by a name

    def name_parts(self, object_id: str, names: Iterable[str]) -> None:
        """Let `whole_of` find the object by each of these names."""
        rows = [(self.box.name(name), object_id) for name in names]
        with self.together(), self.database.writing() as connection:
            connection.executemany("INSERT OR IGNORE INTO parts VALUES (?, ?)", rows)

    def wholes_of(self, name: str, owner: str) -> list[str]:
        """Ids of the owner's objects with a part of this name, the newest first."""
        sql = (
            "SELECT parts.id FROM parts JOIN objects ON objects.id = parts.id"
            " WHERE name = ? AND owner = ? ORDER BY parts.id DESC"
        )
        return [object_id for (object_id,) in self.database.rows(sql, self.box.name(name), owner)]

    # ------------------------------------------------------------------ contents

    def content(self, object_id: str) -> Path:
        return self.folder / "content" / object_id

    def keep(self, object_id: str, source: IO[bytes], size_bytes: int) -> None:
        """Copy `source` in, durably; nothing stays of one that fails."""
        target = self.folder_of("content") / object_id
        with translated():
            self.box.keep(source, size_bytes, target)

    def read(self, object_id: str) -> IO[bytes]:
        """Its content, open at the beginning. Raises FileNotFoundError."""
        return self.box.read(self.content(object_id))

    def link(self, object_id: str, other_id: str) -> None:
        """The content of one under another's id too: it stays until both are gone."""
        with translated():
            self.content(other_id).hardlink_to(self.content(object_id))

    def drop_strays(self) -> int:
        """Contents that no object names: a kill came between the one and the other."""
        folder = self.folder / "content"
        aside = [*self.folder.glob(f"{FILE}.unreadable-*"), *self.folder.glob("set-aside-*")]
        if not folder.is_dir() or not self.database.exists() or aside:  # what is set aside may name them
            return 0
        named = {object_id for (object_id,) in self.database.rows("SELECT id FROM objects")}
        strays = [path for path in folder.iterdir() if path.name not in named and _is_old(path)]
        for path in strays:
            path.unlink(missing_ok=True)
        return len(strays)

    # ------------------------------------------------------------------ what an owner has here

    def used(self, owner: str | None) -> dict[str, tuple[int, int]]:
        """Kind -> (objects, bytes)."""
        sql = "SELECT kind, count(*), sum(bytes) FROM objects WHERE owner IS ? GROUP BY kind"
        return {kind: (count, size) for kind, count, size in self.database.rows(sql, owner)}

    def sizes(self, kind: str, owner: str | None) -> list[tuple[str, str, int]]:
        """Id, state and bytes of one owner's objects, the oldest first."""
        sql = "SELECT id, status, bytes FROM objects WHERE kind = ? AND owner IS ? ORDER BY id"
        return self.database.rows(sql, kind, owner)  # type: ignore[return-value]

    def count(self, kind: str, owner: str | None, states: Iterable[str]) -> int:
        """Of one owner's objects in these states."""
        states = tuple(states)
        marks = ", ".join("?" * len(states))
        sql = f"SELECT count(*) FROM objects WHERE kind = ? AND owner IS ? AND status IN ({marks})"
        return sum(count for (count,) in self.database.rows(sql, kind, owner, *states))

    # ------------------------------------------------------------------ the folder

    def hold(self) -> bool:
        """Whether this process works here; the kernel frees the lock of a process that ended."""
        if self._lock is None:
            with translated():
                file = (self.folder_of("") / ".lock").open("ab")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                return False
            self._lock = file
        return True

    def close(self) -> None:
        """Let another process work here."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        self.database.close()

    def need_hold(self, message: str) -> None:
        """Raises ApiError 503 with `message` where another process works here."""
        if not self.hold():
            raise ApiError(503, message, code="store_taken")

    def exists(self) -> bool:
        return self.folder.is_dir()

    def folder_of(self, kind: str) -> Path:
        with translated():
            for folder in (self.folder, self.folder / kind):
                if not folder.is_dir():
                    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                    self.folder.chmod(0o700)
        return self.folder / kind


def _is_old(path: Path) -> bool:
    """Whether nobody can be at work on it any more: its object may come right after it."""
    with suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime > STRAY_S
    return False


# ---------------------------------------------------------------------- who asks, and pages of a list


def caller_of(request: Request) -> Any:
    """The guard's `Caller`, None where no key is set."""
    return (request.scope.get("state") or {}).get("caller")


def owner_of(request: Request) -> str:
    caller = caller_of(request)
    return "local" if caller is None else str(caller.owner)


def may_see(request: Request, stored: Stored) -> bool:
    """Objects belong to the key that made them; a key with the scope `admin` sees all."""
    caller = caller_of(request)
    return caller is None or stored.owner == caller.owner or "admin" in (caller.scopes or ())


def visible_to(request: Request) -> str | None:
    """Whose objects a list shows: the owner's, None for everybody's."""
    caller = caller_of(request)
    return None if caller is None or "admin" in (caller.scopes or ()) else str(caller.owner)


def need_scope(request: Request, scope: str) -> None:
    """Raises ApiError 403 where the key may not do this."""
    caller = caller_of(request)
    if caller is not None and caller.scopes and not {scope, "admin"} & set(caller.scopes):
        raise ApiError(403, f"this key lacks the scope {scope!r}", code="missing_scope")


def find(store: ObjectStore, kind: str, request: Request, what: str) -> Stored:
    """The object that the path names. Raises ApiError 404, for another key's object too."""
    object_id = request.path_params["id"]
    stored = store.get(kind, object_id)
    if stored is None or not may_see(request, stored):
        raise ApiError(404, f"there is no {what} {object_id!r}", param="id", code="not_found")
    return stored


def page(
    request: Request,
    objects: list[Stored],
    limit: int = PAGE,
    cap: int = PAGE_CAP,
    shown: Callable[[Stored], dict[str, Any]] = lambda stored: stored.shown,
) -> dict[str, Any]:
    """OpenAI's list with a cursor: `after`, `limit`, `order`. Raises ApiError 400."""
    query = request.query_params
    if query.get("order", "desc") not in ("asc", "desc"):
        raise ApiError(400, "order is asc or desc", param="order")
    visible = [s for s in objects if may_see(request, s)]
    visible = visible[::-1] if query.get("order") == "asc" else visible
    if after := query.get("after"):
        places = [i for i, s in enumerate(visible) if s.id == after]
        if not places:
            raise ApiError(400, f"there is no {after!r} in this list", param="after")
        visible = visible[places[0] + 1 :]
    wanted = _limit(query.get("limit"), limit, cap)
    data = [shown(s) for s in visible[:wanted]]
    ends = {"first_id": visible[0].id, "last_id": visible[len(data) - 1].id} if data else {}
    return {"object": "list", "data": data, **ends, "has_more": len(visible) > wanted}


def _limit(text: str | None, default: int, cap: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= cap):
        raise ApiError(400, f"limit is a number from 1 to {cap}", param="limit")
    return int(text)


def one_line(record: bytes) -> bytes:
    """JSON without the characters at which Python's `splitlines` and JavaScript break a line of JSONL."""
    for mark in "\x85\u2028\u2029":
        record = record.replace(mark.encode(), f"\\u{ord(mark):04x}".encode())
    return record
