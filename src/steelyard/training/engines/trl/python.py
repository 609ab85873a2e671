"""What the engine trl can do, where its environment is there (model.trl_python)."""

from __future__ import annotations

from ....model import trl_missing, trl_versions
from ..protocol import TrainCapability

DEVICES = ("cpu", "cuda", "xpu", "hpu")


def trl_capability() -> TrainCapability:
    """What the child does, where it is installed. Whatever transformers loads is a family of it."""
    return TrainCapability(
        stages=("sft", "pt", "dpo", "kto", "orpo"),
        finetuning_types=("lora", "full"),
        families=None,
        devices=DEVICES,
        untested=DEVICES[1:],
        unusable=trl_missing(),
        versions=trl_versions(),
    )
