"""The rows that the gate has and needs for each ability, and the loss they rule out. Stated before a run.

Not here: the arithmetic (sample_size.py), the verdict (gate).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from steelyard.recipe import Recipe
from steelyard.sample_size import (
    GAIN,
    HARMLESS,
    LOOK_FACTOR,
    MOST_TOLERANCE,
    POWER,
    AbilityRows,
    ability_rows,
    look_sizes,
    tolerance_shown,
)

from .facts import DataFacts


def gate_rows(recipe: Recipe, facts: DataFacts) -> dict[str, AbilityRows]:
    """What each judged ability has and needs; empty where nothing is trained, for then there is no gate."""
    if not recipe.train:
        return {}
    held_out = _held_out(facts)
    gate, written = recipe.gate, _written(recipe)
    return {
        name: ability_rows(
            count,
            facts.abilities.get(name, 0),
            gate.rows,
            len(held_out),
            written,
            gate.forget.get(name),
        )
        for name, count in sorted(held_out.items())
    }


def _held_out(facts: DataFacts) -> Mapping[str, int]:
    """Held-out rows of each ability; evenly shared where only their sum is counted."""
    if facts.held_out_by or not facts.held_out:
        return facts.held_out_by
    return {name: max(1, facts.held_out // len(facts.abilities)) for name in facts.abilities}


def _written(recipe: Recipe) -> float | None:
    """The tolerance that the user wrote; None: by the rows."""
    if recipe.compress.max_quality_loss is not None:
        return recipe.compress.max_quality_loss
    return None if recipe.gate.tolerance == "auto" else recipe.gate.tolerance


def gate_settings(recipe: Recipe, facts: DataFacts) -> dict[str, Any]:
    """The gate's settings: the recipe's words, and the tolerance of each ability, stated before the start."""
    written, rows = _written(recipe), gate_rows(recipe, facts)
    tolerances = {name: one.tolerance for name, one in rows.items()}
    words = {
        word: value
        for word, value in asdict(recipe.gate).items()
        if word != "approve" and (word not in ("general", "safety") or value is not None)
    }
    words |= {"lifted": recipe.goal.lift.ability} if recipe.goal.lift else {}
    return words | {
        "tolerance": "auto" if written is None else written,
        "tolerances": tolerances,
        "seed": recipe.seed,
    }


def first_look(rows: int, facts: DataFacts) -> int:
    """Rows of all abilities that tuned and served each answer up to the gate's first look.

    `rows` as gate.rows. Held-out rows come first, training rows fill up.
    """
    count = 0
    for name, held_out in _held_out(facts).items():
        pairs = min(min(held_out, rows) + facts.abilities.get(name, 0), LOOK_FACTOR * rows)
        count += look_sizes(pairs, rows)[0]
    return count


def gate_document(recipe: Recipe, facts: DataFacts) -> dict[str, Any]:
    """For plan.json and --json: {"abilities": {name: rows}, "enough", "notes": [sentences]}."""
    rows = gate_rows(recipe, facts)
    return {
        "abilities": {name: one.as_json() for name, one in rows.items()},
        "enough": all(one.enough for one in rows.values()),
        "notes": [note for name, one in rows.items() for note in notes_on(name, one, recipe, len(rows))],
    }


def notes_on(name: str, rows: AbilityRows, recipe: Recipe, abilities: int) -> list[str]:
    """What a reader must know of one ability before the start, and what there is to choose."""
    notes = [
        f"{name}: {rows.pairs} rows rule out a loss of {rows.tolerance * 100:.1f} points by the served form"
        + (" (gate.tolerance: auto)" if rows.auto else "")
    ]
    if rows.pairs < rows.pairs_needed:
        shown = tolerance_shown(rows.pairs, abilities, recipe.gate.rows)
        notes.append(
            f"{name}: too few rows: a harmless form ({HARMLESS:.0%} of its rows move) passes less than "
            f"{POWER:.0%} of the time; {rows.pairs_needed} rows are needed, "
            f"or write gate: {{tolerance: {shown:g}}}"
            + ("" if shown <= MOST_TOLERANCE or not rows.auto else ", a wider loss that you accept")
        )
    if rows.held_out < rows.held_out_needed:
        notes.append(
            f"{name}: {rows.held_out} held-out rows, {rows.held_out_needed} would show a gain of "
            f"{GAIN * 100:.0f} points over the base: a smaller true gain may not show"
        )
    return notes
