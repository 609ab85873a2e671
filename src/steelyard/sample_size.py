"""How many rows a gate needs, and which loss the rows at hand can rule out. Pure arithmetic.

Planner, data and gate share it: the plan states before the start what the gate will do. Not here: the
intervals of measured scores (gate/quality/statistics.py), which rows are held out (data).

Sources: sample size of a paired non-inferiority test by score statistics (Tango 1998, Statistics in Medicine
17:891; Nam 1997, Biometrics 53:1422); group-sequential boundaries by error spending (Lan and DeMets 1983,
Biometrika 70:659) with the power family of Kim and DeMets (1987, Biometrika 74:149), integrated as Armitage,
McPherson and Rowe do (1969, JRSS A 132:235).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

ALPHA = 0.05  # a form that loses more than the tolerance passes in at most one case in twenty
POWER = 0.95  # a harmless form passes all its abilities at least this often
HARMLESS = 0.04  # share of rows that move in a harmless form: 2 % gained, 2 % lost
LEAST_TOLERANCE, MOST_TOLERANCE = 0.02, 0.06  # of `tolerance: auto`; a wider one is written by the user
BASE_LOOK = 48  # rows of the base between two looks: its gap is wide, most rows would be wasted
LOOK_FACTOR = 4  # an undecided form is compared on up to four times `gate.rows`
SPENDING_POWER = 1.75  # error spent by a share t of the rows: t**1.75; equal forms pass at the first look
GUARD_POWER = 0.995  # the held-out rows alone must not add to the forms that are refused by chance
GAIN, GAIN_MOVED, GAIN_POWER = 0.10, 0.20, 0.90  # a gain over the base that held-out rows should show
DEFAULT_SHARE, MOST_SHARE = 0.10, 0.20  # of an ability's rows that are held out: usual, at most
MOST_ROWS = 10_000_000
GRID = 301  # points of the numerical integration: four digits hold (Lan-DeMets tables)

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True, kw_only=True)
class AbilityRows:
    """What one ability has and needs; all counts are rows.

    `held_out` answer "better than the base?" and give the scores. `pairs` (held-out rows, then training rows)
    compare the served form with the tuned model: both were trained on the training rows, so none is favoured.
    `tolerance`: the loss that the gate rules out, a share; `auto`: whether these rows chose it.
    """

    held_out: int
    held_out_needed: int
    pairs: int
    pairs_needed: int
    tolerance: float
    auto: bool

    @property
    def enough(self) -> bool:
        return self.held_out >= self.held_out_needed and self.pairs >= self.pairs_needed

    def as_json(self) -> dict[str, Any]:
        names = ("held_out", "held_out_needed", "pairs", "pairs_needed", "tolerance", "auto", "enough")
        return {name: getattr(self, name) for name in names}


def ability_rows(
    held_out: int,
    train: int,
    rows: int,
    abilities: int,
    tolerance: float | None = None,
    forget: float | None = None,
) -> AbilityRows:
    """The account of one ability. `rows` is `gate.rows`; `tolerance` None: by the rows (`auto`)."""
    first = min(held_out, rows)
    pairs = min(first + train, LOOK_FACTOR * rows)
    chosen = auto_tolerance(pairs, abilities, rows) if tolerance is None else tolerance
    return AbilityRows(
        held_out=first,
        held_out_needed=min(rows, held_out_needed(forget)),
        pairs=pairs,
        pairs_needed=pairs_needed(chosen, abilities, rows) if chosen else MOST_ROWS,
        tolerance=chosen,
        auto=tolerance is None,
    )


# ------------------------------------------------------------------ non-inferiority: served against tuned


def pairs_needed(
    tolerance: float, abilities: int = 1, rows: int = 400, moved: float = HARMLESS, power: float = POWER
) -> int:
    """Pairs an ability on which a harmless form passes with `power` over all `abilities` together.

    Passing all of several checks is an intersection-union test: each check at ALPHA keeps the whole at ALPHA
    (Berger 1982), so only the power is shared out.
    """
    z_power = _NORMAL.inv_cdf(1 - (1 - power) / abilities)

    def enough(count: int) -> bool:
        z = boundaries(look_sizes(count, rows))[-1]
        return margin(count, moved, z, z_power) <= tolerance

    low = 0
    for most in (count * 5 // 4 for count in early_looks(rows)):  # one pair more adds a look, and that costs
        if most > low and enough(most):
            return smallest(enough, low, most, most) or most
        low = most
    return smallest(enough, low, 2 * low or 1, MOST_ROWS) or MOST_ROWS


def margin(count: int, moved: float, z: float, z_power: float) -> float:
    """The loss that `count` pairs rule out at `z` with the power of `z_power`, where `moved` of them move."""
    low, high = 0.0, 1.0
    for _ in range(40):
        tolerance = (low + high) / 2
        spread = math.sqrt(restricted_variance(moved / 2, moved / 2, -tolerance) / count)
        missing = z * spread + z_power * math.sqrt(moved / count) + 0.5 / count > tolerance
        low, high = (tolerance, high) if missing else (low, tolerance)
    return high


def restricted_variance(gained: float, lost: float, delta: float) -> float:
    """Variance of a pair's difference, at its likeliest if the true difference is `delta` (Tango 1998)."""
    b = -gained - lost + (2 - gained + lost) * delta
    c = -lost * delta * (1 - delta)
    q = (math.sqrt(max(0.0, b * b - 8 * c)) - b) / 4
    return max(0.0, 2 * q + delta * (1 - delta))


