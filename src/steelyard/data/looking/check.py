"""Whatever cleaning would refuse, refused before any step: for `validate` and `plan`. Needs no model."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ...errors import Where, WrongUse
from ..cleaning import Cleaning, CleanOrder
from ..reading.sources import Source, files_of, rows

ROWS_CHECKED = 200_000  # a JSONL file; more would take longer than a check may


def check(settings: Mapping[str, Any], recipe: Path | None = None) -> dict[str, Any]:
    """Read and judge the rows of a recipe's data as the step does; nothing is written.

    `settings` as for `clean`. Returns the account: {"read", "kept", "dropped", "by_reason", "train",
    "held_out", "abilities": {name: {"train", "test"}}, "whole": False where a file was not read whole}.
    With the `recipe`'s file a fault of a map names its line there (`line` of the source).
    Raises WrongUse for what the step would refuse: a missing file or column, an unreadable line, no rows,
    none kept.
    """
    cleaning = Cleaning.of(CleanOrder.of(settings), rows_limit=ROWS_CHECKED)
    order, account = cleaning.order, cleaning.account
    check_maps(order, recipe)
    every = [(j.row.ability, j.prompt, j.made, file) for j, file in cleaning.run() if j.row]
    chosen = cleaning.divided([(ability, prompt, made) for ability, prompt, made, _ in every])
    notes = [note for number, note in enumerate(every) if number not in cleaning.settled]
    abilities = {a: {"train": 0, "test": 0} for a in sorted({note[0] for note in notes} | set(order.evals))}
    for row in cleaning.test:
        abilities[row.ability]["test"] += 1
    for ability, prompt, _, file in notes:
        file.held_out += prompt in chosen
        abilities[ability]["test" if prompt in chosen else "train"] += 1
    whole = not any(f.format == "jsonl" and f.read >= ROWS_CHECKED for f in account.files)
    return account.as_json() | {"abilities": abilities, "whole": whole}


def check_maps(order: CleanOrder, recipe: Path | None) -> None:
    """The columns of every file, before any is read whole. Raises WrongUse."""
    for number, source in enumerate(order.sources):
        for _, file in files_of([source], order.root):
            try:
                list(islice(rows(source, order.root, file, lenient=True), 1))
            except WrongUse as e:
                raise in_recipe(e, source, recipe, number) from e


def in_recipe(fault: WrongUse, source: Source, recipe: Path | None, number: int) -> WrongUse:
    """The fault at the line of the recipe that mends it; one of the file itself stays where it is."""
    field = fault.where.field if fault.where else None
    if recipe is None or source.line is None or not (field or "").startswith("data.map"):
        return fault
    at = Where(str(recipe), map_line(recipe, source.line), f"data.{number}{(field or '')[4:]}")
    return WrongUse(fault.code, fault.message, where=at, why=fault.why, hint=fault.hint)


def map_line(recipe: Path, line: int) -> int:
    """The line of the source's map, also where it is still a comment; else the source's own."""
    lines = recipe.read_text(encoding="utf-8").splitlines()
    for number, text in enumerate(lines[line:], line + 1):
        bare = text.strip()
        if bare.startswith("- ") or (bare and not text[:1].isspace() and not bare.startswith("#")):
            break
        if bare.removeprefix("#").strip().startswith("map:"):
            return number
    return line
