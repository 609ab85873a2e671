"""What the engine trl can do, where its environment is there (model.trl_python)."""

from __future__ import annotations

from ....model import trl_missing, trl_versions
from ..protocol import TrainCapability

DEVICES = ("cpu", "cuda", "xpu", "hpu")
PROCESSES = 1024  # of one machine: more than any has devices


def trl_capability() -> TrainCapability:
    """What the child does, where it is installed. Whatever transformers loads is a family of it."""
    return TrainCapability(
        stages=("sft", "pt", "distil", "dpo", "kto", "orpo", "grpo", "rm"),
        finetuning_types=("lora", "full"),
        families=None,
        devices=DEVICES,
        untested=DEVICES[1:],
        processes=PROCESSES,
        shared=("sft", "pt"),  # losses that are sums over tokens; the others' are means of batches
        fsdp=DEVICES[1:],  # accelerate refuses it on a CPU
        lacks=(
            *("save_steps", "save_total_limit", "mixed_precision: fp8", "mix: auto", "lift", "beta of sft"),
            "loss_per: ability",
        ),
        unsharded=("load_best_model_at_end", "metric_for_best_model: score"),
        unusable=trl_missing(),
        versions=trl_versions(),
    )
