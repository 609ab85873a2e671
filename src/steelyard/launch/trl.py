"""TRL over accelerate: trl.yaml for its script, accelerate.yaml for the ranks. Pure.

One way to split a step: over data (DDP, DeepSpeed's ZeRO-1 and 2, FSDP2 as ZeRO-3) and over sequences (CP).
On CPUs torchrun starts the ranks, for DDP alone: accelerate 1.15 starts one there, and shards nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .target import (
    ADDRESS,
    DATA,
    NEWEST,
    RANK,
    RESUMED,
    TRAINER,
    Target,
    Training,
    before,
    begins,
    merged,
    script,
    torchrun,
    trainer,
    yaml,
)

SCRIPTS = {"sft": "trl.scripts.sft", "continue": "trl.scripts.sft", "prefer": "trl.scripts.dpo"}
MIXED = {"bf16": "bf16", "fp16": "fp16", "fp8": "fp8"}
DISTRIBUTED = {"cuda": "MULTI_GPU", "rocm": "MULTI_GPU", "xpu": "MULTI_XPU"}
REASONS = {
    "evaluated": "TRL evaluates on a split of the data (eval_strategy, dataset_test_split)",
    "tp": "TRL loads a model without a plan of tensor parallelism",
    "pp": "TRL and FSDP do not split a model into stages",
    "virtual_stages": "TRL and FSDP do not split a model into stages",
    "ep": "TRL keeps all experts of a layer on each rank",
    "sequence_parallel": "it belongs to tensor parallelism",
    "recompute": "transformers recomputes whole layers or none",
    "job": "TRL starts from published weights, and has no script for this job",
    "precision": "TRL computes in bf16, fp16, tf32, f32, or fp8 through accelerate",
}
SHARDS = "the shards of its last checkpoint merged (accelerate merge-weights), the base's config.json"
ON_CPU = dict.fromkeys(("zero", "offload", "cp"), "accelerate neither shards nor offloads on CPUs")
# torchrun gives each of several ranks one thread, unless it is told: here its share of the cores.
THREADS = (
    "cores=$(lscpu -p=Core,Socket | grep -v '^#' | sort -u | wc -l)",
    'export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-$((cores / {ranks}))}}"',
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """What starts the ranks of a host: a command in front of the script, lines and files before it."""

    words: tuple[str, ...]
    stated: dict[str, str]  # setting -> where it stands
    lines: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    given: dict[str, dict[str, Any]] = field(default_factory=dict)  # parser -> what they say


def trl(training: Training) -> Target:
    """trl.yaml, accelerate.yaml (not on CPUs) and the script that starts them on each host."""
    start, needs = begins(
        training, "trl.yaml", _made_of(training, bool(training.after and training.after.lora))
    )
    args, stated = _arguments(training, start)
    name = SCRIPTS.get(training["job"], SCRIPTS["sft"])
    parser = name.replace("trl.scripts.", "trl ")
    ranks = _on_cpus(training) if training.platform == "cpu" else _by_accelerate(training)
    lines = (*before(training), *ranks.lines, NEWEST)
    words = (*ranks.words, "-m", name, "--config", "trl.yaml", RESUMED)
    return Target(
        name="trl",
        files={"trl.yaml": yaml(args), **ranks.files, "run.sh": script(lines, words)},
        stated={k: f"trl.yaml: {v}" for k, v in stated.items()} | ranks.stated,
        given={parser: args, **ranks.given},
        argv={parser: ("--config", "trl.yaml")},
        reasons=REASONS | (ON_CPU if training.platform == "cpu" else {}),
        needs=(
            *needs,
            f"{DATA}: rows of messages, or of text",
            "pip install trl peft accelerate",
            *_more(training),
        ),
        made_of=_made_of(training, training.lora),
    )


def _by_accelerate(training: Training) -> Ranks:
    config, stated = _ranks(training)
    many = ("--machine_rank", RANK, "--main_process_ip", ADDRESS) if training.hosts > 1 else ()
    return Ranks(
        words=("accelerate", "launch", "--config_file", "accelerate.yaml", *many),
        stated={k: f"accelerate.yaml: {v}" for k, v in stated.items()},
        files={"accelerate.yaml": yaml(config)},
        given={"accelerate": config},
    )


def _on_cpus(training: Training) -> Ranks:
    """A rank a socket."""
    threads = tuple(line.format(ranks=training.per_host) for line in THREADS)
    return Ranks(words=torchrun(training), stated={"dp": "run.sh: --nproc-per-node"}, lines=threads)


def _more(training: Training) -> tuple[str, ...]:
    needs: tuple[str, ...] = ("pip install deepspeed",) if _by_deepspeed(training) else ()
    needs += ("pip install bitsandbytes",) if training["finetuning_type"] == "qlora" else ()
    return needs + (("pip install torchao",) if training["precision"] == "fp8" else ())


def _made_of(training: Training, lora: bool) -> str | None:
    """Of all weights in shards the Trainer of transformers 5.24 saves no folder, only its checkpoints."""
    return SHARDS if _in_shards(training) and not lora else merged(lora)


def _in_shards(training: Training) -> bool:
    return training.platform != "cpu" and bool(training["zero"] == 3 or training["cp"] > 1)


def _by_deepspeed(training: Training) -> bool:
    own = training["zero"] in (1, 2) or bool(training["offload"])
    return own and training.platform != "cpu" and not _in_shards(training)


def _arguments(training: Training, start: str) -> tuple[dict[str, Any], dict[str, str]]:
    """TRL's own arguments, and {setting: the argument that states it}."""
    precision = training["precision"]
    dtype = _dtype(training)
    args: dict[str, Any] = {
        "model_name_or_path": start,
        "dtype": dtype,
        "dataset_name": DATA.partition("/")[0],
        "output_dir": "checkpoints",
        "max_length": training["seq_len"],
        **trainer(training),
        "bf16": dtype == "bfloat16",
        "fp16": precision == "fp16",
        "gradient_checkpointing": training["recompute"] == "full",
        "report_to": "none",
    }
    if training.platform == "cpu":
        args["use_cpu"] = True
    if precision == "tf32":
        args["tf32"] = True
    if training["job"] in ("sft", "continue", "pretrain"):
        args["packing"] = True
    stated = {"seq_len": "max_length"} | TRAINER
    if training["recompute"] == "full":
        stated["recompute"] = "gradient_checkpointing"
    if precision in ("bf16", "fp16", "f32", "tf32"):
        stated["precision"] = "fp16" if precision == "fp16" else "dtype"
    if training["job"] in SCRIPTS:
        stated["job"] = "the script that run.sh starts"
    if training.lora:
        args |= _adapters(training)
        stated |= {"finetuning_type": "use_peft", "lora_rank": "lora_r", "lora_alpha": "lora_alpha"}
    return args, stated


