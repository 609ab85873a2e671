"""Public training stacks: which settings each can run on which devices, and by which flags.

A setting that none of them runs is no candidate. Not here: how fast a stack is (published/constants.py), its
command line in full (launches.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_

import numpy as np

from ..physics.sizes import Array

SPLITS = ("t", "p", "v", "c", "e", "offload")  # at 1 (the last at 0) a stack needs no flag for them
UNSPLIT = {"offload": 0}
FULL, ADAPTERS = ("full",), ("lora", "qlora")
FROM_TEXT = ("pretrain", "continue", "sft")
BY_PREFERENCE = ("prefer", "distil")
ZERO_1 = {0: "", 1: "--use-distributed-optimizer"}
NARROW = ("fp8", "fp4")
# Transformer Engine in Megatron-Core (its arguments --fp8-format and --fp4-format; NVFP4 on Blackwell alone).
ENGINE = {"fp8": "--fp8-format hybrid", "fp4": "--fp4-format e2m1 --fp4-recipe nvfp4"}
BRIDGE = {
    "fp8": "mixed_precision=bf16_with_fp8_current_scaling_mixed",
    "fp4": "mixed_precision=bf16_with_nvfp4_mixed",
}
# DeepSpeed under the trainers of Hugging Face.
DEEPSPEED_FLAGS = {"offload": "zero_optimization.offload_optimizer.device=cpu"}
DEEPSPEED_ZERO = {stage: f"zero_optimization.stage={stage}" for stage in range(4)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainStack:
    """One stack. `flags`: a setting of SPLITS that it can raise -> the flag that does, and with t the one of
    sequence parallelism; `zero`: stage -> its flag.

    `zero_piped`: the stages it runs inside a pipeline. `recompute`: 0 none, 1 selective, 2 full.
    """

    name: str
    families: tuple[str, ...]
    flags: Mapping[str, str]
    zero: Mapping[int, str]
    zero_piped: tuple[int, ...] = ()
    uneven: bool = True  # stages of a pipeline may differ by a layer
    recompute: tuple[int, ...] = (0, 2)
    finetuning: tuple[str, ...] = FULL
    jobs: tuple[str, ...] = FROM_TEXT
    narrow: Mapping[str, str] = field(default_factory=dict)  # format below 16 bits -> its flags

    def computes(self, precision: str) -> bool:
        """Whether it trains in a format; in 16 bits and more they all do."""
        return precision not in NARROW or precision in self.narrow

    def runs(self, settings: Mapping[str, Array]) -> Array:
        """Which candidates it can run; arrays of the settings' names that broadcast."""
        able: Array = _among(settings["zero"], tuple(self.zero))
        if self.zero_piped:
            able = able & ((settings["p"] == 1) | _among(settings["zero"], self.zero_piped))
        if 1 not in self.recompute:
            able = able & _among(settings["recompute"], self.recompute)
        for name in SPLITS:
            if name not in self.flags:
                able = able & (settings[name] <= UNSPLIT.get(name, 1))
        return able

    def flags_of(self, settings: Mapping[str, int]) -> dict[str, str]:
        """The flags that these settings need, by setting."""
        raised = {n: self.flags[n] for n in SPLITS if settings[n] > UNSPLIT.get(n, 1)}
        if settings["sp"] and settings["t"] > 1:
            raised["sp"] = self.flags["sp"]
        zero = self.zero[settings["zero"]]
        return raised | ({"zero": zero} if zero else {})


