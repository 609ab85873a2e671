"""What a row of the table of steps says, and one piece of work that follows from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...artefact import Artefact, Settings, code_of, key_of
from ..planning.ready import Ready
from .run import Run

Again = tuple[str, ...]  # steps to do once more before this one
# Settings that say where, not what: no part of a key or a manifest.
LOCAL = ("root", "api_key", "teacher", "adapter", "adapters", "hosts", "ray")


def _nothing(*_: Any) -> dict[str, Any]:
    return {}


def _done(run: Run, artefact: Artefact) -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One row. `settings` gives one piece of work each (a stage of training); without any it is skipped."""

    name: str
    do: Callable[[Run, Step], Again]
    settings: Callable[[Ready], list[Settings]]
    makes: str = ""  # kind of the artefact, and the role under which later steps find it
    call: str = ""  # "room:function", run in a child
    enters: tuple[str, ...] = ()  # the code that makes its bytes (artefact.code_of)
    resumes: bool = False  # from checkpoints of its own, where its process was ended
    isa: bool = True  # do its bytes depend on the instruction set too?
    inputs: Callable[[Run], dict[str, Artefact]] = _nothing
    hashes: Callable[[Run, Settings], dict[str, str]] = _nothing  # of inputs that are no artefacts
    others: str = ""  # "room:function", the processes of the hosts that its settings name, lent to the child
    instead: str | None = None  # the role that stands in for `makes` where the step is skipped
    then: Callable[[Run, Artefact], None] = _done


@dataclass(frozen=True, slots=True)
class Work:
    """One piece of work: its settings, its inputs, and hashes of what else it reads."""

    settings: Settings
    inputs: Mapping[str, Artefact]
    hashes: Mapping[str, str]

    @property
    def own(self) -> Settings:
        """The settings that change bytes."""
        return {name: value for name, value in self.settings.items() if name not in LOCAL}


def work_of(run: Run, step: Step, settings: Settings) -> Work:
    return Work(settings, step.inputs(run), step.hashes(run, settings))


def key_of_work(run: Run, step: Step, work: Work, kind: str | None = None) -> str:
    """Equal for work that leaves equal bytes: settings, inputs, code, engines, instruction set."""
    code = code_of(*step.enters) | ({"isa": list(run.ready.machine.isa)} if step.isa else {})
    hashes = {role: artefact.hash for role, artefact in work.inputs.items()} | dict(work.hashes)
    return key_of(kind or step.name, work.own, hashes, code)
