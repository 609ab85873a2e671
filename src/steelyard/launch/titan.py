"""torchtitan: a module of its configuration for the model, and flags for the rest. Pure.

Only models of its registry; what has no flag (float8, adapters, recomputing) stands in the module.
"""

from __future__ import annotations

from math import ceil
from typing import Any

from .target import DATA, MERGED, Target, Training, before, begins, merged, options, script, torchrun

# (layers, width, vocabulary) of torchtitan 0.3.0's models -> (module, name there, a configuration of it).
MODELS = {
    (16, 2048, 128256): ("llama3", "1B", "llama3_8b"),
    (28, 3072, 128256): ("llama3", "3B", "llama3_8b"),
    (32, 4096, 128256): ("llama3", "8B", "llama3_8b"),
    (80, 8192, 128256): ("llama3", "70B", "llama3_70b"),
    (126, 16384, 128256): ("llama3", "405B", "llama3_70b"),
    (28, 1024, 151936): ("qwen3", "0.6B", "qwen3_0_6b"),
    (28, 2048, 151936): ("qwen3", "1.7B", "qwen3_1_7b"),
    (36, 2560, 151936): ("qwen3", "4B", "qwen3_1_7b"),
    (36, 4096, 151936): ("qwen3", "8B", "qwen3_14b"),
    (40, 5120, 151936): ("qwen3", "14B", "qwen3_14b"),
    (64, 5120, 151936): ("qwen3", "32B", "qwen3_32b"),
    (48, 2048, 151936): ("qwen3", "30B-A3B", "qwen3_30b_a3b"),
    (94, 4096, 151936): ("qwen3", "235B-A22B", "qwen3_30b_a3b"),
    (27, 2048, 102400): ("deepseek_v3", "16B", "deepseek_v3_16b"),
    (61, 7168, 129280): ("deepseek_v3", "671B", "deepseek_v3_671b"),
}
FAMILIES = {"llama3": "llama", "qwen3": "qwen3", "deepseek_v3": "deepseek"}
RECOMPUTE = {"none": "None", "selective": "SelectiveAC.Config()", "full": "FullAC.Config()"}
REASONS = {
    "evaluated": "torchtitan evaluates on a data set of its own names (validator)",
    "job": "torchtitan trains on texts and chats alone",
    "zero": "torchtitan shards gradients with the optimiser state (ZeRO-2), or all (ZeRO-3), or nothing",
    "precision": "torchtitan computes in bf16, f32 or float8",
    "finetuning_type": "torchtitan's adapters stand on weights in 16 bits",
    "offload": "torchtitan offloads with FSDP alone",
}
MODULE = '''\
"""The plan's settings of torchtitan that have no flag; run.sh names the others."""

from torchtitan.components.loss import ChunkedLossWrapper, CrossEntropyLoss
from torchtitan.components.lora import LoRAConverter
from torchtitan.components.optimizer import default_adamw
from torchtitan.components.quantization import Float8LinearConverter
from torchtitan.distributed.activation_checkpoint import FullAC, SelectiveAC
from torchtitan.hf_datasets.text_datasets import ChatDataLoader, HuggingFaceTextDataLoader
from torchtitan.models.common.config_utils import decoder_vocab_size
from torchtitan.models.{module} import config_registry, model_registry


def plan():
    config = config_registry.{base}()
    spec = model_registry("{flavor}", converters=[{converters}])
    config.model_spec = spec
    loss = CrossEntropyLoss.Config(global_vocab_size=decoder_vocab_size(spec))
    config.loss = ChunkedLossWrapper.Config(loss_fn=loss)
    config.optimizer = default_adamw(lr={rate}, weight_decay={decay})
    config.activation_checkpoint = {recompute}
    config.dataloader = {data}
    config.validator.enable = False
    return config
'''
CHATS = (
    f'ChatDataLoader.Config(dataset_path="json", load_dataset_kwargs={{"data_files": "{DATA}", '
    '"split": "train"}, sample_processor=lambda row: row["messages"])'
)
TEXTS = 'HuggingFaceTextDataLoader.Config(dataset="c4")  # or another of torchtitan\'s own names'


def known(training: Training) -> tuple[str, str, str] | None:
    """(module, name, configuration) of the model in torchtitan's registry; None where it has none."""
    sizes = training.sizes
    found = MODELS.get((sizes["layers"], sizes["hidden"], sizes["vocab"]))
    return found if found and FAMILIES[found[0]] in training.family.lower() else None


def titan(training: Training) -> Target | None:
    """The module and the script; None where torchtitan does not know the model."""
    if (model := known(training)) is None:
        return None
    flags, stated = _flags(training)
    module, in_module = _module(training, model)
    own = options(flags, "--")
    words = (*torchrun(training), "-m", "torchtitan.train", "--module", "plan", "--config", "plan", *own)
    where = {k: f"run.sh: --{v}" for k, v in stated.items()}
    return Target(
        name="torchtitan",
        files={"plan.py": module, "run.sh": script((*before(training), "export PYTHONPATH=."), words)},
        stated=where | {k: f"plan.py: {v}" for k, v in in_module.items()},
        given={"torchtitan": flags},
        argv={"torchtitan": ("--module", "plan", "--config", "plan", *(w.strip('"') for w in own))},
        made_of=MERGED if training.lora else "torchtitan's convert_to_hf.py applied",
        reasons=REASONS,
        needs=(
            f"{training.model}'s folder of weights and tokenizer as ./model",
            *(_begins(training)[1] if training.after else ()),
            f"{DATA}: rows of messages" if training["job"] == "sft" else "a data set of torchtitan's names",
            "pip install torchtitan" + (" torchao" if training["precision"] == "fp8" else ""),
        ),
    )


