"""What services have used of one key, counted together. Pure: a row and a claim in, a row and a sum out.

A service's claim adds what it has counted since the last time, says what its requests under way may still
spend, and may want something: one more request, or tokens to hold. What it wants is granted by what all
services have used, and taken in the same step, so N services let in as much as one would. Not here: where
rows lie (sqlite.py, postgres.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

DAY_S = 86400.0
HELD_S = 30.0  # a service that has said nothing for so long has ended: what it held is free
SET_BACK_S = 60.0  # a clock that is behind by more was set back; by less: two rows were read out of turn

Whose = tuple[str, str]  # id and owner of a key: an id may be given out again


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Of "requests" or "tokens" a minute, of the "budget", or of what is "under_way"."""

    what: str
    wait_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """One more request, or so many tokens that a request may spend."""

    requests: int = 0
    tokens: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Of one limit: what one service has taken since the last time."""

    a_minute: float
    taken: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What one service has counted of a key since the last time. `known`: all that it knows of."""

    key_id: str
    owner: str
    period: int
    tokens: int
    known: int
    levels: dict[str, Level]
    budget: int | None = None
    days: float | None = None  # of one budget
    held: float = 0.0  # tokens that its requests under way may still spend
    wants: tuple[Want, ...] = ()

    @property
    def whose(self) -> Whose:
        return self.key_id, self.owner

    @property
    def used(self) -> bool:
        return bool(self.tokens or any(level.taken for level in self.levels.values()))

    @property
    def shape(self) -> tuple[Any, ...]:
        """What of it stands in the row whether or not anything was used."""
        return self.key_id, self.owner, self.period, *((k, v.a_minute) for k, v in self.levels.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """Of one key over all services: tokens of the period, and what lies ready of each limit."""

    period: int
    tokens: int
    levels: dict[str, float]
    others_hold: float = 0.0
    refusals: tuple[Refusal | None, ...] = ()  # one a want; None: it was granted, and is taken


Sums = dict[Whose, Sum]


class Unheard(OSError):
    """Whether the transaction counts is not known. `sums`: what it comes to where it does."""

    def __init__(self, why: str, sums: Sums) -> None:
        super().__init__(0, why)
        self.sums = sums


@dataclass(frozen=True, slots=True)
class Standing:
    """Of one limit: what lay ready at a time."""

    a_minute: float
    level: float
    at_s: float

    def at(self, now_s: float) -> Standing:
        """What has flowed in since. Time that goes back gives nothing."""
        if self.at_s - SET_BACK_S < now_s <= self.at_s:
            return self
        passed_s = max(0.0, now_s - self.at_s)
        return replace(self, level=self.level + self._room(passed_s * self.a_minute / 60), at_s=now_s)

    def _room(self, units: float) -> float:
        return min(units, max(0.0, self.a_minute - self.level))

    def sized(self, a_minute: float) -> Standing:
        """As much more or less lies ready as the limit has grown or shrunk: no refill, however often."""
        return replace(self, a_minute=a_minute, level=self.level + a_minute - self.a_minute)

    def less(self, units: float) -> Standing:
        return replace(self, level=min(self.a_minute, self.level - units))


@dataclass(frozen=True, slots=True)
class Held:
    """Tokens that one service's requests may still spend, as it said last."""

    tokens: float
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """All that is kept of a key."""

    owner: str
    period: int
    tokens: int
    levels: Mapping[str, Standing] = field(default_factory=dict)
    held: Mapping[str, Held] = field(default_factory=dict)  # by service


def period_of(now_s: float, days: float) -> int:
    """The number of the budget's period since 1970."""
    return int(now_s / (days * DAY_S))


def wait_s(units: float, level: float, a_minute: float) -> float:
    """Seconds until `units` lie ready; more than fit are given out of a full bucket."""
    return max(0.0, (min(units, a_minute) - level) * 60 / a_minute)


def request_refused(level: float, a_minute: float) -> Refusal | None:
    """Whether one more request has to wait."""
    waits = wait_s(1, level, a_minute)
    return Refusal(what="requests", wait_s=waits) if waits else None


def tokens_refused(
    tokens: float, used: int, pending: float, budget: int | None, ready: tuple[float, float] | None
) -> Refusal | None:
    """Whether so many are too many beside those pending. `ready`: level and size of the limit a minute."""
    if budget is not None and used >= budget:
        return Refusal(what="budget")
    if budget is not None and pending and used + pending >= budget:
        return Refusal(what="under_way", wait_s=1)
    if ready is None:
        return None
    level, a_minute = ready
    waits = wait_s(tokens, level - pending, a_minute)
    return Refusal(what="tokens", wait_s=waits) if waits else None


def settled(row: Row | None, claim: Claim, now_s: float, service: str = "") -> tuple[Row, Sum]:
    """The row with this claim of `service`, and what it comes to. `now_s`: by the clock of all services."""
    row = _counted(row, claim, now_s)
    ready = {kind: _ready(row.levels.get(kind), level, now_s) for kind, level in claim.levels.items()}
    others = sum(h.tokens for name, h in row.held.items() if name != service and _lives(h, now_s))
    held, refusals = claim.held, list[Refusal | None]()
    for want in claim.wants:
        refusals.append(refusal := _refusal(want, claim, row.tokens, others + held, ready))
        if refusal is None:
            held += want.tokens or 0.0
            if want.requests and (bucket := ready.get("requests")):
                ready["requests"] = bucket.less(want.requests)
    row = replace(row, levels=_kept(row.levels, ready), held=_holding(row.held, service, held, now_s))
    levels = {kind: standing.level for kind, standing in ready.items()}
    total = Sum(
        period=row.period, tokens=row.tokens, levels=levels, others_hold=others, refusals=tuple(refusals)
    )
    return row, total


def _counted(row: Row | None, claim: Claim, now_s: float) -> Row:
    """With its tokens, in the period that it is now; anew where the id was given out again."""
    if row is None or row.owner not in ("", claim.owner):
        # Without a row (a first time, a file that was lost) what this service knows of is the sum so far.
        tokens = 0 if row else claim.known - claim.tokens
        row = Row(owner=claim.owner, period=claim.period, tokens=tokens)
    period = period_of(now_s, claim.days) if claim.days else row.period
    tokens = row.tokens if row.period == period else 0
    if not claim.days or claim.period >= period:  # else: of a period that is over
        tokens += claim.tokens
    return replace(row, owner=claim.owner, period=period, tokens=max(0, tokens))


def _ready(standing: Standing | None, level: Level, now_s: float) -> Standing:
    """What lies ready now, without what the claim has taken. A new limit begins full."""
    if standing is None:
        standing = Standing(level.a_minute, level.a_minute, now_s)
    return standing.at(now_s).sized(level.a_minute).less(level.taken)


def _refusal(
    want: Want, claim: Claim, used: int, pending: float, ready: Mapping[str, Standing]
) -> Refusal | None:
    if want.requests:
        bucket = ready.get("requests")
        return request_refused(bucket.level, bucket.a_minute) if bucket else None
    bucket = ready.get("tokens")
    filled = (bucket.level, bucket.a_minute) if bucket else None
    return tokens_refused(want.tokens or 0.0, used, pending, claim.budget, filled)


def _kept(before: Mapping[str, Standing], ready: Mapping[str, Standing]) -> Mapping[str, Standing]:
    """What stands from now on: a level that only time has changed stays as it was."""
    return {**before, **{kind: s for kind, s in ready.items() if not _by_time(before.get(kind), s)}}


def _by_time(before: Standing | None, now: Standing) -> bool:
    return before is not None and now.at_s >= before.at_s and before.at(now.at_s) == now


def _holding(held: Mapping[str, Held], service: str, tokens: float, now_s: float) -> Mapping[str, Held]:
    """With what this service holds; said again before the others take it for gone."""
    mine = held.get(service)
    same = (mine.tokens if mine else 0.0) == tokens and (mine is None or now_s - mine.at_s < HELD_S / 3)
    if same:
        return held
    others = {name: h for name, h in held.items() if name != service and _lives(h, now_s)}
    return {**others, service: Held(tokens, now_s)} if tokens else others


def _lives(held: Held, now_s: float) -> bool:
    return now_s - held.at_s < HELD_S