def _dtype(training: Training) -> str:
    """Of the weights as they are loaded: those that fp16's GradScaler trains are in 32 bits. DeepSpeed has a
    copy of its own, and adapters are so anyway."""
    if training["precision"] in ("f32", "tf32"):
        return "float32"
    if training["precision"] != "fp16":
        return "bfloat16"
    return "float16" if training.lora or _by_deepspeed(training) else "float32"


def _adapters(training: Training) -> dict[str, Any]:
    args = {"use_peft": True, "lora_r": training["lora_rank"], "lora_alpha": training["lora_alpha"]}
    args |= {"lora_target_modules": "all-linear"}
    if training["finetuning_type"] == "qlora":
        args |= {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "use_bnb_nested_quant": True}
    return args


def _ranks(training: Training) -> tuple[dict[str, Any], dict[str, str]]:
    """accelerate's configuration: how many ranks, how they share weights, gradients and state."""
    ranks: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": DISTRIBUTED.get(training.platform, "MULTI_GPU"),
        "num_machines": training.hosts,
        "num_processes": training.devices,
        "machine_rank": 0,
        "main_process_port": 29500,
        "rdzv_backend": "static",
        "main_training_function": "main",
        "mixed_precision": MIXED.get(training["precision"], "no"),
        "use_cpu": False,
    }
    if training.devices == 1:
        ranks["distributed_type"] = "NO"
    stated = {"dp": "num_processes", "zero": "distributed_type"}
    if training["precision"] == "fp8":
        ranks["fp8_config"] = {"backend": "AO"}
        stated["precision"] = "mixed_precision"
    if _in_shards(training):
        ranks |= {"distributed_type": "FSDP", "fsdp_config": _fsdp(training)}
        stated |= {"zero": "fsdp_config", "offload": "fsdp_config: fsdp_offload_params"}
    elif _by_deepspeed(training):
        ranks |= {"distributed_type": "DEEPSPEED", "deepspeed_config": _deepspeed(training)}
        stated |= {"zero": "deepspeed_config: zero_stage", "offload": "offload_optimizer_device"}
    if training["cp"] > 1:
        ranks["parallelism_config"] = _parallel(training)
        stated["cp"] = "parallelism_config"
    return ranks, stated


def _fsdp(training: Training) -> dict[str, Any]:
    return {
        "fsdp_version": 2,
        "fsdp_reshard_after_forward": training["zero"] == 3,
        "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "fsdp_offload_params": bool(training["offload"]),
        "fsdp_state_dict_type": f"{'FULL' if training.lora else 'SHARDED'}_STATE_DICT",
        "fsdp_cpu_ram_efficient_loading": True,
        "fsdp_activation_checkpointing": False,  # transformers does it
    }


def _deepspeed(training: Training) -> dict[str, Any]:
    return {
        "zero_stage": max(1, training["zero"]),
        "offload_optimizer_device": "cpu" if training["offload"] else "none",
        "offload_param_device": "none",
        "gradient_accumulation_steps": training.accumulation,
        "zero3_init_flag": False,
        # Without it the first host starts all others by pdsh, and so would each of them.
        **({"deepspeed_multinode_launcher": "standard"} if training.hosts > 1 else {}),
    }


def _parallel(training: Training) -> dict[str, Any]:
    shard = training["dp"] if training["zero"] else 1
    return {
        "parallelism_config_dp_replicate_size": training["dp"] // shard,
        "parallelism_config_dp_shard_size": shard,
        "parallelism_config_tp_size": 1,
        "parallelism_config_cp_size": training["cp"],
    }
