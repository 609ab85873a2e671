"""What every training engine is given and gives: rows in order in, a tuned model and its curve out.

An engine never tokenises, never shuffles and renders no template: ids, masks and order are those of the job.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...artefact import Draft, Figures, Settings, Watch
from ...errors import Lacking, Where
from ...model import trl_python
from ..mends import Mends

if TYPE_CHECKING:  # a plan asks for capabilities and needs no tokenizer
    from ..packing import Schedule
    from ..rows import Rows
    from ..steering.looks import Held
    from ..steering.mix import Steering
    from ..steering.questions import Questions
    from ..teacher import Told
from .trackers import Tell


def ignored(point: Mapping[str, float]) -> None:
    """Nobody listens."""


@dataclass(frozen=True, slots=True)
class TrainJob:
    """One stage: `plan.steps` name examples of `rows`, in order; `settings` as the plan filled them."""

    base: Path  # a Hugging Face folder
    rows: Rows
    plan: Schedule
    settings: Settings
    held_out: Rows | None = None  # of test.jsonl, in the stage's own kind: answers to compare
    questions: Questions | None = None  # answered and scored at each look
    tell: Tell = ignored  # is told each point of the curve as it comes; of a resumed run the earlier ones too
    mends: Mends = field(default_factory=Mends)  # what an earlier attempt met
    steering: Steering | None = None  # of a mix that follows looks at `held` (own)
    held: Held = field(default_factory=dict)  # held-out rows by ability


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainNeed:
    """What decides which engine trains a stage."""

    family: str  # model_type of the base
    stage: str = "sft"
    finetuning_type: str = "lora"
    device: str = "cpu"
    processes: int = 1
    fsdp: bool = False
    teacher: str | None = None  # of distil: model_type of the teacher
    words: tuple[str, ...] = ()  # of the stage's settings, those that the recipe has


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainCapability:
    """What an engine can do. The plan acts on it; nothing is ignored silently."""

    stages: tuple[str, ...]
    finetuning_types: tuple[str, ...]
    families: tuple[str, ...] | None  # None: whatever its library loads
    devices: tuple[str, ...]
    untested: tuple[str, ...] = ()  # of the devices, those on which nobody has run it
    dtypes: tuple[str, ...] = ("bf16", "f32")
    processes: int = 1
    shared: tuple[str, ...] = ()  # of the stages, those that several processes can share out
    fsdp: tuple[str, ...] = ()  # of the devices, those whose processes can hold the weights in shards
    lacks: tuple[str, ...] = ()  # words of a stage that it has not built
    unsharded: tuple[str, ...] = ()  # words that it has not built for weights in shards
    resume: str = "bits"  # a killed run's result is that of an unbroken one
    unusable: str | None = None  # why it cannot run here
    versions: Mapping[str, str] = field(default_factory=dict)  # of packages that are not this environment's

    def why_not(self, need: TrainNeed) -> str | None:
        """What of the need it cannot do; None where it can do all of it, were it usable here."""
        if self.families is not None and need.family not in self.families:
            return f"models of the family {need.family!r}"
        if need.stage not in self.stages:
            return f"stage: {need.stage}"
        if self.families is not None and need.teacher not in (None, *self.families):
            return f"teacher of the family {need.teacher!r}"
        if need.finetuning_type not in self.finetuning_types:
            return f"finetuning_type: {need.finetuning_type}"
        if need.device not in self.devices:
            return f"device: {need.device}"
        if need.fsdp and need.device not in self.fsdp:
            return f"fsdp on device: {need.device}"
        if need.processes > 1 and self.processes > 1 and need.stage not in self.shared:
            return f"{need.processes} processes for stage: {need.stage}"
        if lacking := [word for word in need.words if word in self.lacks]:
            return lacking[0]
        if need.fsdp and (lacking := [word for word in need.words if word in self.unsharded]):
            return f"{lacking[0]} with fsdp"
        return f"{need.processes} processes" if need.processes > self.processes else None


def not_installed(engine: str, why: str) -> Lacking:
    """The environment of the engine is missing or not whole."""
    return Lacking(
        "train.engine_missing",
        f"the training engine {engine} is not installed",
        where=Where(field="train.engine"),
        why=why,
        hint=f"steelyard engines install {engine}",
    )


def device_missing(device: str) -> Lacking:
    """The engine trl is here, and finds no such device."""
    return Lacking(
        "train.device_missing",
        f"no {device} device can be used by the engine trl",
        where=Where(field="train.device"),
        why=f"the torch of {trl_python()} finds none",
        hint="device: cpu, or an environment with a torch for that device",
    )


class TrainEngine(Protocol):
    """Writes model, adapter (LoRA) and curve.jsonl into the draft; goes on from the draft's scratch."""

    name: str

    def run(self, job: TrainJob, out: Draft, watch: Watch) -> Figures: ...

    def ask(self, rows: Rows, teacher: Path, settings: Mapping[str, Any], told: Told, watch: Watch) -> None:
        """Write down what a teacher says of the taught tokens, from where it was left. Raises Stopped."""
        ...