MEGATRON = {
    "t": "--tensor-model-parallel-size",
    "p": "--pipeline-model-parallel-size",
    "v": "--num-virtual-stages-per-pipeline-rank",
    "c": "--context-parallel-size",
    "e": "--expert-model-parallel-size",
    "sp": "--sequence-parallel",
    "offload": "--optimizer-cpu-offload",
}
# The first that runs a plan's settings is named in it.
TRAIN_STACKS = (
    # Megatron-LM; on AMD as ROCm/Megatron-LM in Primus, on Ascend as MindSpeed-LLM, with the same arguments.
    TrainStack(
        name="megatron-lm",
        families=("nvidia", "amd", "huawei"),
        flags=MEGATRON,
        zero=ZERO_1,
        zero_piped=(0, 1),
        recompute=(0, 1, 2),
        narrow=ENGINE,
    ),
    # Megatron-FSDP inside Megatron-LM (docs.nvidia.com/megatron-core, parallelism guide).
    TrainStack(
        name="megatron-fsdp",
        families=("nvidia",),
        flags={k: MEGATRON[k] for k in ("t", "c", "e", "sp")},
        zero={
            2: "--use-megatron-fsdp --data-parallel-sharding-strategy optim_grads",
            3: "--use-megatron-fsdp --data-parallel-sharding-strategy optim_grads_params",
        },
        recompute=(0, 1, 2),
        narrow={"fp8": ENGINE["fp8"]},
    ),
    # Megatron-Bridge: the same settings as fields of its configuration, with LoRA.
    TrainStack(
        name="megatron-bridge",
        families=("nvidia",),
        flags={
            "t": "model.tensor_model_parallel_size",
            "p": "model.pipeline_model_parallel_size",
            "v": "model.virtual_pipeline_model_parallel_size",
            "c": "model.context_parallel_size",
            "e": "model.expert_model_parallel_size",
            "sp": "model.sequence_parallel",
        },
        zero={0: "", 1: "ddp.use_distributed_optimizer"},
        zero_piped=(0, 1),
        recompute=(0, 1, 2),
        finetuning=("lora",),
        narrow=BRIDGE,
    ),
    # NeMo RL: preference and distillation over Megatron-Core.
    TrainStack(
        name="nemo-rl",
        families=("nvidia",),
        flags={
            "t": "policy.megatron_cfg.tensor_model_parallel_size",
            "p": "policy.megatron_cfg.pipeline_model_parallel_size",
            "c": "policy.megatron_cfg.context_parallel_size",
            "e": "policy.megatron_cfg.expert_model_parallel_size",
            "sp": "policy.megatron_cfg.sequence_parallel",
        },
        zero={1: "policy.megatron_cfg.distributed_data_parallel_config.use_distributed_optimizer"},
        zero_piped=(1,),
        jobs=BY_PREFERENCE,
    ),
    # torchtitan: FSDP2, with XPU too. In a pipeline it keeps weights and gradients whole, so no gain there.
    TrainStack(
        name="torchtitan",
        families=("nvidia", "amd", "intel"),
        flags={
            "t": "--parallelism.tensor_parallel_degree",
            "p": "--parallelism.pipeline_parallel_degree",
            "c": "--parallelism.context_parallel_degree",
            "e": "--parallelism.expert_parallel_degree",
            "sp": "--parallelism.tensor_parallel_degree",
        },
        zero={
            0: "--parallelism.data_parallel_replicate_degree",
            2: "--parallelism.data_parallel_shard_degree --parallelism.fsdp_reshard_after_forward never",
            3: "--parallelism.data_parallel_shard_degree --parallelism.fsdp_reshard_after_forward always",
        },
        zero_piped=(0,),
        narrow={"fp8": "Float8LinearConverter (torchao), --compile.enable"},
    ),
    # Megatron-DeepSpeed: HabanaAI's for Gaudi, argonne-lcf's for Intel GPUs. Its pipeline engine refuses
    # ZeRO 2 and 3 and knows no virtual stages.
    TrainStack(
        name="megatron-deepspeed",
        families=("gaudi", "intel"),
        flags={
            "t": "--tensor-model-parallel-size",
            "p": "--pipeline-model-parallel-size",
            "e": "--moe-expert-parallel-size",
            "sp": "--sequence-parallel",
        },
        zero={0: "", 1: "--zero-stage"},
        zero_piped=(0, 1),
        recompute=(0, 1, 2),
        narrow={"fp8": "--use-transformer-engine --fp8-format hybrid"},
    ),
    # MaxText; ZeRO 3 is its fsdp axis, ZeRO 1 shards the optimiser over the data axis.
    TrainStack(
        name="maxtext",
        families=("google",),
        flags={
            "t": "ici_tensor_parallelism",
            "p": "ici_pipeline_parallelism",
            "v": "num_pipeline_repeats",
            "c": "ici_context_parallelism",
            "e": "ici_expert_parallelism",
            "sp": "ici_tensor_sequence_parallelism",
            "offload": "optimizer_memory_host_offload",
        },
        zero={0: "ici_data_parallelism", 1: "shard_optimizer_over_data", 3: "ici_fsdp_parallelism"},
        zero_piped=(0, 1),
        uneven=False,
        recompute=(0, 1, 2),
    ),
    # Tunix on JAX: adapters, preference and distillation over a mesh of fsdp and tp.
    TrainStack(
        name="tunix",
        families=("google",),
        flags={"t": "mesh.tp", "sp": "mesh.tp"},
        zero={0: "mesh.dp", 3: "mesh.fsdp"},
        finetuning=("full", *ADAPTERS),
        jobs=("sft", *BY_PREFERENCE),
    ),
    # NxD Training on Trainium: TP, SP, PP with interleaving, ZeRO 1, LoRA.
    TrainStack(
        name="nxd-training",
        families=("aws",),
        flags={
            "t": "distributed_strategy.tensor_model_parallel_size",
            "p": "distributed_strategy.pipeline_model_parallel_size",
            "v": "distributed_strategy.virtual_pipeline_model_parallel_size",
            "sp": "distributed_strategy.sequence_parallel",
        },
        zero={0: "", 1: "distributed_strategy.zero1"},
        zero_piped=(0, 1),
        recompute=(0, 1, 2),
        finetuning=("full", "lora"),
        jobs=(*FROM_TEXT, "prefer", "distil"),
    ),
    # DeepSpeed under the Hugging Face trainers: TRL, Optimum-Habana on Gaudi.
    TrainStack(
        name="deepspeed",
        families=("nvidia", "amd", "intel", "gaudi", "cpu"),
        flags=DEEPSPEED_FLAGS,
        zero=DEEPSPEED_ZERO,
        finetuning=("full", *ADAPTERS),
        jobs=(*FROM_TEXT, *BY_PREFERENCE),
        narrow={"fp8": "mixed_precision: fp8 (accelerate)"},
    ),
    # The same through LLaMA-Factory on Ascend, for which bitsandbytes has no kernels.
    TrainStack(
        name="llama-factory",
        families=("huawei",),
        flags=DEEPSPEED_FLAGS,
        zero=DEEPSPEED_ZERO,
        finetuning=("full", "lora"),
        jobs=(*FROM_TEXT, *BY_PREFERENCE),
    ),
    # torch on one device or under DDP.
    TrainStack(
        name="trl",
        families=("nvidia", "amd", "intel", "cpu", "apple"),
        flags={},
        zero={0: ""},
        finetuning=("full", *ADAPTERS),
        jobs=(*FROM_TEXT, *BY_PREFERENCE),
        narrow={"fp8": "mixed_precision: fp8 (accelerate)"},
    ),
)


