"""Looking at rows held out of a stage while it trains: which rows, when, and what follows from the curve.

What follows is a function of the curve alone, so that a resumed run decides as an unbroken one. The rows are
the stage's own, not those that cleaning holds out for the gate: to choose a checkpoint by the rows that judge
it would flatter it (docs/decisions/138).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..packing import schedule
from ..rows import Rows
from .groups import whole_groups

Curve = Sequence[Mapping[str, float]]
LOOKS = 10  # in a stage, where eval_steps says nothing; kept checkpoints likewise
HELD_OUT = "held_out"


def hold_out(rows: Rows, settings: Mapping[str, Any]) -> None:
    """Move `val_size` of the rows that have examples from `examples` to `kept_back`: one of two at least.

    Rows of one group, which ask nearly the same, stay together; a group that is larger than what is missing
    stays in training. Where all are too large the smallest one is taken; where there is but one, it is cut.
    """
    numbers = sorted({example.number for example in rows.examples})
    share = settings.get("val_size") or 0.0
    if not share or len(numbers) < 2:
        return
    count = min(len(numbers) - 1, max(1, round(share * len(numbers))))
    drawn = whole_groups(numbers, rows.groups, count, f"{settings['seed']}:held out:")
    rows.kept_back = [example for example in rows.examples if example.number in drawn]
    rows.examples = [example for example in rows.examples if example.number not in drawn]
    rows.dropped[HELD_OUT] += len(drawn)


def look_places(rows: Rows, settings: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """The held-out examples as micro-batches, packed as the stage packs, always the same."""
    if not rows.kept_back:
        return []
    lengths = [len(example.ids) for example in rows.kept_back]
    once = {**settings, "max_steps": 0, "num_train_epochs": 1, "grad_accum": 1, "mix": {}, "seed": 0}
    plan = schedule(lengths, once)
    return [batch for step in plan.steps for batch in step]


def is_due(step: int, steps: int, every: int | None) -> bool:
    """After this step (from 1), and after the last one."""
    return step % (every or max(1, steps // LOOKS)) == 0 or step == steps


def best(curve: Curve) -> Mapping[str, float] | None:
    """The point of the highest eval_score, where answers are scored, and of the least eval_loss; the first of
    equals."""
    looks = [point for point in curve if "eval_loss" in point]
    return min(looks, key=lambda p: (-p.get("eval_score", 0.0), p["eval_loss"])) if looks else None


def stops_early(curve: Curve, patience: int | None) -> bool:
    """Have the last `patience` looks brought nothing better?"""
    found = best(curve)
    if not patience or found is None:
        return False
    return sum("eval_loss" in point for point in curve if point["step"] > found["step"]) >= patience


def kept_steps(curve: Curve, steps: int, settings: Mapping[str, Any]) -> list[int]:
    """Of the steps behind us, those whose checkpoints stay in the artefact, the newest."""
    every, limit = settings.get("save_steps"), settings.get("save_total_limit")
    if not every and not limit:
        return []
    due = [int(point["step"]) for point in curve if is_due(int(point["step"]), steps, every)]
    return [step for step in due if step < steps][-(limit or len(due)) :]