def tolerance_shown(pairs: int, abilities: int, rows: int = 400, power: float = POWER) -> float:
    """The smallest loss, in thousandths, that these pairs rule out for a harmless form with `power`."""
    if pairs <= 0:
        return 1.0
    z = boundaries(look_sizes(pairs, rows))[-1]
    shown = margin(pairs, HARMLESS, z, _NORMAL.inv_cdf(1 - (1 - power) / abilities))
    return min(1.0, math.ceil(shown * 1000 - 1e-6) / 1000)


def auto_tolerance(pairs: int, abilities: int, rows: int = 400) -> float:
    """`gate.tolerance: auto`: what the pairs can show, from 2 to 6 points."""
    return min(MOST_TOLERANCE, max(LEAST_TOLERANCE, tolerance_shown(pairs, abilities, rows)))


def guard_tolerance(held_out: int, abilities: int) -> float:
    """What the held-out rows alone must rule out where training rows decide the rest."""
    return tolerance_shown(held_out, abilities, held_out, GUARD_POWER)


# ------------------------------------------------------------------ held-out rows: against the base


def held_out_needed(forget: float | None = None) -> int:
    """Held-out rows of an ability that show a gain of 10 points over the base, or no loss beyond `forget`."""
    if forget:
        return pairs_needed(forget, 1, MOST_ROWS, moved=GAIN_MOVED / 2, power=GAIN_POWER)
    chance, truth = GAIN_MOVED, GAIN_MOVED - GAIN**2
    z, z_power = _NORMAL.inv_cdf(1 - ALPHA), _NORMAL.inv_cdf(GAIN_POWER)
    return math.ceil(((z * math.sqrt(chance) + z_power * math.sqrt(truth)) / GAIN) ** 2)


def rows_to_hold_out(rows: int, most: int = 400, needed: int | None = None) -> int:
    """How many of an ability's rows to hold out where the recipe names no share.

    A tenth; more where that is too few for the gate, up to a fifth; never more than `most` (gate.rows).
    """
    wanted = max(round(rows * DEFAULT_SHARE), min(needed or held_out_needed(), int(rows * MOST_SHARE)))
    return min(most, wanted)


# ------------------------------------------------------------------ several looks at growing rows


def look_sizes(pairs: int, first: int) -> tuple[int, ...]:
    """Pairs compared at each look: the early looks that leave a fifth of the pairs to come, then all."""
    return (*(n for n in early_looks(first) if 0 < 5 * n < 4 * pairs), pairs)


