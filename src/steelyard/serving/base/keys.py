"""Who may ask, and how much: a file of keys, each kept as a hash only.

{"keys": [{"id": "team-a", "sha256": "...", "owner": "key-...", "requests_per_minute": 60, ...}]}. The file is
read again when it changes; while it cannot be read, none of its keys is valid. What was used of limits and
budgets stands beside it in FILE.sqlite (accounts/sqlite.py), for all services of this host that serve by it;
or in Postgres for those of many hosts (accounts/postgres.py). What one key has used: accounts/account.py.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...artefact import write_durably
from ...errors import Where, WrongUse
from .accounts.account import Account, Key, Reservation, Tokens
from .accounts.settling import Want
from .accounts.sharing import Accounts, Sharing
from .accounts.sqlite import Counts, SqliteAccounts
from .log import written

LOOK_AGAIN_S = 2.0  # for a changed file
SAVE_S = 0.5  # between two looks at what other services have counted
OWN = "api-key"  # the id of the one key that --api-key gives
EVERYBODY = "local"  # where no key is needed
RESERVED = (OWN, EVERYBODY)
MOST = 2**53  # of any count: what a database and a float hold exactly


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str = Field(min_length=1, max_length=64, pattern=r"^[\w.@-]+$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    owner: str | None = Field(None, pattern="^key-[0-9a-f]{16,64}$")
    scopes: list[Literal["inference", "tune", "admin", "watch"]] = ["inference"]
    weight: float = Field(1.0, gt=0, le=MOST)
    priority: int = Field(0, ge=-MOST, le=MOST)
    may_hurry: bool = False
    requests_per_minute: int | None = Field(None, ge=1, le=MOST)
    tokens_per_minute: int | None = Field(None, ge=1, le=MOST)
    requests_at_once: int | None = Field(None, ge=1, le=MOST)
    budget_tokens: int | None = Field(None, ge=1, le=MOST)
    budget_days: float | None = Field(None, ge=1 / 86_400, le=36_500)
    stored_bytes: int | None = Field(None, ge=0, le=MOST)
    files: int | None = Field(None, ge=0, le=MOST)
    batches: int | None = Field(None, ge=0, le=MOST)
    jobs: int | None = Field(None, ge=0, le=MOST)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    keys: list[_Entry]


def digest(secret: bytes) -> str:
    """A key is 256 random bits, so a plain hash cannot be guessed back."""
    return hashlib.sha256(secret).hexdigest()


Stamp = tuple[int, int, int, int]


def _silent(event: str, **fields: Any) -> None:
    """Nobody is told."""


@dataclass
class KeyRing:
    """The keys that are valid now. None at all: everyone may ask."""

    api_key: str | None = field(default=None, repr=False)
    file: Path | None = None
    report: Callable[..., None] = field(default=_silent, repr=False)  # event and fields, as in the log
    keys: dict[str, Key] = field(default_factory=dict)  # by hash: looking one up tells nothing of the others
    accounts: dict[str, Account] = field(default_factory=dict)
    fault: str | None = None  # why the file cannot be read; until it can, none of its keys is valid
    _last: dict[str, Key] = field(default_factory=dict)  # as last read
    _stamp: Stamp | None = None
    _looked_at: float = 0.0
    shares: bool = True  # what is used up; False for a candidate, which is asked by nobody's key
    shared: Accounts | None = field(default=None, repr=False)  # None: a file beside the keys
    _sharing: Sharing | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Raises WrongUse where the file cannot be read."""
        if self.file is not None:
            beside = [self.file.with_name(self.file.name + end) for end in (".sqlite", ".used")]
            shared = self.shared or SqliteAccounts(*beside)
            self._sharing = Sharing(shared, self.report, self._limited)
            self._read_used(shared)
        self._load()

    @property
    def needed(self) -> bool:
        return self.api_key is not None or self.file is not None

    def find(self, secret: bytes) -> Key | None:
        self._look_again()
        return self.keys.get(digest(secret)) if secret else None

    def was_valid(self, secret: bytes) -> bool:
        """Whether it was a key when the file could last be read."""
        return digest(secret) in self._last

    def of_owner(self, owner: str) -> Key | None:
        """A key of that owner, while it has not been taken back."""
        self._look_again()
        return next((key for key in self.keys.values() if key.owner == owner), None)

    def account(self, key_id: str) -> Account:
        """Of a key, or of those who need none."""
        if key_id not in self.accounts:
            self.accounts[key_id] = Account(Key(id=key_id, sha256=""))
        return self.accounts[key_id]

    def _look_again(self) -> None:
        """Every LOOK_AGAIN_S, sooner while something is wrong."""
        wait_s = LOOK_AGAIN_S if self.fault is None else LOOK_AGAIN_S / 10
        if time.monotonic() - self._looked_at >= wait_s:
            self.look()

    def look(self) -> None:
        """Read the file where it has changed; where that fails none of its keys is valid any more."""
        if self.file is None:
            return
        self._looked_at = time.monotonic()
        try:
            if self.fault is not None or self._stamp is None or _stamp(self.file) != self._stamp:
                self._load()
        except (WrongUse, OSError) as e:
            self._close(str(e))

    def _load(self) -> None:
        """Raises WrongUse, OSError. The stamp is of before the reading: a write meanwhile is read later."""
        self._stamp = None if self.file is None else _settled_stamp(self.file)
        before = self._last if self.fault is not None else self.keys
        self._take([] if self.file is None else read_keys(self.file))
        if self._looked_at:
            self._note_changes(before)
        if self.fault is not None:
            self.fault = None
            self.report("keys.readable_again", file=str(self.file), keys=len(self.keys))

    def _note_changes(self, before: dict[str, Key]) -> None:
        """Into the audit log: owners that came or went with the file."""
        was, now = ({key.owner for key in keys.values()} for keys in (before, self.keys))
        for act, owners in (("key.made", now - was), ("key.removed", was - now)):
            for owner in sorted(owners):
                written(act, kind="service", key=owner)

    def _close(self, why: str) -> None:
        if self.fault is None:
            self._last = self.keys
            self._take([])
            self.report("keys.unreadable", file=str(self.file), why=why, consequence="its keys are refused")
        self.fault = why

    def _take(self, keys: list[Key]) -> None:
        """These and the one of --api-key are valid now."""
        if self.api_key:
            keys.append(Key(id=OWN, sha256=digest(self.api_key.encode()), owner=OWN))
        self.keys = {key.sha256: key for key in keys}
        for key in keys:
            account = self.accounts.get(key.id)
            if account is None or account.key.owner not in ("", key.owner):  # an id given out again
                account = self.accounts[key.id] = Account(key)
            if self._sharing is not None:
                account.clock = self._sharing.now_s
            account.fit(key)

    # ------------------------------------------------------------------ what other services have used

    def _read_used(self, shared: Accounts) -> None:
        """Of the time before this process: what all services know of, or the earlier version's file."""
        used: Counts = {}
        try:
            used = shared.used(make=self.shares)
        except OSError:  # it is said at the first exchange; what stands there is learnt once that works
            with suppress(OSError):
                used = shared.old_counts()
        for key_id, (owner, period, tokens) in used.items():
            key = Key(id=key_id, sha256="", owner=owner)
            self.accounts[key_id] = Account(key, used_tokens=tokens, settled_tokens=tokens, period=period)

    def _limited(self) -> list[Account]:
        return [account for account in self.accounts.values() if account.limited] if self.shares else []

    @property
    def exact(self) -> bool:
        """Whether each request is asked for where all services count."""
        return self.shares and self._sharing is not None and self._sharing.exact

    def promoted(self) -> None:
        """From now on it is asked by keys, and counts side by side with the older service. A file of the
        earlier version is that one's until it has ended."""
        if self.shares or self._sharing is None or not self._sharing.accounts.side_by_side:
            return
        self.shares = True
        if not self.exact:  # there each request is asked for; here it learns what was used since it began
            self.save()

    async def take_request(self, account: Account) -> None:
        """Raises ApiError 429, by what all services have let in where that is exact."""
        account.check_request()
        if account.requests is None or not await self._wanted(account, Want(requests=1)):
            account.take_request()

    @asynccontextmanager
    async def reserved(
        self, account: Account, tokens: float, used: Tokens, total: Tokens
    ) -> AsyncIterator[Reservation]:
        """`Account.reserved`, beside what requests at other services may spend. Raises ApiError 429."""
        limited = account.tokens is not None or account.key.budget_tokens is not None
        granted = limited and await self._wanted(account, Want(tokens=tokens))
        with account.reserved(tokens, used, total, granted) as reservation:
            yield reservation

    async def _wanted(self, account: Account, want: Want) -> bool:
        """Whether it was granted by all services' counts; False where this service decides by its own."""
        return self.exact and self._sharing is not None and await self._sharing.wanted(account, want)

    def save(self) -> None:
        """Tell the other services what was used here, and learn what they have used. Blocks."""
        if self._sharing is not None:
            self._sharing.save(self._limited())

    async def share(self) -> None:
        """The same beside the event loop."""
        if self._sharing is not None:
            await self._sharing.share()

    async def share_last(self) -> None:
        """Before `close`: at most one failure of the place is waited for."""
        if self._sharing is not None:
            await self._sharing.share_last()

    def close(self) -> None:
        if self._sharing is not None:
            if self._sharing.fault is None:
                self._sharing.save(self._limited())
            self._sharing.close()


