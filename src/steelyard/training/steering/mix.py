"""Which ability gets how much of the steps to come: by its loss on held-out rows, against its reference.

Dynamic batch loading (Xia et al. 2023, Sheared LLaMA, arXiv 2310.06694, algorithm 1) weighs each ability by
the exponential of how far its loss is above its reference:

    weight[a] = start[a] exp(excess[a]), normalised

Otherwise than there: `start` is alike for all and weights do not pile up from look to look (looks at few rows
piled their noise up, until one ability had nine tenths: decision 160); the excess is the part of what there
was to learn, from the loss before to the reference, that is still missing, since answers of different tasks
differ a hundredfold in loss; an ability whose target is reached, or whose held-out answers are all right, has
none; every ability keeps a share of LEAST_SHARE. The reference of an ability that is to be learnt is what a
probe of it alone leads one to expect (abilities/interference.py). Of one that is to be kept (gate.forget) it
is its loss before, and the excess the logarithm of their ratio.

Everything here is a function of settings and of the looks in the curve, so that a run that was killed draws
the rows that an unbroken one draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..packing import Schedule, steered
from ..rows import Rows, TrainingExample
from .groups import whole_groups

MOST_EXCESS = 1.0  # a weight is e times that of an ability without any, at most
LEAST_SHARE = 0.1  # of the draws, shared out alike whatever the losses say
NO_LOSS = 1e-4  # below it a loss is rounding
HELD_ROWS, HELD_SHARE = (
    32,
    0.05,
)  # of an ability for the looks: at most, and of its rows; a look is a twentieth
LIFT_ROWS, LIFT_SHARE = 100, 0.2  # for a lift, which is judged by them: a point is one row
LEAST_ROWS = 2
HELD_OUT = "held_out"


# ------------------------------------------------------------------ which rows are looked at


def hold_out_each(rows: Rows, seed: int, most: int = HELD_ROWS, share: float = HELD_SHARE) -> None:
    """Move some rows of each ability from `examples` to `kept_back`: `share` of them, `most` at most.

    Rows that ask nearly the same (`Rows.groups`) stay together.
    Of an ability with less than twice LEAST_ROWS rows none: it is taught whole, and steered by nobody.
    """
    numbers: dict[str, list[int]] = {}
    for example in rows.examples:
        own = numbers.setdefault(example.ability, [])
        if not own or own[-1] != example.number:
            own.append(example.number)
    drawn = {number for own in numbers.values() for number in _drawn(rows, own, seed, most, share)}
    rows.kept_back = [example for example in rows.examples if example.number in drawn]
    rows.examples = [example for example in rows.examples if example.number not in drawn]
    rows.dropped[HELD_OUT] += len(drawn)


def _drawn(rows: Rows, numbers: Sequence[int], seed: int, most: int, share: float) -> set[int]:
    if len(numbers) < 2 * LEAST_ROWS:
        return set()
    count = min(most, max(LEAST_ROWS, round(share * len(numbers))))
    return whole_groups(numbers, rows.groups, count, f"{seed}:held out of the mix:")


def by_ability(examples: Sequence[TrainingExample]) -> dict[str, list[TrainingExample]]:
    rows: dict[str, list[TrainingExample]] = {}
    for example in examples:
        rows.setdefault(example.ability, []).append(example)
    return dict(sorted(rows.items()))


# ------------------------------------------------------------------ the rule


@dataclass(frozen=True, slots=True)
class Aim:
    """Of one ability. `fixed`: its share of the draws, not steered."""

    reference: float  # nats a token
    before: float | None = None  # likewise, of the model that the training begins with
    target: float | None = None  # share of right answers that is enough
    fixed: float | None = None

    def excess(self, loss: float, right: float) -> float:
        """How far behind its reference it is, 0 to MOST_EXCESS."""
        if right >= (1.0 if self.target is None else self.target):
            return 0.0
        return min(MOST_EXCESS, max(0.0, self._missing(loss)))

    def _missing(self, loss: float) -> float:
        if self.before is not None and (whole := self.before - self.reference) > NO_LOSS:
            return (loss - self.reference) / whole
        return math.log(max(loss, NO_LOSS) / max(self.reference, NO_LOSS))


def weights_after(
    start: Mapping[str, float], aims: Mapping[str, Aim], point: Mapping[str, Any]
) -> dict[str, float]:
    """The weights after a look; an ability that it does not show grows like one that has arrived."""
    losses, right = point["ability_loss"], point["ability_right"]
    excess = {
        ability: aims[ability].excess(losses[ability], right[ability])
        for ability in start
        if ability in losses
    }
    grown = {ability: weight * math.exp(excess.get(ability, 0.0)) for ability, weight in start.items()}
    total = sum(grown.values())
    return {ability: weight / total for ability, weight in grown.items()}


def shares_of(weights: Mapping[str, float], aims: Mapping[str, Aim]) -> dict[str, float]:
    """Shares of the draws: fixed ones as they stand, of the rest LEAST_SHARE alike, the others by weight."""
    fixed = {ability: aim.fixed for ability, aim in aims.items() if aim.fixed is not None}
    rest, alike = 1 - sum(fixed.values()), LEAST_SHARE / max(1, len(weights))
    steered_shares = {a: rest * (alike + (1 - LEAST_SHARE) * w) for a, w in weights.items()}
    return dict(sorted((fixed | steered_shares).items()))


# ------------------------------------------------------------------ the schedule that follows


@dataclass(frozen=True, slots=True)
class Steering:
    """`plan`: the schedule of the first mix, `start` that mix; every later one follows from the looks."""

    plan: Schedule
    start: Mapping[str, float]  # weights of the abilities that are steered, sum 1
    aims: Mapping[str, Aim]
    lengths: Sequence[int]
    settings: Mapping[str, Any]
    abilities: Sequence[str]
    weights: Sequence[float] = field(default=())

    def mixes(self, curve: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
        """The shares from each step (from 0) on that a look has changed."""
        mixes = {0: shares_of(self.start, self.aims)}
        for point in curve:
            if "ability_loss" in point:
                weights = weights_after(self.start, self.aims, point)
                mixes[int(point["step"])] = shares_of(weights, self.aims)
        return mixes

    def schedule(self, curve: Sequence[Mapping[str, Any]]) -> Schedule:
        """What is behind us and what is to come, by the looks so far."""
        return steered(
            self.plan, self.lengths, self.settings, self.abilities, self.weights, self.mixes(curve)
        )


def start_weights(abilities: Iterable[str], fixed: Mapping[str, float]) -> dict[str, float]:
    """Alike for all abilities that are steered, sum 1."""
    steered_ones = sorted(set(abilities) - set(fixed))
    return {ability: 1 / len(steered_ones) for ability in steered_ones}
