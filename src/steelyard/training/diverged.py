"""A step that is no number: which rows made it, and what is left."""

from __future__ import annotations

from collections.abc import Sequence

from steelyard.errors import CheckFailed

from .rows import Rows, TrainingExample

NAMED_ROWS = 5  # of those in a step that went wrong


def diverged(
    rows: Rows,
    made_by: Sequence[TrainingExample],
    what: str,
    value: float | str,
    step: tuple[int, int],
    saved: int,
) -> CheckFailed:
    """`what`: loss or gradient; `step`: its number, of how many; `saved`: the step of the last checkpoint."""
    names = [rows.names[number] for number in dict.fromkeys(row.number for row in made_by)]
    more = f" and {len(names) - NAMED_ROWS} more" if len(names) > NAMED_ROWS else ""
    hint = "look at these rows, or lower train.learning_rate"
    return CheckFailed(
        "train.diverged",
        f"the {what} of step {step[0]} of {step[1]} is {value}",
        why=f"rows of this step: {', '.join(names[:NAMED_ROWS])}{more}",
        hint=f"{hint}; the checkpoint of step {saved} is kept" if saved else hint,
    )