def _stamp(file: Path) -> Stamp:
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino


def _settled_stamp(file: Path) -> Stamp | None:
    """None while the file is so young that a further write could leave the same times."""
    try:
        stamp = _stamp(file)
    except OSError:
        return None  # the reader says why
    return stamp if time.time() - max(stamp[:2]) / 1e9 > LOOK_AGAIN_S else None


def read_keys(file: Path) -> list[Key]:
    """Raises WrongUse naming the first wrong field."""
    try:
        entries = _File.model_validate_json(file.read_bytes()).keys
    except OSError as e:
        hint = f"make one: steelyard serve MODEL --keys {file} --new-key NAME"
        raise WrongUse("serve.keys", f"cannot read {file}", why=e.strerror, hint=hint) from e
    except ValidationError as e:
        first = e.errors(include_input=False, include_url=False)[0]
        where = Where(str(file), field=".".join(str(part) for part in first["loc"]))
        hint = "see docs/how-to/share-with-keys.md"
        raise WrongUse("serve.keys", first["msg"], where=where, hint=hint) from None
    if reserved := {entry.id for entry in entries} & set(RESERVED):
        message = f"the id {min(reserved)!r} is the service's own"
        raise WrongUse("serve.keys", message, where=Where(str(file)), hint="rename it")
    if len({entry.id for entry in entries}) < len(entries):
        raise WrongUse("serve.keys", "two keys have the same id", where=Where(str(file)), hint="rename one")
    return [_key(entry) for entry in entries]


