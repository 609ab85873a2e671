"""What a run came to: one record a step, the rows' account, the scores, the verdict, the service."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from ...trust import SIMULATED
from .frontier import Attempt

STEP_NAMES = ("clean", "train", "pick", "prune", "heal", "qat", "compress", "gate", "serve")
OPTIONAL = ("pick", "prune", "heal", "qat")  # of runs whose recipes ask for them


def names_until(until: str, asked: Collection[str]) -> tuple[str, ...]:
    """The steps of a run up to that one, the optional ones where `asked`; none for a name that is no step."""
    end = STEP_NAMES.index(until) + 1 if until in STEP_NAMES else 0
    return tuple(name for name in STEP_NAMES[:end] if name in asked or name not in OPTIONAL)


@dataclass(slots=True)
class StepRecord:
    """One step: state is planned, done, reused, failed or skipped; figures flat, in SI units."""

    step: str
    state: str = "planned"
    artefact: str | None = None
    hash: str | None = None
    predicted: dict[str, float] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "state": self.state,
            "artefact": self.artefact,
            "hash": self.hash,
            "predicted": self.predicted,
            "measured": self.measured,
        }


@dataclass(slots=True)
class Outcome:
    """A run, finished or planned."""

    run: str
    workdir: str
    steps: list[StepRecord]
    plan: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, Any] | None = None  # where every row that was read ended (path/rows.py)
    frontier: list[Attempt] = field(default_factory=list)  # forms and models: tried, or only predicted
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    gate: dict[str, Any] | None = None
    service: dict[str, Any] | None = None
    report: str | None = None
    sample: dict[str, str] | None = None  # a question of the test set and the live service's answer
    notes: list[str] = field(default_factory=list)  # what could not be done and ended nothing
    simulated: bool = False  # of a rehearsal: no platform vouches for any of it

    def record(self, step: str) -> StepRecord:
        return next(r for r in self.steps if r.step == step)

    def as_json(self) -> dict[str, Any]:
        return {
            "schema": "steelyard.up/1",
            "run": self.run,
            "workdir": self.workdir,
            "steps": [r.as_json() for r in self.steps],
            "rows": self.rows,
            "frontier": [a.as_json() for a in self.frontier],
            "scores": self.scores,
            "gate": self.gate,
            "service": self.service,
            "report": self.report,
            "notes": self.notes,
        } | ({"trust": SIMULATED} if self.simulated else {})
