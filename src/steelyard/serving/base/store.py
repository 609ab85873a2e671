"""Objects of the API that outlive a request: JSON documents, logs and file contents in a private folder.

    $STEELYARD_STATE/serving/NAME/  .lock  KIND/ID.json  KIND/ID.jsonl  content/ID

Every document is replaced wholly or not at all. One process at a time works on batches and jobs (`hold`);
any number may read. Not here: what a kind means (jobs: files, batches, tuning).
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import orjson
from starlette.requests import Request

from ...artefact import write_durably
from ...places import state_folder
from .errors import ApiError

ID = re.compile(r"[A-Za-z0-9_-]{1,80}")  # what may become a file's name
PAGE = 20
PAGE_CAP = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One object: what its API shows, whose it is, and what only the server needs."""

    id: str
    owner: str | None
    shown: dict[str, Any]
    hidden: dict[str, Any] = field(default_factory=dict)

    def with_shown(self, **changed: Any) -> Stored:
        return replace(self, shown={**self.shown, **changed})

    def with_hidden(self, **changed: Any) -> Stored:
        return replace(self, hidden={**self.hidden, **changed})


def store_folder(name: str) -> Path:
    """Where the service of this name keeps what must outlive it; another name, another folder."""
    return state_folder() / "serving" / (quote(name, safe="")[:120].lstrip(".") or "default")


def new_id(prefix: str) -> str:
    """Ids sort by their time of birth; 64 random bits make them hard to guess."""
    return f"{prefix}{time.time_ns():016x}{secrets.token_hex(8)}"


class ObjectStore:
    """Made on first use: a service that is never asked for any of this leaves no folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: IO[bytes] | None = None

    # ------------------------------------------------------------------ documents

    def put(self, kind: str, stored: Stored) -> Stored:
        record = {"owner": stored.owner, "shown": stored.shown, "hidden": stored.hidden}
        write_durably(self.folder_of(kind) / f"{stored.id}.json", orjson.dumps(record))
        return stored

    def get(self, kind: str, object_id: str) -> Stored | None:
        if not ID.fullmatch(object_id):
            return None
        with suppress(FileNotFoundError):
            return _read(self.folder / kind / f"{object_id}.json")
        return None

    def all(self, kind: str) -> list[Stored]:
        """Newest first."""
        names = sorted((self.folder / kind).glob("*.json"), reverse=True)
        objects: list[Stored] = []
        for name in names:
            with suppress(FileNotFoundError):  # deleted meanwhile
                objects.append(_read(name))
        return objects

    def drop(self, kind: str, object_id: str) -> None:
        """The document, its log and its content."""
        for path in (self.folder / kind / f"{object_id}.json", self.log(kind, object_id)):
            path.unlink(missing_ok=True)
        self.content(object_id).unlink(missing_ok=True)

    # ------------------------------------------------------------------ logs: lines that are only added

    def log(self, kind: str, object_id: str) -> Path:
        return self.folder / kind / f"{object_id}.jsonl"

    def append(self, kind: str, object_id: str, record: dict[str, Any]) -> None:
        self.folder_of(kind)
        with self.log(kind, object_id).open("ab") as file:
            file.write(_one_line(orjson.dumps(record)) + b"\n")

    def records(self, kind: str, object_id: str) -> list[dict[str, Any]]:
        return list(whole_lines(self.log(kind, object_id)))

    # ------------------------------------------------------------------ contents

    def content(self, object_id: str) -> Path:
        return self.folder / "content" / object_id

    def keep(self, object_id: str, source: IO[bytes]) -> int:
        """Copy `source` in, durably. Returns its bytes."""
        target = self.folder_of("content") / object_id
        with target.with_suffix(".part").open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        target.with_suffix(".part").rename(target)
        return target.stat().st_size

    def link(self, object_id: str, other_id: str) -> None:
        """The content of one under another's id too: it stays until both are gone."""
        self.content(other_id).hardlink_to(self.content(object_id))

    # ------------------------------------------------------------------ the folder

    def hold(self) -> bool:
        """Whether this process works here; the kernel frees the lock of a process that ended."""
        if self._lock is None:
            file = (self.folder_of("") / ".lock").open("ab")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                return False
            self._lock = file
        return True

    def need_hold(self, message: str) -> None:
        """Raises ApiError 503, `told`, where another process works here."""
        if not self.hold():
            raise ApiError(503, message, code="store_taken")

    def exists(self) -> bool:
        return self.folder.is_dir()

    def folder_of(self, kind: str) -> Path:
        for folder in (self.folder, self.folder / kind):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.chmod(0o700)
        return self.folder / kind


def _read(path: Path) -> Stored:
    record = orjson.loads(path.read_bytes())
    return Stored(id=path.stem, owner=record["owner"], shown=record["shown"], hidden=record["hidden"])


def whole_lines(path: Path) -> Iterable[dict[str, Any]]:
    """Documents of a JSON Lines file; a last line that was cut off by a kill is left out."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n") and line.strip():
                yield orjson.loads(line)


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
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= cap):
        raise ApiError(400, f"limit is a number from 1 to {cap}", param="limit")
    return int(text)


def _one_line(record: bytes) -> bytes:
    """JSON without the characters at which Python's `splitlines` and JavaScript break a line of JSONL."""
    for mark in "\x85\u2028\u2029":
        record = record.replace(mark.encode(), f"\\u{ord(mark):04x}".encode())
    return record