def stacks_of(family: str, job: str, finetuning: str, precision: str = "bf16") -> tuple[TrainStack, ...]:
    """Those that do such a job in such a format on devices of a family, the preferred first."""
    able = (s for s in TRAIN_STACKS if family in s.families and s.computes(precision))
    return tuple(s for s in able if job in s.jobs and finetuning in s.finetuning)


def runnable(stacks: Sequence[TrainStack], settings: Mapping[str, Array]) -> Array:
    """Which candidates some stack can run."""
    able: Array = np.zeros(1, bool)
    for stack in stacks:
        able = able | stack.runs(settings)
    return able


def raised(stacks: Sequence[TrainStack], name: str) -> bool:
    """Whether some stack has a flag for a setting of SPLITS."""
    return any(name in stack.flags for stack in stacks)


def uneven(stacks: Sequence[TrainStack]) -> bool:
    """Whether some stack's pipeline takes stages that differ by a layer: --decoder-first-pipeline-num-layers
    of Megatron-LM, cuts at any layer elsewhere."""
    return any(stack.uneven for stack in stacks if "p" in stack.flags)


def _among(setting: Array, values: Sequence[int]) -> Array:
    """Where a setting is one of a few values; faster than `np.isin` on small arrays."""
    return reduce(or_, (setting == value for value in values))