def _key(entry: _Entry) -> Key:
    """Without an owner of its own an entry owns what its very secret has made, and no other's."""
    owner = entry.owner or "key-" + digest(b"owner " + entry.sha256.encode())[:32]
    return Key(**{**entry.model_dump(), "owner": owner, "scopes": frozenset(entry.scopes)})


def new_key(file: Path, key_id: str) -> str:
    """Add a key to the file and return it: it stands nowhere else. Raises WrongUse."""
    document: dict[str, Any] = orjson.loads(file.read_bytes()) if file.exists() else {"keys": []}
    if file.exists():
        read_keys(file)
    if any(entry["id"] == key_id for entry in document["keys"]):
        raise WrongUse("serve.keys", f"there is a key {key_id!r} already", where=Where(str(file)))
    secret = "sk-" + secrets.token_urlsafe(32)
    owner = "key-" + secrets.token_hex(16)
    document["keys"].append(
        {"id": key_id, "sha256": digest(secret.encode()), "owner": owner, "scopes": ["inference"]}
    )
    _File.model_validate(document)
    if key_id in RESERVED:
        raise WrongUse("serve.keys", f"the id {key_id!r} is the service's own", hint="take another name")
    write_durably(file, orjson.dumps(document, option=orjson.OPT_INDENT_2))
    os.chmod(file, 0o600)
    return secret
