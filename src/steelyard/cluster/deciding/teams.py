"""What teams may use and have used. State alone; the rules: sharing.py. Times in device seconds.

A fleet of one command has one team, named "".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import inf

ALL = "*"  # no team has this name
HALF_LIFE_S = 86_400.0  # of what counts for a share: what a team had yesterday counts half


@dataclass(slots=True)
class Account:
    """Of one team. `lately_s`: as `spent_s`, but what is older counts less."""

    share: float = 1.0
    budget_s: float | None = None
    spent_s: float = 0.0
    lately_s: float = 0.0


@dataclass(slots=True)
class Teams:
    """`due_s`: when the next budget or deadline is reached, if nothing changes. `closed`: who has reached a
    budget and starts nothing until there is more, ALL for everybody. `warned`: said once."""

    budget_s: float | None = None  # of all
    spent_s: float = 0.0
    accounts: dict[str, Account] = field(default_factory=dict)
    at_s: float = 0.0  # until when device time is counted
    due_s: float = inf
    closed: dict[str, None] = field(default_factory=dict)
    warned: dict[str, None] = field(default_factory=dict)

    def copy(self) -> Teams:
        accounts = {name: replace(account) for name, account in self.accounts.items()}
        return replace(self, accounts=accounts, closed=self.closed.copy(), warned=self.warned.copy())

    def of(self, team: str) -> Account:
        return self.accounts.setdefault(team, Account())

    def under(
        self, named: Iterable[tuple[str, float, float | None]]
    ) -> dict[str, tuple[float, float | None]]:
        """Share and budget of each team where these are the terms: one not named has those of a new one."""
        new = Account()
        rows = dict.fromkeys(self.accounts, (new.share, new.budget_s))
        return rows | {name: (share, budget_s) for name, share, budget_s in named}

    def count(self, held: dict[str, int], now_s: float) -> None:
        """The teams held so many devices until now."""
        passed_s = now_s - self.at_s
        self.at_s = now_s
        fades = 0.5 ** (passed_s / HALF_LIFE_S)
        for account in self.accounts.values():
            account.lately_s *= fades
        for team, devices in held.items():
            account = self.of(team)
            account.spent_s += devices * passed_s
            account.lately_s += devices * passed_s
            self.spent_s += devices * passed_s

    def left_s(self, team: str) -> float:
        """Device seconds that a team may still use; of ALL: of the budget of all jobs."""
        return min(self.own_left_s(team), inf if self.budget_s is None else self.budget_s - self.spent_s)

    def own_left_s(self, team: str) -> float:
        """Of its own budget alone."""
        account = self.accounts.get(team, Account())
        return inf if account.budget_s is None else account.budget_s - account.spent_s

    def pays(self, team: str, device_s: float) -> bool:
        """Whether a job of a team may start that uses so much at least."""
        return ALL not in self.closed and team not in self.closed and self.left_s(team) > device_s

    def ratio(self, team: str) -> float:
        """What it had lately for a share of one: the team with the least is next."""
        account = self.of(team)
        return account.lately_s / account.share
