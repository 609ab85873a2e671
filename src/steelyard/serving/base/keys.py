"""Who may ask, and how much: a file of keys, each kept as a hash only.

{"keys": [{"id": "team-a", "sha256": "...", "owner": "key-...", "requests_per_minute": 60, ...}]}. The file is
read again when it changes; while it cannot be read, none of its keys is valid. What was used of limits and
budgets stands beside it in FILE.sqlite (store/accounts.py), for all services of this host that serve by it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...artefact import write_durably
from ...errors import Where, WrongUse
from ...units import show_s
from .errors import ApiError
from .log import written
from .store.accounts import Claim, Counts, Level, SharedAccounts, Sum

LOOK_AGAIN_S = 2.0  # for a changed file
SAVE_S = 0.5  # between two looks at what other services have counted
DAY_S = 86400.0
OWN = "api-key"  # the id of the one key that --api-key gives
RESERVED = (OWN, "local")  # "local": everybody, where no key is needed


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str = Field(min_length=1, max_length=64, pattern=r"^[\w.@-]+$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    owner: str | None = Field(None, pattern="^key-[0-9a-f]{16,64}$")
    scopes: list[Literal["inference", "tune", "admin", "watch"]] = ["inference"]
    weight: float = Field(1.0, gt=0)
    priority: int = 0
    may_hurry: bool = False
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    requests_at_once: int | None = Field(None, ge=1)
    budget_tokens: int | None = Field(None, ge=1)
    budget_days: float | None = Field(None, gt=0)
    stored_bytes: int | None = Field(None, ge=0)
    files: int | None = Field(None, ge=0)
    batches: int | None = Field(None, ge=0)
    jobs: int | None = Field(None, ge=0)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    keys: list[_Entry]


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What one key may do. `budget_tokens`: in all, or in each `budget_days` days."""

    id: str
    sha256: str
    owner: str = (
        ""  # whose files, batches, jobs and responses are: never the id, which may be given out again
    )
    scopes: frozenset[str] = frozenset({"inference", "tune", "admin", "watch"})
    weight: float = 1.0  # its share of a busy machine, beside the others' weights
    priority: int = 0
    may_hurry: bool = True
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    requests_at_once: int | None = None  # None: as the service says for each key
    budget_tokens: int | None = None
    budget_days: float | None = None
    stored_bytes: int | None = None  # these four: None, as the service's settings say
    files: int | None = None
    batches: int | None = None  # under way
    jobs: int | None = None  # under way


@dataclass(slots=True)
class Tokens:
    """Of a request, or of all that a key has asked for."""

    prompt: int = 0
    completion: int = 0


class Bucket:
    """`a_minute` units flow in each minute; at most that many lie ready."""

    def __init__(self, a_minute: float) -> None:
        self.a_minute = self.level = a_minute
        self.at = time.monotonic()
        self.taken = 0.0  # here, since it was last settled with others

    def look(self) -> float:
        now = time.monotonic()
        self.level = min(self.a_minute, self.level + (now - self.at) * self.a_minute / 60)
        self.at = now
        return self.level

    def wait_s(self, units: float, held: float = 0.0) -> float:
        """Seconds until `units` lie ready beside those held; more than fit are given out of a full bucket."""
        lacking = min(units, self.a_minute) - (self.look() - held)
        return max(0.0, lacking * 60 / self.a_minute)

    def take(self, units: float) -> None:
        self.level = self.look() - units
        self.taken += units

    def claim(self) -> Level:
        """What was taken here since the last time."""
        taken, self.taken = self.taken, 0.0
        return Level(a_minute=self.a_minute, taken=taken, before=self.look())

    def settle(self, claim: Level, level: float) -> None:
        """`level`: over all services when that was claimed. What was taken here since then stays taken."""
        self.level = min(self.a_minute, self.look() + level - claim.before)

    def full_in_s(self) -> float:
        return (self.a_minute - self.look()) * 60 / self.a_minute


