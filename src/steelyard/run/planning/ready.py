"""What a run knows before its first step. Plain values; prepare.py makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...artefact import Artefact
from ...hardware import Calibration, CpuTimes, Machine
from ...planner import DataFacts, Fill, Local, Plans, pruned_shape
from ...recipe import Recipe
from ...shape import Shape
from ..record.workdir import Workdir
from .sizing import Sized


@dataclass(frozen=True, slots=True)
class FormPlan:
    """One form of the served model: its settings, and what they will take here."""

    fill: Fill
    local: Local


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A candidate as it was measured: its files, its sizes, the data in its tokens, this machine's speed."""

    name: str
    base: Artefact
    forms: tuple[str, ...]  # that it can be served in
    shape: Shape
    machine: Machine
    facts: DataFacts
    calibration: Calibration
    cpu_before: CpuTimes  # the counters when this was measured: what others compute shows against later ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A planned run: one model in one form, and what may take its place if the gate refuses it."""

    id: str
    recipe: Recipe
    workdir: Workdir
    measured: Model
    form: str
    forms: tuple[str, ...]  # in the order they are tried
    by_form: Mapping[str, FormPlan]  # those, and others that are only predicted
    share: float | None = None  # of the parameters, what pruning leaves; None: the model is whole
    shares: tuple[float | None, ...] = ()  # that come after this one
    way: str | None = None  # of a lift, the one that is written in place of the first
    larger: tuple[Sized, ...]  # the candidates of model: auto that come after this one
    plans: Plans
    engine: dict[str, Any] = field(default_factory=dict)  # settings of one with a server of its own
    document: dict[str, Any] = field(default_factory=dict)  # plan.json

    @property
    def model(self) -> str:
        return self.measured.name

    @property
    def base(self) -> Artefact:
        return self.measured.base

    @property
    def shape(self) -> Shape:
        return self.measured.shape

    @property
    def left(self) -> Shape:
        """The shape that is served: what pruning leaves."""
        return pruned_shape(self.shape, self.share, self.recipe)

    @property
    def machine(self) -> Machine:
        return self.measured.machine

    @property
    def facts(self) -> DataFacts:
        return self.measured.facts

    @property
    def calibration(self) -> Calibration:
        return self.measured.calibration

    @property
    def fill(self) -> Fill:
        return self.by_form[self.form].fill

    @property
    def local(self) -> Local:
        return self.by_form[self.form].local

    @property
    def next_form(self) -> str | None:
        at = self.forms.index(self.form) + 1
        return self.forms[at] if at < len(self.forms) else None
