"""What a training engine takes beside the engine own, by which this machine is calibrated.

Times and memory of own times these factors: both do the same work in the same order, on the same kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from steelyard.ledger import Row

from .local_train import stays_near, writing


@dataclass(frozen=True, slots=True)
class Engine:
    """`time`: seconds of a step over own's; `memory`: peak of the process over own's; `start_s`: until the
    first step, its imports above all; `spread`: half an 80 % interval of its times, as a factor less one."""

    time: float = 1.0
    memory: float = 1.0
    start_s: float = 0.0
    spread: float = 0.0


OWN = Engine()
START_S = 8.0  # 6 s of processor time to import TRL, and the model read once more to merge
# Of trl, by (finetuning_type, dtype): SmolLM2-135M, packed to 1,024 tokens, steps 2 to 6 of one run each, two
# Zen 4 cores, torch 2.13, TRL 1.16. Measured anew by bench/train_engines.py --dtype bf16 f32.
TRL = {
    ("lora", "bf16"): Engine(2.55, 1.61, START_S, 0.35),
    ("lora", "f32"): Engine(1.97, 1.47, START_S, 0.35),
    ("full", "bf16"): Engine(2.35, 1.25, START_S, 0.35),
    ("full", "f32"): Engine(1.71, 1.32, START_S, 0.35),
}


def engine_of(stage: Mapping[str, Any]) -> Engine:
    """The factors of a stage's engine."""
    if stage.get("engine", "own") == "own":
        return OWN
    engine = TRL[stage["finetuning_type"], "f32" if stage["dtype"] == "f32" else "bf16"]
    return replace(engine, memory=engine.memory * (stage.get("processes") or 1))  # each holds the model


SAMPLED_SPREAD = 1.0  # of a stage whose answers are as long as the model makes them
TAUGHT_SPREAD = 0.5  # of one whose teacher is asked: counted by its weights alone


def spread_of(stage: Mapping[str, Any]) -> float:
    """Of the times of a stage."""
    if writing(stage):
        return SAMPLED_SPREAD
    taught = stage.get("teacher_params") or stays_near(stage)
    return max(engine_of(stage).spread, TAUGHT_SPREAD if taught else 0.0)


LIBRARY_BYTES = 4.5e8  # resident of torch and transformers, before any weight


def served_by(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The serve settings as its scheduler acts on them: transformers computes one answer at a time."""
    return {**settings} | ({"max_num_seqs": 1} if settings.get("engine") == "transformers" else {})


def library_bytes(settings: Mapping[str, Any]) -> float:
    """What each process with transformers holds more than one of the engine openvino."""
    return LIBRARY_BYTES if settings.get("engine") == "transformers" else 0.0


def teaching(rows: Sequence[Row], stages: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Of a ledger's rows those that speak of these stages: a training teaches its engine and device alone."""
    wanted = {_who(stage) for stage in stages}
    return [row for row in rows if row.step != "train" or _who(row.features.get("settings") or {}) in wanted]


def _who(stage: Mapping[str, Any]) -> tuple[str, str]:
    return str(stage.get("engine", "own")), str(stage.get("device", "cpu"))