def early_looks(first: int) -> tuple[int, ...]:
    """Half of `first`, `first`, twice as many."""
    return (first // 2, first, 2 * first)


def boundaries(sizes: Sequence[int], alpha: float = ALPHA) -> tuple[float, ...]:
    """One-sided normal quantile of each look, so that all looks together err in at most `alpha`."""
    shares = tuple(n / sizes[-1] for n in sizes) if sizes[-1] else (1.0,)
    return spending_boundaries(shares, tuple(alpha * t**SPENDING_POWER for t in shares))


@lru_cache(maxsize=512)
def spending_boundaries(shares: tuple[float, ...], spent: tuple[float, ...]) -> tuple[float, ...]:
    """Boundaries of a score that grows as Brownian motion, looked at after `shares` of the information.

    `spent`: error spent up to each look. The density of paths not yet stopped is carried from look to look.
    """
    z = [_NORMAL.inv_cdf(1 - spent[0])]
    if len(shares) == 1:
        return tuple(z)
    import numpy as np

    at, density = _first_density(shares[0], z[0])
    for k in range(1, len(shares)):
        step = math.sqrt(shares[k] - shares[k - 1])
        weight = density * (at[1] - at[0])
        wanted = spent[k] - spent[k - 1]

        def beyond(limit: float, k: int = k, at: Any = at, weight: Any = weight, step: float = step) -> float:
            return float((weight * _upper((limit * math.sqrt(shares[k]) - at) / step)).sum())

        def slope(limit: float, k: int = k, at: Any = at, weight: Any = weight, step: float = step) -> float:
            reached = np.exp(-0.5 * ((limit * math.sqrt(shares[k]) - at) / step) ** 2)
            return -float((weight * reached).sum()) * math.sqrt(shares[k] / (2 * math.pi)) / step

        z.append(_falling_root(beyond, slope, wanted, z[-1]))
        if k == len(shares) - 1:
            break
        grid = np.linspace(-6 * math.sqrt(shares[k]), z[-1] * math.sqrt(shares[k]), GRID)
        kernel = np.exp(-0.5 * ((grid[:, None] - at[None, :]) / step) ** 2) / (step * math.sqrt(2 * math.pi))
        at, density = grid, _trapezoid(kernel @ weight)
    return tuple(z)


def _first_density(share: float, z: float) -> tuple[Any, Any]:
    import numpy as np

    grid = np.linspace(-6 * math.sqrt(share), z * math.sqrt(share), GRID)
    return grid, _trapezoid(np.exp(-0.5 * grid**2 / share) / math.sqrt(2 * math.pi * share))


def _trapezoid(values: Any) -> Any:
    """Half weight at both ends, so that a plain sum is the trapezoidal rule."""
    values = values.copy()
    values[0] /= 2
    values[-1] /= 2
    return values


def _upper(z: Any) -> Any:
    """Upper tail of the normal distribution, elementwise."""
    import numpy as np

    return np.array([0.5 * math.erfc(v / math.sqrt(2)) for v in z])


def _falling_root(
    falling: Callable[[float], float], slope: Callable[[float], float], wanted: float, start: float
) -> float:
    """Where a falling function of 0 to 10 is `wanted`: Newton's steps, the middle where one leaves the rest.

    A boundary needs 5 of them where halving takes 50, and a plan asks for dozens of boundaries.
    """
    low, high, at = 0.0, 10.0, start
    for _ in range(50):
        missing = falling(at) - wanted
        low, high = (at, high) if missing > 0 else (low, at)
        steep = slope(at)
        after = at - missing / steep if steep else low
        after = after if low < after < high else (low + high) / 2
        if abs(after - at) < 1e-13:
            return after
        at = after
    return at


def smallest(enough: Callable[[int], bool], low: int, high: int, most: int) -> int | None:
    """The smallest count above `low` that is enough, sought from `high` on; None where `most` is passed."""
    while not enough(high):
        low, high = high, high * 2
        if high > most:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