@dataclass
class Account:
    """What one key has used."""

    key: Key
    requests: Bucket | None = None
    tokens: Bucket | None = None
    used_tokens: int = 0
    settled_tokens: int = 0  # of these, known to all services
    period: int = 0  # the number of the budget's period since 1970
    pending: float = 0.0  # tokens that requests under way may still spend
    at_once: int = 0  # requests under way

    def fit(self, key: Key) -> None:
        """Take over a changed entry; buckets stay where their size stays."""
        self.key = key
        self.requests = _fitted(self.requests, key.requests_per_minute)
        self.tokens = _fitted(self.tokens, key.tokens_per_minute)

    @property
    def buckets(self) -> dict[str, Bucket]:
        """Its limits a minute, by kind."""
        both = {"requests": self.requests, "tokens": self.tokens}
        return {kind: bucket for kind, bucket in both.items() if bucket is not None}

    @property
    def limited(self) -> bool:
        return bool(self.buckets or self.key.budget_tokens)

    def claim(self) -> Claim:
        """What was used here since the last time; it counts as told from now on."""
        self._turn()
        tokens, self.settled_tokens = self.used_tokens - self.settled_tokens, self.used_tokens
        return Claim(
            key_id=self.key.id, owner=self.key.owner, period=self.period, tokens=tokens,
            known=self.used_tokens, levels={kind: bucket.claim() for kind, bucket in self.buckets.items()},
        )  # fmt: skip

    def settle(self, claim: Claim, total: Sum) -> None:
        """Add what the other services have used: `total` is of all of them, with this claim."""
        if total.period == claim.period == self.period:
            self.used_tokens += total.tokens - claim.known
            self.settled_tokens += total.tokens - claim.known
        for kind, bucket in self.buckets.items():
            level = claim.levels.get(kind)
            if level is not None and level.a_minute == bucket.a_minute:
                bucket.settle(level, total.levels[kind])

    def take_back(self, claim: Claim) -> None:
        """It could not be told: the next claim has it again."""
        if claim.period == self.period:
            self.settled_tokens -= claim.tokens
        for kind, bucket in self.buckets.items():
            if kind in claim.levels:
                bucket.taken += claim.levels[kind].taken

    def take_request(self) -> None:
        """Raises ApiError 429."""
        if self.requests is None:
            return
        if wait_s := self.requests.wait_s(1):
            raise self._limited("requests", self.requests, wait_s)
        self.requests.take(1)

    @contextmanager
    def one_more(self, usual: int) -> Iterator[None]:
        """While one more request is under way. Raises ApiError 429 where that is one too many."""
        most = self.key.requests_at_once or usual
        if self.at_once >= most:
            message = f"this key has {most} requests under way, as many as it may"
            raise ApiError(429, message, code="too_many_at_once", retry_after=1)
        self.at_once += 1
        try:
            yield
        finally:
            self.at_once -= 1

    @contextmanager
    def reserved(
        self, tokens: float, used: Tokens | None = None, total: Tokens | None = None
    ) -> Iterator[Reservation]:
        """While a request is under way that may spend so many. Raises ApiError 429 as `check_tokens` does.

        What it spends is added to `used`, and to `total` once it is computed.
        """
        self.check_tokens(tokens)
        reservation = Reservation(self, tokens, used or Tokens(), total or Tokens())
        self.pending += tokens
        try:
            yield reservation
        finally:
            self.pending -= reservation.tokens
            reservation.tokens = 0.0

    def check_tokens(self, tokens: float) -> None:
        """Raises ApiError 429 where so many more are too many now, beside what is under way."""
        self._turn()
        budget = self.key.budget_tokens
        if budget is not None and self.used_tokens >= budget:
            message = f"the budget of {budget} tokens is used up"
            raise ApiError(429, message, code="insufficient_quota", retry_after=self._period_left_s())
        if budget is not None and self.pending and self.used_tokens + self.pending >= budget:
            message = f"the rest of the budget of {budget} tokens may be spent by requests under way"
            raise ApiError(429, message, code="rate_limit_exceeded", retry_after=1)
        if self.tokens is not None and (wait_s := self.tokens.wait_s(tokens, self.pending)):
            raise self._limited("tokens", self.tokens, wait_s)

    def spend(self, tokens: int) -> None:
        self._turn()
        self.used_tokens += tokens
        if self.tokens is not None:
            self.tokens.take(tokens)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """x-ratelimit-*, as OpenAI has them."""
        values: dict[str, str] = {}
        for name, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket is not None:
                values[f"x-ratelimit-limit-{name}"] = str(int(bucket.a_minute))
                values[f"x-ratelimit-remaining-{name}"] = str(max(0, int(bucket.look())))
                values[f"x-ratelimit-reset-{name}"] = f"{bucket.full_in_s():.2f}s"
        return [(name.encode(), value.encode()) for name, value in values.items()]

    def _limited(self, what: str, bucket: Bucket, wait_s: float) -> ApiError:
        message = (
            f"rate limit of {bucket.a_minute:.0f} {what} a minute reached; come again in {show_s(wait_s)}"
        )
        return ApiError(429, message, code="rate_limit_exceeded", retry_after=wait_s)

    def _turn(self) -> None:
        """A new period has a new budget."""
        if self.key.budget_days and (now := int(time.time() / self.key.budget_days / DAY_S)) != self.period:
            self.period, self.used_tokens, self.settled_tokens = now, 0, 0

    def _period_left_s(self) -> float | None:
        if not self.key.budget_days:
            return None
        length_s = self.key.budget_days * DAY_S
        return length_s - time.time() % length_s


