"""Whether a new model may take the place of the one that stands, from counted pairs of answers. Pure.

Each pair is one live request: the standing model's answer, which the client got, and the candidate's, which
nobody got. Checks are on shares and means, each with an exact or a Student bound; looks are few and share
one error, so that peeking adds no false alarm. After the promotion the same is asked of the live answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from ...chances import at_least, at_most, normal_tail

ERROR = 0.05  # of all looks at one check together: a sound model is sent back in one case in twenty
LOOKS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)  # at these multiples of `requests`; undecided at the last: no
LATE_SHARE = 0.1  # answers of the standing model that begin later than the time after which one is late
LATE_MOST = 0.25  # of answers after the promotion
LEAST = 8  # pairs before a first look

Word = Literal["wait", "promote", "back"]
Outcome = Literal["passed", "failed", "undecided"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much worse is still good. `agreement`: least mean chrF of both answers; None: not asked for."""

    requests: int = 200  # pairs before a promotion, and answers watched after it
    errors: float = 0.03  # share of pairs in which the candidate alone fails
    slower: float = 1.5  # times the standing answer's time, of the middle pair
    agreement: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What one request came to. `failed`: no answer, an empty or endless one, no JSON in place of JSON."""

    failed: bool
    ratio: float | None  # the candidate's time over the standing one's; None: one has no answer
    agreement: float | None  # of the texts, 0 to 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Counts of pairs so far; what a restart goes on from."""

    pairs: int = 0
    failed: int = 0
    timed: int = 0
    slow: int = 0
    compared: int = 0
    agreement: float = 0.0  # sums, of the value and of its square
    agreement_squares: float = 0.0
    word: Word = "wait"
    why: str = ""
    looked: int = 0  # looks taken

    def with_pair(self, pair: Pair, budget: Budget) -> Tally:
        """One more, and the decision where a look is due. A decision stays."""
        if self.word != "wait":
            return self
        timed, compared = pair.ratio is not None, pair.agreement is not None
        more = replace(
            self,
            pairs=self.pairs + 1,
            failed=self.failed + pair.failed,
            timed=self.timed + timed,
            slow=self.slow + (timed and (pair.ratio or 0.0) > budget.slower),
            compared=self.compared + compared,
            agreement=self.agreement + (pair.agreement or 0.0),
            agreement_squares=self.agreement_squares + (pair.agreement or 0.0) ** 2,
        )
        return looked_at(more, budget)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Answers after the promotion. `late_s`: a first piece that comes later is late."""

    late_s: float
    answers: int = 0
    failed: int = 0
    late: int = 0
    word: Word = "wait"  # then "promote" (it stays) or "back"
    why: str = ""
    looked: int = 0

    def with_answer(self, failed: bool, first_s: float | None, budget: Budget) -> Watch:
        if self.word != "wait":
            return self
        more = replace(
            self,
            answers=self.answers + 1,
            failed=self.failed + failed,
            late=self.late + (first_s is not None and first_s > self.late_s),
        )
        return watched(more, budget)


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    outcome: Outcome
    value: float
    limit: float
    text: str = field(default="")


# ------------------------------------------------------------------ looks


def due(count: int, looked: int, requests: int) -> bool:
    return looked < len(LOOKS) and count >= max(LEAST, math.ceil(LOOKS[looked] * requests))


def looked_at(tally: Tally, budget: Budget) -> Tally:
    """Back at the first look that shows a fault; promoted from `requests` pairs on once all has passed."""
    if not due(tally.pairs, tally.looked, budget.requests):
        return tally
    found, looked = checks(tally, budget), tally.looked + 1
    word, why = verdict(found, enough=tally.pairs >= budget.requests, last=looked == len(LOOKS))
    return replace(tally, word=word, why=why, looked=looked)


def watched(watch: Watch, budget: Budget) -> Watch:
    """Back at the first look that shows a fault; it stays once as many are through as before."""
    if not due(watch.answers, watch.looked, budget.requests):
        return watch
    error = ERROR / len(LOOKS)
    found = [
        share_check("errors", watch.failed, watch.answers, budget.errors, error),
        share_check("late", watch.late, watch.answers, LATE_MOST, error),
    ]
    looked = watch.looked + 1
    if failed := [c for c in found if c.outcome == "failed"]:
        return replace(watch, word="back", why=told(failed), looked=looked)
    enough = watch.answers >= budget.requests
    return replace(watch, word="promote" if enough else "wait", looked=looked)


def verdict(found: list[Check], enough: bool, last: bool) -> tuple[Word, str]:
    if failed := [c for c in found if c.outcome == "failed"]:
        return "back", told(failed)
    if all(c.outcome == "passed" for c in found):
        return ("promote", "") if enough else ("wait", "")
    undecided = [c for c in found if c.outcome == "undecided"]
    return ("back", f"not shown: {told(undecided)}") if last else ("wait", "")


def told(found: list[Check]) -> str:
    return ", ".join(f"{c.name} {c.value:.3g}, limit {c.limit:.3g}" for c in found)


def checks(tally: Tally, budget: Budget) -> list[Check]:
    """Each check as it stands now."""
    error = ERROR / len(LOOKS)
    found = [
        share_check("errors", tally.failed, tally.pairs, budget.errors, error),
        share_check("slower", tally.slow, tally.timed, 0.5, error),
    ]
    if budget.agreement is not None:
        found.append(agreement_check(tally, budget.agreement, error))
    return found


def share_check(name: str, count: int, of: int, limit: float, error: float) -> Check:
    """Is a share surely above its limit (failed), or surely not (passed)? Exact binomial bounds."""
    value = count / of if of else 0.0
    outcome: Outcome = "undecided"
    if of and at_least(count, of, limit) <= error:
        outcome = "failed"
    elif of and at_most(count, of, limit) <= ERROR:
        outcome = "passed"
    return Check(name, outcome, value, limit)


def agreement_check(tally: Tally, limit: float, error: float) -> Check:
    """The mean against its limit, by the normal bound of its spread; few or equal scores: by half a score."""
    n = tally.compared
    if n < LEAST:
        return Check("agreement", "undecided", 0.0, limit)
    mean = tally.agreement / n
    spread = max(0.0, tally.agreement_squares / n - mean * mean)
    deviation = math.sqrt((spread + 0.25 / n) / n)
    above, below = normal_tail((mean - limit) / deviation), normal_tail((limit - mean) / deviation)
    outcome: Outcome = "failed" if below <= error else "passed" if above <= ERROR else "undecided"
    return Check("agreement", outcome, mean, limit)


def late_after(first_s: list[float]) -> float:
    """The time by which nine in ten answers of the standing model have begun."""
    ordered = sorted(first_s)
    return ordered[min(len(ordered) - 1, int(len(ordered) * (1 - LATE_SHARE)))] if ordered else math.inf
