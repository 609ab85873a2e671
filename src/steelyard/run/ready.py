"""What a run knows before its first step. Plain values; planning.py makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..artefact import Artefact
from ..hardware import Calibration, Machine
from ..planner import DataFacts, Fill, Local, Plans
from ..recipe import Recipe
from ..shape import Shape
from .sizing import Sized
from .workdir import Workdir


@dataclass(frozen=True, slots=True)
class Way:
    """One form of the served model: its settings, and what they will take here."""

    fill: Fill
    local: Local


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A planned run: one model in one form, and what may take its place if the gate refuses it."""

    id: str
    recipe: Recipe
    workdir: Workdir
    model: str
    base: Artefact
    shape: Shape
    machine: Machine
    calibration: Calibration
    facts: DataFacts
    form: str
    forms: tuple[str, ...]  # in the order they are tried
    ways: Mapping[str, Way]  # by form: those, and others that are only predicted
    larger: tuple[Sized, ...]  # the candidates of model: auto that come after this one
    plans: Plans
    document: dict[str, Any]

    @property
    def fill(self) -> Fill:
        return self.ways[self.form].fill

    @property
    def local(self) -> Local:
        return self.ways[self.form].local

    @property
    def next_form(self) -> str | None:
        at = self.forms.index(self.form) + 1
        return self.forms[at] if at < len(self.forms) else None
