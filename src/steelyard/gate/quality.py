"""What the scores of base, tuned and served say, ability by ability, as checks. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .scores import Scores
from .statistics import Difference, difference, rows_needed, verdict_on
from .verdict import Check

OUTCOMES = {"passed": True, "failed": False, "undecided": None}


def quality_checks(base: Scores, tuned: Scores, served: Scores, gate: Mapping[str, Any]) -> list[Check]:
    """`gate`: the recipe's section with abilities, forget, tolerance.

    An ability named in `abilities` with a `min` must reach it; each must keep within `forget` (or the
    tolerance) of the base and within the tolerance of the tuned model.
    """
    tolerance = float(gate.get("tolerance", 0.02))
    found = []
    for ability in served.abilities:
        floor = (gate.get("abilities") or {}).get(ability, {}).get("min")
        found += [_minimum(served, ability, float(floor))] if floor is not None else []
        found.append(compared("base", base, served, ability, allowed_loss(gate, ability)))
        found.append(compared("tuned", tuned, served, ability, tolerance))
    return found


def allowed_loss(gate: Mapping[str, Any], ability: str) -> float:
    """What an ability may lose against the base, as a share of the rows."""
    return float((gate.get("forget") or {}).get(ability, gate.get("tolerance", 0.02)))


def _minimum(served: Scores, ability: str, floor: float) -> Check:
    """The plain meaning of "at least": the score itself, its interval beside it."""
    s = served.share(ability)
    example = f"{s.value:.1%} of {s.rows} rows, {floor:.1%} asked"
    return Check(
        name=f"min/{ability}",
        passed=s.value >= floor,
        value=s.value,
        low=s.low,
        high=s.high,
        limit=floor,
        example=example,
    )


def compared(role: str, first: Scores, second: Scores, ability: str, tolerance: float) -> Check:
    """Second against first on the rows that the first answered and the second was asked."""
    if (change := paired(first, second, ability)) is None:
        why = f"no row to compare: {role} answered none"
        return Check(name=f"against_{role}/{ability}", passed=None, limit=-tolerance, example=why)
    return Check(
        name=f"against_{role}/{ability}",
        passed=OUTCOMES[verdict_on(change, tolerance)],
        value=change.value,
        low=change.low,
        high=change.high,
        limit=-tolerance,
        example=told(change, tolerance),
    )


def paired(first: Scores, second: Scores, ability: str, confidence: float | None = None) -> Difference | None:
    """On the rows that the first answered, None without any; what the second did not answer is wrong."""
    before = {r.row: r.value for r in first.rows if r.ability == ability and not r.error}
    after = {r.row: r.value for r in second.rows if r.ability == ability and r.row in before}
    if not after:
        return None
    more = {} if confidence is None else {"confidence": confidence}
    return difference([before[row] for row in after], list(after.values()), **more)


def told(change: Difference, tolerance: float) -> str:
    points = f"{change.value * 100:+.1f} points ({change.low * 100:+.1f} to {change.high * 100:+.1f})"
    text = f"{points} on {change.rows} rows, {tolerance * 100:.1f} may be lost"
    if verdict_on(change, tolerance) == "undecided":
        text += f"; undecided: {rows_needed(change, tolerance)} more rows needed"
    return text
