"""One key and what it has used: its limits a minute, its budget, what its requests under way may spend.

Not here: which keys there are (../keys.py), what other services have used of them (sharing.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ....units import show_s
from ..errors import ApiError
from .settling import (
    DAY_S,
    Claim,
    Level,
    Refusal,
    Sum,
    Want,
    period_of,
    request_refused,
    tokens_refused,
    wait_s,
)


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
        return wait_s(units, self.look() - held, self.a_minute)

    def take(self, units: float) -> None:
        self.level = self.look() - units
        self.taken += units

    def claim(self) -> Level:
        """What was taken here since the last time."""
        taken, self.taken = self.taken, 0.0
        return Level(a_minute=self.a_minute, taken=taken)

    def settle(self, level: float) -> None:
        """`level`: over all services. What was taken here and is not told yet stays taken."""
        self.level, self.at = min(self.a_minute, level) - self.taken, time.monotonic()

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
    others_hold: float = 0.0  # the same, of requests at other services
    clock: Callable[[], float] = time.time
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

    def claim(self, wants: tuple[Want, ...] = ()) -> Claim:
        """What was used here since the last time; it counts as told from now on."""
        self._turn()
        tokens, self.settled_tokens = self.used_tokens - self.settled_tokens, self.used_tokens
        return Claim(
            key_id=self.key.id, owner=self.key.owner, period=self.period, tokens=tokens,
            known=self.used_tokens, levels={kind: bucket.claim() for kind, bucket in self.buckets.items()},
            budget=self.key.budget_tokens, days=self.key.budget_days, held=self.pending, wants=wants,
        )  # fmt: skip

    def settle(self, claim: Claim, total: Sum) -> None:
        """Add what the other services have used: `total` is of all of them, with this claim.

        Tokens that it wanted and got are pending from now on; a request that it got is taken there.
        """
        if claim.period == self.period:  # else: a new one has begun since; the next claim is of that
            untold = self.used_tokens - self.settled_tokens
            self.period, self.settled_tokens = total.period, total.tokens
            self.used_tokens = total.tokens + untold
        for kind, bucket in self.buckets.items():
            level = claim.levels.get(kind)
            if level is not None and level.a_minute == bucket.a_minute:
                bucket.settle(total.levels[kind])
        self.others_hold = total.others_hold
        for want, refusal in zip(claim.wants, total.refusals, strict=True):
            self.pending += want.tokens or 0.0 if refusal is None else 0.0

    def take_back(self, claim: Claim) -> None:
        """It could not be told: the next claim has it again."""
        if claim.period == self.period:
            self.settled_tokens -= claim.tokens
        for kind, bucket in self.buckets.items():
            if kind in claim.levels:
                bucket.taken += claim.levels[kind].taken
        self.others_hold = 0.0  # nobody knows now

    def counted_after_all(self, claim: Claim, total: Sum) -> None:
        """Nobody heard of it, yet it counts; requests that were let in here meanwhile count once."""
        granted = zip(claim.wants, total.refusals, strict=True)
        twice = sum(want.requests for want, refusal in granted if refusal is None)
        if twice and self.requests is not None:
            self.requests.take(-twice)

    def refuse(self, refusal: Refusal | None) -> None:
        """Raises ApiError 429, where there is one."""
        if refusal is not None:
            raise self._error(refusal)

    def check_request(self) -> None:
        """Raises ApiError 429 where one more is too many by what is known here."""
        if self.requests is not None:
            self.refuse(request_refused(self.requests.look(), self.requests.a_minute))

    def take_request(self) -> None:
        """Raises ApiError 429."""
        self.check_request()
        if self.requests is not None:
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
        self, tokens: float, used: Tokens | None = None, total: Tokens | None = None, granted: bool = False
    ) -> Iterator[Reservation]:
        """While a request is under way that may spend so many. Raises ApiError 429 as `check_tokens` does.

        What it spends is added to `used`, and to `total` once it is computed. `granted`: they are pending.
        """
        if not granted:
            self.check_tokens(tokens)
            self.pending += tokens
        reservation = Reservation(self, tokens, used or Tokens(), total or Tokens())
        try:
            yield reservation
        finally:
            self.pending -= reservation.tokens
            reservation.tokens = 0.0

    def check_tokens(self, tokens: float) -> None:
        """Raises ApiError 429 where so many more are too many now, beside what is under way."""
        self._turn()
        ready = (self.tokens.look(), self.tokens.a_minute) if self.tokens else None
        pending = self.pending + self.others_hold
        self.refuse(tokens_refused(tokens, self.used_tokens, pending, self.key.budget_tokens, ready))

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

    def _error(self, refusal: Refusal) -> ApiError:
        if refusal.what == "budget":
            message = f"the budget of {self.key.budget_tokens} tokens is used up"
            return ApiError(429, message, code="insufficient_quota", retry_after=self._period_left_s())
        if refusal.what == "under_way":
            budget = self.key.budget_tokens
            message = f"the rest of the budget of {budget} tokens may be spent by requests under way"
        else:
            bucket = self.buckets[refusal.what]
            waits = show_s(refusal.wait_s or 0.0)
            message = (
                f"rate limit of {bucket.a_minute:.0f} {refusal.what} a minute reached; come again in {waits}"
            )
        return ApiError(429, message, code="rate_limit_exceeded", retry_after=refusal.wait_s)

    def _turn(self) -> None:
        """A new period has a new budget."""
        days = self.key.budget_days
        if days and (now := period_of(self.clock(), days)) != self.period:
            self.period, self.used_tokens, self.settled_tokens = now, 0, 0

    def _period_left_s(self) -> float | None:
        if not self.key.budget_days:
            return None
        length_s = self.key.budget_days * DAY_S
        return length_s - self.clock() % length_s


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