def _begins(training: Training) -> tuple[str, tuple[str, ...]]:
    return begins(training, "run.sh", merged(bool(training.after and training.after.lora)))


def _module(training: Training, model: tuple[str, str, str]) -> tuple[str, dict[str, str]]:
    module, flavor, base = model
    converters, stated = [], {"recompute": "activation_checkpoint", "learning_rate": "default_adamw"}
    stated["weight_decay"] = "default_adamw"
    if training["precision"] == "fp8":
        converters.append('Float8LinearConverter.Config(filter_fqns=["lm_head"], model_compile_enabled=True)')
        stated["precision"] = "Float8LinearConverter"
    if training["finetuning_type"] == "lora":
        rank, alpha = training["lora_rank"], float(training["lora_alpha"])
        converters.append(f"LoRAConverter.Config(rank={rank}, alpha={alpha})")
        stated |= dict.fromkeys(("finetuning_type", "lora_rank", "lora_alpha"), "LoRAConverter")
    if training["job"] in ("sft", "continue", "pretrain"):
        stated["job"] = "dataloader"
    text = MODULE.format(
        module=module, flavor=flavor, base=base, converters=", ".join(converters),
        recompute=RECOMPUTE[training["recompute"]], rate=float(training["learning_rate"]),
        decay=float(training["weight_decay"]), data=CHATS if training["job"] == "sft" else TEXTS,
    )  # fmt: skip
    return text, stated


def _flags(training: Training) -> tuple[dict[str, Any], dict[str, str]]:
    t, zero, dp = training, training["zero"], training["dp"]
    local = t["micro_batch"] * (t.accumulation if t["pp"] > 1 else 1)  # a pipeline takes them all at once
    flags: dict[str, Any] = {
        "hf_assets_path": "./model",
        "training.seq_len": t["seq_len"],
        "training.local_batch_size": local,
        "training.global_batch_size": t["global_batch"],
        "training.steps": int(t["steps"]),
        "training.disable_cuda_graphs": True,  # they take neither stages nor rows of any length
        "training.mixed_precision_param": "float32" if t["precision"] in ("f32", "tf32") else "bfloat16",
        "lr_scheduler.warmup_steps": t.warmup_steps,
        "parallelism.tensor_parallel_degree": t["tp"],
        "parallelism.pipeline_parallel_degree": t["pp"],
        "parallelism.context_parallel_degree": t["cp"],
        "parallelism.expert_parallel_degree": t["ep"],
        "parallelism.data_parallel_shard_degree": dp if zero else 1,
        "parallelism.data_parallel_replicate_degree": 1 if zero else dp,
        "checkpoint.enable": True,
        "checkpoint.interval": t.save_steps,
        "checkpoint.folder": "checkpoints",
        "dump_folder": ".",
    }
    stated = {
        "seq_len": "training.seq_len", "global_batch": "training.global_batch_size",
        "micro_batch": "training.local_batch_size", "steps": "training.steps",
        "warmup_ratio": "lr_scheduler.warmup_steps", "tp": "parallelism.tensor_parallel_degree",
        "pp": "parallelism.pipeline_parallel_degree", "cp": "parallelism.context_parallel_degree",
        "ep": "parallelism.expert_parallel_degree", "dp": "parallelism.data_parallel_shard_degree",
        "checkpoint_every_s": "checkpoint.interval",
    }  # fmt: skip
    return _more(training, flags, stated)


def _more(
    training: Training, flags: dict[str, Any], stated: dict[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """What depends on the settings: stages, sharding, offloading, where the weights come from."""
    if training["zero"] in (0, 2, 3):
        stated["zero"] = "parallelism.fsdp_reshard_after_forward"
    if training["zero"]:
        flags["parallelism.fsdp_reshard_after_forward"] = "always" if training["zero"] == 3 else "never"
    if training["precision"] == "fp8":
        flags["compile.enable"] = True  # its casts and scales are fused with what is before them
    if training["precision"] in ("bf16", "f32"):
        stated["precision"] = "training.mixed_precision_param"
    if training["tp"] > 1:
        name = "parallelism.enable_sequence_parallel"
        on = bool(training["sequence_parallel"])
        flags[name if on else "parallelism.no-enable-sequence-parallel"] = True
        stated["sequence_parallel"] = name
    if training["pp"] > 1:
        name = "Interleaved1F1B" if training["virtual_stages"] > 1 else "1F1B"
        flags["parallelism.pipeline_parallel_schedule"] = name
        flags["parallelism.pipeline_parallel_microbatch_size"] = training["micro_batch"]
        flags["parallelism.pipeline_parallel_first_stage_less_layers"] = 0
        flags["parallelism.pipeline_parallel_last_stage_less_layers"] = 0
        per = ceil(training.sizes["layers"] / (training["pp"] * training["virtual_stages"]))
        flags["parallelism.pipeline_parallel_layers_per_stage"] = per
        stated["virtual_stages"] = "parallelism.pipeline_parallel_layers_per_stage"
        stated["micro_batch"] = "parallelism.pipeline_parallel_microbatch_size"
    if training["offload"] and training["zero"]:
        flags["training.enable_cpu_offload"] = True
        stated["offload"] = "training.enable_cpu_offload"
    start, _ = _begins(training)
    if training.after and not training.after.lora:
        flags["checkpoint.initial_load_path"] = f'"$PWD/{start}/step-{training.after.steps}"'
    elif training["job"] != "pretrain":
        flags["checkpoint.initial_load_in_hf"] = True
        if training.after:
            flags["checkpoint.initial_load_path"] = f'"$PWD/{start}"'
    return flags, stated
