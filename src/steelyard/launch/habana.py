"""Optimum-Habana: its scripts for language models, with DeepSpeed's ZeRO. Pure.

Under gaudi_spawn.py on one host. On several it would start all from one; torchrun starts each for itself.
"""

from __future__ import annotations

import json
from typing import Any

from .target import (
    DATA,
    NEWEST,
    RESUMED,
    TRAINER,
    Target,
    Training,
    before,
    begins,
    merged,
    options,
    script,
    told,
    torchrun,
    trainer,
)

REASONS = {
    "evaluated": "its scripts evaluate on a file of their own (--validation_file)",
    "tp": "Optimum-Habana trains without tensor parallelism",
    "pp": "Optimum-Habana trains without stages",
    "virtual_stages": "Optimum-Habana trains without stages",
    "ep": "Optimum-Habana keeps all experts of a layer on each rank",
    "sequence_parallel": "it belongs to tensor parallelism",
    "recompute": "transformers recomputes whole layers or none",
    "precision": "Optimum-Habana computes in bf16 or f32, or in fp8 where the script takes --fp8",
    "finetuning_type": "Optimum-Habana has LoRA on weights in 16 bits",
    "job": "run_clm.py starts from published weights, and these scripts know no preferences",
}
VARIABLES = {"OPTIMUM_HABANA": "the folder of optimum-habana"}


def habana(training: Training) -> Target:
    """ds_config.json and the script, the same on each host."""
    start, needs = begins(training, "run.sh", merged(bool(training.after and training.after.lora)))
    args, stated = _arguments(training, start)
    name = "run_lora_clm.py" if training.lora else "run_clm.py"
    files = {}
    if training["zero"] or training["offload"]:
        args["deepspeed"] = "ds_config.json"
        files["ds_config.json"] = json.dumps(_deepspeed(training), indent=2) + "\n"
        stated |= {"zero": "deepspeed", "offload": "deepspeed"}
    own = options(args)
    spawned = _start(training, "deepspeed" in args)
    words = (*spawned, f'"$OPTIMUM_HABANA"/examples/language-modeling/{name}', *own, RESUMED)
    lines = (*told(VARIABLES), *before(training), "export PT_HPU_LAZY_MODE=1", NEWEST)
    where = {k: f"run.sh: --{v}" for k, v in stated.items()}
    where |= {"dp": "run.sh: --nproc-per-node" if training.hosts > 1 else "run.sh: --world_size"}
    parser = f"optimum-habana {name}"
    return Target(
        name="optimum-habana",
        files=files | {"run.sh": script(lines, words)},
        stated=where,
        given={parser: args},
        argv={parser: own},
        reasons=REASONS,
        variables=VARIABLES,
        made_of=merged(training.lora),
        needs=(
            "optimum-habana and its examples, checked out at $OPTIMUM_HABANA",
            *needs,
            f"{DATA}: rows of text" if not training.lora else f"{DATA}: rows of instruction and output",
            *(("Intel's fork of DeepSpeed",) if files else ()),
        ),
    )


def _start(training: Training, sharded: bool) -> tuple[str, ...]:
    """What starts the ranks of a host."""
    if training.hosts > 1:
        return torchrun(training)
    if training.devices == 1:
        return ("python3",)
    way = "--use_deepspeed" if sharded else "--use_mpi"
    return (
        "python3",
        '"$OPTIMUM_HABANA"/examples/gaudi_spawn.py',
        "--world_size",
        str(training.devices),
        way,
    )


def _arguments(training: Training, start: str) -> tuple[dict[str, Any], dict[str, str]]:
    length = "max_seq_length" if training.lora else "block_size"
    args: dict[str, Any] = {
        "model_name_or_path": start,
        "train_file": DATA,
        "output_dir": "checkpoints",
        "do_train": True,
        "use_habana": True,
        "use_lazy_mode": True,
        length: training["seq_len"],
        **trainer(training),
    }
    stated = {"seq_len": length} | TRAINER
    if not training.lora:  # run_clm.py would not begin beside what a run left that had no checkpoint yet
        args["overwrite_output_dir"] = True
    if training["precision"] in ("bf16", "f32"):
        args |= {"bf16": True} if training["precision"] == "bf16" else {}
        stated["precision"] = "bf16"
    if training["recompute"] == "full":
        args["gradient_checkpointing"] = True
        stated["recompute"] = "gradient_checkpointing"
    if training["cp"] > 1:
        args["context_parallel_size"] = training["cp"]
        stated["cp"] = "context_parallel_size"
    if training["job"] in ("sft", "continue"):
        stated["job"] = "do_train"
    if training["finetuning_type"] == "lora":
        args |= {"lora_rank": training["lora_rank"], "lora_alpha": training["lora_alpha"]}
        args |= {"lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
        args |= {"dataset_concatenation": True}
        stated |= {"finetuning_type": "lora_rank", "lora_rank": "lora_rank", "lora_alpha": "lora_alpha"}
    return args, stated


def _deepspeed(training: Training) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": max(1, training["zero"]), "overlap_comm": False}
    zero |= {"contiguous_gradients": False, "reduce_scatter": False}
    if training["zero"] == 3:  # else it would leave shards, no model
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    if training["offload"]:
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "steps_per_print": 64,
        "train_micro_batch_size_per_gpu": training["micro_batch"],
        "gradient_accumulation_steps": training.accumulation,
        "bf16": {"enabled": training["precision"] == "bf16"},
        "gradient_clipping": 1.0,
        "zero_optimization": zero,
    }
