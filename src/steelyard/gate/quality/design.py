"""The design of one judgement: which rows each ability may use, at which looks, with which error. Pure.

Fixed before the first answer. Not here: the arithmetic of rows and looks (sample_size.py), what measured
scores say under the design (checks.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...sample_size import (
    ALPHA,
    BASE_LOOK,
    HARMLESS,
    POWER,
    AbilityRows,
    ability_rows,
    boundaries,
    guard_tolerance,
    look_sizes,
)
from .statistics import Quantiles

ROWS = 400  # of an ability in a first look, where the recipe does not say
METHOD = (
    "paired differences: Tango's score interval with continuity correction (right or wrong), Student's t "
    "widened as by Agresti and Coull (graded); looks share the error by t^2 spending; passing needs every "
    "check (intersection-union), failing is shared out over all checks (Bonferroni)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """`abilities`: the rows of each; `rows`: gate.rows. Both errors hold for the whole gate."""

    abilities: Mapping[str, AbilityRows]
    rows: int = ROWS
    alpha: float = ALPHA

    @property
    def checks(self) -> int:
        """Checks that may fail a form: each ability against the base and against the tuned model."""
        return 2 * max(1, len(self.abilities))

    def sizes(self, ability: str) -> tuple[int, ...]:
        """Pairs of served and tuned at each look."""
        return look_sizes(self.abilities[ability].pairs, self.rows)

    def base_sizes(self, ability: str) -> tuple[int, ...]:
        """Rows of the base at each look."""
        rows = self.abilities[ability].held_out
        return (*range(BASE_LOOK, rows, BASE_LOOK), rows)

    def quantiles(self, sizes: tuple[int, ...], look: int) -> Quantiles:
        """Of the lower bound, which passes a form, and of the upper, which fails it."""
        return boundaries(sizes, self.alpha)[look], boundaries(sizes, self.alpha / self.checks)[look]

    def guard(self, ability: str) -> float:
        return guard_tolerance(self.abilities[ability].held_out, len(self.abilities))

    def as_json(self, looks: Mapping[str, int] | None = None) -> dict[str, Any]:
        """`looks`: how many of its looks each ability has used."""
        abilities = {}
        for name, rows in self.abilities.items():
            used = {"looks_used": looks[name]} if looks and name in looks else {}
            abilities[name] = rows.as_json() | {"looks": list(self.sizes(name))} | used
        harmless = {"moved": HARMLESS, "passes": POWER}
        return {"alpha": self.alpha, "method": METHOD, "harmless": harmless, "abilities": abilities}


def design_of(gate: Mapping[str, Any], held_out: Mapping[str, int], train: Mapping[str, int]) -> Design:
    """From the gate's settings and the row counts of each ability that has held-out rows.

    A `tolerances` table is the plan's, stated before the start; else `tolerance`, a share or "auto".
    """
    rows = int(gate.get("rows", ROWS))
    planned, forget = gate.get("tolerances") or {}, gate.get("forget") or {}
    written = gate.get("tolerance", "auto")
    abilities = {}
    for name, count in held_out.items():
        tolerance = planned.get(name, None if written == "auto" else float(written))
        abilities[name] = ability_rows(
            count, train.get(name, 0), rows, len(held_out), tolerance, forget.get(name)
        )
    return Design(abilities=abilities, rows=rows)
