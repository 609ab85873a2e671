"""What keys have used, told to other services and learnt from them: one exchange at a time, beside the loop.

Where the place counts exactly (Postgres), each request is asked for: what waits while an exchange is under
way goes with the next one, in one transaction. Where the place cannot be used, each service counts for
itself, says so once, and tells what it counted once it can. Accounts are touched on the event loop alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from .account import Account
from .settling import Claim, Refusal, Sums, Unheard, Want
from .sqlite import Counts

AGAIN_S = 0.4  # after a failure the place is tried again, and no request waits for that


class Accounts(Protocol):
    """Where counts of all services lie. Calls block, and raise OSError where it cannot be used."""

    exact: bool
    ahead_s: float  # its clock before this host's

    @property
    def place(self) -> str:
        """For the log; no secret stands in it."""

    @property
    def side_by_side(self) -> bool:
        """Whether two services can count there now."""

    def used(self, make: bool = True) -> Counts: ...
    def old_counts(self) -> Counts: ...
    def settle(self, claims: Sequence[Claim]) -> Sums:
        """Add these, all or none, and the sums of those that may have changed. Raises Unheard too."""

    def heard_of(self) -> bool:
        """Whether the transaction that nobody heard of counts."""

    def close(self) -> None: ...


Claims = list[tuple[Account, Claim]]


@dataclass(frozen=True, slots=True)
class Exchange:
    """What came of one: the sums (None: it could not be told), and of one before whether it counts."""

    sums: Sums | None = None
    unheard: Sums | None = None
    earlier: bool | None = None


class Sharing:
    """Tells and asks for the accounts that `limited` names."""

    def __init__(
        self, accounts: Accounts, report: Callable[..., None], limited: Callable[[], list[Account]]
    ) -> None:
        self.accounts, self.report, self.limited = accounts, report, limited
        self.fault: str | None = None
        self._failed_at = 0.0
        self._unheard: tuple[Claims, Sums] | None = None
        self._wants: list[tuple[Account, Want, asyncio.Future[tuple[Refusal | None] | None]]] = []
        self._look = False  # at all accounts, with the next exchange
        self._running: asyncio.Task[None] | None = None
        self._thread: ThreadPoolExecutor | None = None

    @property
    def exact(self) -> bool:
        return self.accounts.exact

    def now_s(self) -> float:
        """By the clock of the place."""
        return time.time() + self.accounts.ahead_s

    async def wanted(self, account: Account, want: Want) -> bool:
        """True: granted, and taken; False: the place cannot be asked now. Raises ApiError 429."""
        if self.fault is not None:
            if time.monotonic() - self._failed_at >= AGAIN_S:
                self._look = True
                self._begin()
            return False
        answer: asyncio.Future[tuple[Refusal | None] | None] = asyncio.get_running_loop().create_future()
        self._wants.append((account, want, answer))
        self._begin()
        try:
            told = await asyncio.shield(answer)
        except asyncio.CancelledError:  # who asked has gone: what it gets is given back
            answer.add_done_callback(lambda done: _give_back(account, want, done.result()))
            raise
        if told is not None:
            account.refuse(told[0])
        return told is not None

    async def share(self) -> None:
        """All accounts, now."""
        self._look = True
        await asyncio.shield(self._begin())

    async def share_last(self) -> None:
        """The same before the end: a place that has just failed is not waited for again."""
        if self._running is not None:
            await asyncio.shield(self._running)
        if self.fault is None:
            await self.share()

    def _begin(self) -> asyncio.Task[None]:
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return self._running

    async def _run(self) -> None:
        while self._wants or self._look:
            wants, self._wants = self._wants, []
            look, self._look = self._look, False
            try:
                await self._exchange(wants, look)
            finally:
                if self.fault is not None:  # who came meanwhile waits no longer either
                    wants, self._wants = wants + self._wants, []
                for _, _, answer in wants:
                    if not answer.done():
                        answer.set_result(None)

    async def _exchange(self, wants: list[tuple[Account, Want, asyncio.Future[Any]]], look: bool) -> None:
        asked = defaultdict[int, list[tuple[Want, asyncio.Future[Any]]]](list)
        accounts = {id(account): account for account in (self.limited() if look else ())}
        for account, want, answer in wants:
            asked[id(account)].append((want, answer))
            accounts[id(account)] = account
        claims = [
            (account, account.claim(tuple(want for want, _ in asked[key])))
            for key, account in accounts.items()
        ]
        if not claims:
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "accounts")
        blocking = partial(self._blocking, [claim for _, claim in claims])
        exchange = await asyncio.get_running_loop().run_in_executor(self._thread, blocking)
        self._settle(claims, exchange)
        for account, claim in claims:
            total = exchange.sums.get(claim.whose) if exchange.sums else None
            answers = total.refusals if total else ()
            for (_, answer), refusal in zip(asked[id(account)], answers, strict=False):
                answer.set_result((refusal,))

    def save(self, accounts: list[Account]) -> None:
        """The same for these, blocking: where nothing else is asked."""
        if claims := [(account, account.claim()) for account in accounts]:
            self._settle(claims, self._blocking([claim for _, claim in claims]))

    def _blocking(self, claims: list[Claim]) -> Exchange:
        """No account is touched here. A fault is reported once."""
        earlier = None
        try:
            if self._unheard is not None:
                earlier = self.accounts.heard_of()
            sums = self.accounts.settle(claims)
        except Exception as e:  # whatever it is: who counts here goes on, and tells the claims again
            why = getattr(e, "strerror", None) or f"{type(e).__name__}: {e}"
            if self.fault is None:
                consequence = "each service counts for itself until it can"
                self.report("keys.not_shared", file=self.accounts.place, why=why, consequence=consequence)
            self.fault, self._failed_at = why, time.monotonic()
            return Exchange(unheard=e.sums if isinstance(e, Unheard) else None, earlier=earlier)
        if self.fault is not None:
            self.report("keys.shared_again", file=self.accounts.place)
        self.fault = None
        return Exchange(sums=sums, earlier=earlier)

    def _settle(self, claims: Claims, exchange: Exchange) -> None:
        if self._unheard is not None and exchange.earlier is not None:
            self._close_unheard(*self._unheard, counts=exchange.earlier)
            self._unheard = None
        if exchange.unheard is not None:
            self._unheard = claims, exchange.unheard
            return
        for account, claim in claims:
            if exchange.sums is None:
                account.take_back(claim)
            elif claim.whose in exchange.sums and account.key.owner == claim.owner:
                account.settle(claim, exchange.sums[claim.whose])

    @staticmethod
    def _close_unheard(claims: Claims, sums: Sums, counts: bool) -> None:
        for account, claim in claims:
            if not counts:
                account.take_back(claim)
            elif claim.whose in sums:
                account.counted_after_all(claim, sums[claim.whose])

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown()
        self.accounts.close()


def _give_back(account: Account, want: Want, told: tuple[Refusal | None] | None) -> None:
    """Tokens that nobody will spend. A request that was let in counts, whoever has gone."""
    if told is not None and told[0] is None:
        account.pending -= want.tokens or 0.0
