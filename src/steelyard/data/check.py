"""Whatever cleaning would refuse, refused before any step: for `validate` and `plan`. Needs no model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .cleaning import Cleaning, CleanOrder
from .held_out import held_out

ROWS_CHECKED = 200_000  # a JSONL file; more would take longer than a check may


def check(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read and judge the rows of a recipe's data as the step does; nothing is written.

    `settings` as for `clean`. Returns the account: {"read", "kept", "dropped", "by_reason", "train",
    "held_out", "abilities": {name: {"train", "test"}}, "whole": False where a file was not read whole}.
    Raises WrongUse for what the step would refuse: a missing file or column, an unreadable line, no rows,
    none kept.
    """
    cleaning = Cleaning.of(CleanOrder.of(settings), rows_limit=ROWS_CHECKED)
    order, account = cleaning.order, cleaning.account
    notes = [(judged.row.ability, judged.prompt, file) for judged, file in cleaning.run() if judged.row]
    chosen = held_out([(a, p) for a, p, _ in notes], order.evals, order.rules.test_share)
    abilities = {a: {"train": 0, "test": 0} for a in sorted({a for a, _, _ in notes} | set(order.evals))}
    for row in cleaning.test:
        abilities[row.ability]["test"] += 1
    for ability, prompt, file in notes:
        file.held_out += prompt in chosen
        abilities[ability]["test" if prompt in chosen else "train"] += 1
    whole = not any(f.format == "jsonl" and f.read >= ROWS_CHECKED for f in account.files)
    return account.as_json() | {"abilities": abilities, "whole": whole}