@dataclass
class Reservation:
    """What a request under way may still spend: what it has spent is not held back twice."""

    account: Account
    tokens: float
    used: Tokens = field(default_factory=Tokens)
    total: Tokens = field(default_factory=Tokens)  # of the key; it only grows

    def spend_prompt(self, tokens: int) -> None:
        """When the engine gets it; `computed` once it has begun."""
        self._spend(tokens)
        self.used.prompt += tokens

    def spend_completion(self, tokens: int) -> None:
        self._spend(tokens)
        self.used.completion += tokens
        self.total.completion += tokens

    def computed(self, prompt_tokens: int) -> None:
        self.total.prompt += prompt_tokens

    def refund(self, prompt_tokens: int) -> None:
        """Of what was charged before it was computed, and then was not; after the request's end too."""
        self.account.spend(-prompt_tokens)
        self.used.prompt -= prompt_tokens

    def _spend(self, tokens: int) -> None:
        freed = min(float(tokens), self.tokens) if tokens > 0 else 0.0
        self.tokens -= freed
        self.account.pending -= freed
        self.account.spend(tokens)


def _fitted(bucket: Bucket | None, a_minute: int | None) -> Bucket | None:
    if a_minute is None:
        return None
    return bucket if bucket and bucket.a_minute == a_minute else Bucket(a_minute)


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
    _shared: SharedAccounts | None = None
    _share_fault: str | None = None

    def __post_init__(self) -> None:
        """Raises WrongUse where the file cannot be read."""
        if self.file is not None:
            beside = [self.file.with_name(self.file.name + end) for end in (".sqlite", ".used")]
            self._shared = SharedAccounts(*beside)
            self._read_used()
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
            account.fit(key)

    # ------------------------------------------------------------------ budgets outlast the process

    def _read_used(self) -> None:
        """Of the time before this process: what all services know of, or the earlier version's file."""
        assert self._shared is not None
        used: Counts = {}
        try:
            used = self._shared.used(make=self.shares)
        except OSError:  # it is said at the first exchange; what stands there is learnt once that works
            with suppress(OSError):
                used = self._shared.old_counts()
        for key_id, (owner, period, tokens) in used.items():
            key = Key(id=key_id, sha256="", owner=owner)
            self.accounts[key_id] = Account(key, used_tokens=tokens, settled_tokens=tokens, period=period)

    def save(self) -> None:
        """Tell the other services of this host what was used here, and learn what they have used."""
        if claims := self._claims():
            self._settle(claims, self._exchange([claim for _, claim in claims]))

    async def share(self) -> None:
        """The same beside the event loop. Accounts are touched on the loop alone."""
        if claims := self._claims():
            self._settle(claims, await asyncio.to_thread(self._exchange, [claim for _, claim in claims]))

    def _claims(self) -> list[tuple[Account, Claim]]:
        if self._shared is None or not self.shares:
            return []
        return [(account, account.claim()) for account in self.accounts.values() if account.limited]

    def _exchange(self, claims: list[Claim]) -> dict[str, Sum] | None:
        """Those that may have changed. None where the file cannot be used, which is reported once: each
        service counts for itself then."""
        assert self._shared is not None
        try:
            sums = self._shared.settle(claims)
        except OSError as e:
            if self._share_fault is None:
                self.report("keys.not_shared", file=str(self._shared.file), why=e.strerror)
            self._share_fault = e.strerror
            return None
        self._share_fault = None
        return sums

    def _settle(self, claims: list[tuple[Account, Claim]], sums: dict[str, Sum] | None) -> None:
        for account, claim in claims:
            if sums is None:
                account.take_back(claim)
            elif claim.key_id in sums and account.key.owner == claim.owner:
                account.settle(claim, sums[claim.key_id])

    def close(self) -> None:
        self.save()
        if self._shared is not None:
            self._shared.close()


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
