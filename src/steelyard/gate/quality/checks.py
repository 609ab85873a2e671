"""What the scores of base, tuned and served say, ability by ability, as checks. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..base.verdict import Check
from .design import Design, design_of
from .scores import RowScore, Scores
from .statistics import Difference, Outcome, Quantiles, difference, rows_needed, verdict_on

OUTCOMES: dict[Outcome, bool | None] = {"passed": True, "failed": False, "undecided": None}
HIGH_SCORE = 0.9  # from here on a base may leave too little room for a gain to show
NOTHING = Scores(rows=())


def quality_checks(
    base: Scores,
    tuned: Scores,
    served: Scores,
    gate: Mapping[str, Any],
    design: Design | None = None,
    more: tuple[Scores, Scores] = (NOTHING, NOTHING),
    looks: Mapping[str, int] | None = None,
) -> list[Check]:
    """Every check of every ability. `gate`: the recipe's section with abilities, forget, tolerance.

    A score of 0 never passes. With a `min` the score must reach it and show no loss against the base; with a
    `forget` it may lose that much; with neither it must beat the base. Served may lose the tolerance against
    tuned. `more`: tuned and served on training rows; `looks`: the look (from 0) that each ability is at.
    """
    counts = {a: len(served.values(a)) for a in served.abilities}
    design = design or design_of(gate, counts, {})
    checks: list[Check] = []
    for ability in served.abilities:
        floor = (gate.get("abilities") or {}).get(ability, {}).get("min")
        checks.append(_above_zero(base, served, ability))
        checks += [_minimum(served, ability, float(floor))] if floor is not None else []
        checks += _fitting(served, ability) if floor is None else []
        checks.append(against_base(base, served, ability, gate, design))
        checks += against_tuned(tuned, served, ability, design, more, (looks or {}).get(ability, -1))
    return checks + _without_rows(served, gate)


def _without_rows(served: Scores, gate: Mapping[str, Any]) -> list[Check]:
    """What the recipe demands of an ability that has no held-out row: open, never passed over in silence."""
    tables = (gate.get("abilities") or {}).items()
    limits = {f"min/{a}": float(t["min"]) for a, t in tables if t.get("min") is not None}
    limits |= {f"against_base/{a}": -float(loss) for a, loss in (gate.get("forget") or {}).items()}
    example = "no held-out row of this ability has an answer to compare"
    return [
        Check(name=name, passed=None, limit=limit, example=example)
        for name, limit in limits.items()
        if name.partition("/")[2] not in served.abilities
    ]


# ------------------------------------------------------------------ the score itself


def _above_zero(base: Scores, served: Scores, ability: str) -> Check:
    s, b = served.share(ability), base.share(ability)
    text = f"{s.value:.1%} of {s.rows} rows, the base {b.value:.1%}"
    if s.rows and not s.value:
        text = f"not one of {s.rows} answers is right: {text}; a model at 0 % is never served"
    return Check(
        name=f"score/{ability}",
        passed=bool(s.value) if s.rows else None,
        value=s.value,
        low=s.low,
        high=s.high,
        limit=0.0,
        example=text,
    )


def _minimum(served: Scores, ability: str, floor: float) -> Check:
    """The plain meaning of "at least": the score itself, its interval beside it."""
    s = served.share(ability)
    example = f"{s.value:.1%} of {s.rows} rows, {floor:.1%} is the least (min)"
    return Check(
        name=f"min/{ability}",
        passed=s.value >= floor if s.rows else None,
        value=s.value,
        low=s.low,
        high=s.high,
        limit=floor,
        example=example,
    )


def _fitting(served: Scores, ability: str) -> list[Check]:
    """Graded answers must fit their own references better than those of other rows.

    A model that says the same to every question has a chrF score too, perhaps a better one than its base.
    """
    rows = [r for r in served.rows if r.ability == ability and r.elsewhere is not None]
    if not rows:
        return []
    change = difference([float(r.elsewhere or 0.0) for r in rows], [r.value for r in rows])
    name, enough = f"fits/{ability}", change.low > 0
    text = f"answers score {_points(change)} more on their own question than on another"
    if not enough:
        text += ": they do not follow the question"
    return [_check(name, enough, change, 0.0, text)]


# ------------------------------------------------------------------ against the base


def against_base(
    base: Scores, served: Scores, ability: str, gate: Mapping[str, Any], design: Design
) -> Check:
    """Better than the base; not worse where the recipe names what is enough, or the base leaves no room."""
    name = f"against_base/{ability}"
    z = design.quantiles(*base_look(base, ability, design))
    before, after = pairs(base, served, ability)
    if not after:
        return Check(name=name, passed=None, limit=0.0, example=_no_pair("the base", base, ability))
    change = difference(before, after, z=z)
    if (forget := (gate.get("forget") or {}).get(ability)) is not None:
        text = _loss_text(change, float(forget), "may be forgotten")
        return _check(name, OUTCOMES[verdict_on(change, float(forget))], change, -float(forget), text)
    tolerance = design.abilities[ability].tolerance
    if (gate.get("abilities") or {}).get(ability, {}).get("min") is not None:
        return _not_worse(name, change, tolerance, "`min` is set, so a gain need not be shown")
    if (lifted := gate.get("lifted")) and ability != lifted:
        return _not_worse(name, change, tolerance, f"{lifted} is lifted, this is kept")
    if no_room(before, z):
        score = sum(before) / len(before)
        return _not_worse(name, change, tolerance, f"the base scores {score:.1%}: no room to show a gain")
    return _better(name, change, before, z)


def base_look(base: Scores, ability: str, design: Design) -> tuple[tuple[int, ...], int]:
    """The looks at the base, and which of them its rows have reached."""
    sizes, rows = design.base_sizes(ability), sum(r.ability == ability for r in base.rows)
    return sizes, next((i for i, size in enumerate(sizes) if rows <= size), len(sizes) - 1)


def no_room(before: Sequence[float], z: Quantiles) -> bool:
    """Could not even a perfect score show a gain over a base this high?"""
    high = sum(before) / len(before) >= HIGH_SCORE
    return high and difference(before, [1.0] * len(before), z=z).low <= 0


def _better(name: str, change: Difference, before: Sequence[float], z: Quantiles) -> Check:
    if change.low > 0:
        text = f"{_points(change)} better than the base on {change.rows} rows"
        return _check(name, True, change, 0.0, text)
    if change.high < 0:
        return _check(name, False, change, 0.0, f"worse than the base: {_points(change)}, {change.rows} rows")
    if difference(before, [1.0] * len(before), z=z).low <= 0:
        text = f"{change.rows} rows are too few to show even a perfect gain over the base"
        return _check(name, None, change, 0.0, text)
    text = f"no gain over the base was shown: {_points(change)} on {change.rows} rows"
    more = rows_needed(change, 0.0) if change.value > 0 else 0
    text += f"; {more} more held-out rows would show a gain of this size" if more else ""
    return _check(name, False, change, 0.0, text)


def _not_worse(name: str, change: Difference, tolerance: float, why: str) -> Check:
    """Failed where a loss beyond the tolerance is shown, passed where none is measured."""
    text = f"{why}; {_loss_text(change, tolerance, 'may be lost')}"
    if change.high < -tolerance:
        return _check(name, False, change, -tolerance, text)
    return _check(name, True if change.value >= -tolerance else None, change, -tolerance, text)


# ------------------------------------------------------------------ against the tuned model


def against_tuned(
    tuned: Scores,
    served: Scores,
    ability: str,
    design: Design,
    more: tuple[Scores, Scores] = (NOTHING, NOTHING),
    look: int = -1,
) -> list[Check]:
    """Served against tuned on held-out and training rows together; then the held-out rows must agree."""
    name, rows = f"against_tuned/{ability}", design.abilities[ability]
    before, after = pairs(tuned, served, ability)
    before_more, after_more = pairs(*more, ability)
    if not after + after_more:
        example = _no_pair("the tuned model", tuned, ability)
        return [Check(name=name, passed=None, limit=-rows.tolerance, example=example)]
    sizes = design.sizes(ability)
    z = design.quantiles(sizes, look)
    change = difference(before + before_more, after + after_more, z=z)
    outcome = verdict_on(change, rows.tolerance)
    text = _loss_text(change, rows.tolerance, "may be lost")
    if outcome == "undecided":
        text += f"; undecided: {_missing(change, rows.tolerance, z)} more rows needed"
    checks = [_check(name, OUTCOMES[outcome], change, -rows.tolerance, text)]
    return checks + (_guard(before, after, ability, design) if after_more and after else [])


def _guard(before: Sequence[float], after: Sequence[float], ability: str, design: Design) -> list[Check]:
    """What a form loses on rows that the model has learnt may be less than on new ones."""
    guard, tolerance = design.guard(ability), design.abilities[ability].tolerance
    limit = max(guard, tolerance)
    change = difference(before, after, z=design.quantiles((len(after),), 0))
    outcome = "failed" if change.high < -tolerance else verdict_on(change, limit)
    text = f"on the held-out rows alone: {_loss_text(change, limit, 'is what so few rows can rule out')}"
    return [_check(f"against_tuned_held_out/{ability}", OUTCOMES[outcome], change, -limit, text)]


def _missing(change: Difference, tolerance: float, z: Quantiles) -> int:
    return max(1, rows_needed(change, tolerance, z=z))


# ------------------------------------------------------------------ shared


def pairs(first: Scores, second: Scores, ability: str) -> tuple[list[float], list[float]]:
    """Scores on rows that the first answered and both have a verdict on; unanswered by the second: wrong."""
    before = {r.row: r.value for r in first.rows if _counts(r, ability) and not r.error}
    after = {r.row: r.value for r in second.rows if _counts(r, ability) and r.row in before}
    return [before[row] for row in after], list(after.values())


def _counts(row: RowScore, ability: str) -> bool:
    return row.ability == ability and row.judged


def _no_pair(who: str, scores: Scores, ability: str) -> str:
    own = [r for r in scores.rows if r.ability == ability]
    reason = "the judge gave no verdict" if own and not any(r.judged for r in own) else f"{who} answered none"
    return f"no row to compare: {reason}"


def _check(name: str, passed: bool | None, change: Difference, limit: float, example: str) -> Check:
    return Check(
        name=name,
        passed=passed,
        value=change.value,
        low=change.low,
        high=change.high,
        limit=limit,
        example=example,
    )


def _points(change: Difference) -> str:
    return f"{change.value * 100:+.1f} points ({change.low * 100:+.1f} to {change.high * 100:+.1f})"


def _loss_text(change: Difference, tolerance: float, what: str) -> str:
    return f"{_points(change)} on {change.rows} rows, {tolerance * 100:.1f} {what}"
