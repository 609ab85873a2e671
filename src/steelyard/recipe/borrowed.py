"""Words of other trainers: taken where we have the thing, else answered with what to write, never guessed at.

From LLaMA-Factory's, TRL's (with Transformers' TrainingArguments) and Axolotl's configurations, by their
documentation. Aliases are renamed in place, whoever wrote them; the other words are settings that this
version decides itself, does not have, or calls differently.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import WrongUse
from .tree import Path_, Tree

# Of a training stage: their word -> ours. Same meaning, same unit.
STAGE_ALIASES = {
    "cutoff_len": "max_length",
    "max_seq_length": "max_length",
    "max_seq_len": "max_length",
    "sequence_len": "max_length",
    "model_max_length": "max_length",
    "lora_r": "lora_rank",
    "rank": "lora_rank",
    "r": "lora_rank",
    "alpha": "lora_alpha",
    "lr": "learning_rate",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "n_epochs": "num_train_epochs",
    "micro_batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "grad_accum": "gradient_accumulation_steps",
    "sample_packing": "packing",
    "adapter": "finetuning_type",
    "lr_scheduler": "lr_scheduler_type",
    "teacher": "teacher_model_name_or_path",
    "teacher_model": "teacher_model_name_or_path",
    "kd_top_k": "loss_top_k",
    "pref_beta": "beta",
    "pref_loss": "loss_type",
    "rl_beta": "beta",
    "dpo_label_smoothing": "label_smoothing",
    "kto_chosen_weight": "desirable_weight",
    "kto_rejected_weight": "undesirable_weight",
    "kto_desirable_weight": "desirable_weight",
    "kto_undesirable_weight": "undesirable_weight",
    "num_processes": "processes",
    "nproc_per_node": "processes",
    "val_set_size": "val_size",
    "lora_target": "target_modules",
    "lora_modules_to_save": "modules_to_save",
    "additional_target": "modules_to_save",
    "lora_target_modules": "target_modules",
}
TOP_ALIASES = {
    "model_name_or_path": "model",
    "model_name": "model",
    "base_model": "model",
    "pretrained_model_name_or_path": "model",
}
SOURCE_ALIASES = {"file_name": "path", "dataset_path": "path", "type": "format"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What to write in place of a word, and why it is none of ours; `harmless` values ask for nothing."""

    why: str
    write: str = "delete the line"
    harmless: tuple[Any, ...] = ()


CHECKPOINTS = Answer(
    "an interrupted run resumes by itself; checkpoints stay in the artefact by save_steps", "save_steps: 100"
)
HELD_OUT = Answer(
    "a stage holds rows out by val_size and looks at them every eval_steps", "eval_steps: 50", ("steps", "no")
)
BEST = Answer(
    "a look is the best by the least eval_loss, or by the highest score",
    "metric_for_best_model: score",
    harmless=(True, False),
)
LOGS = Answer("every step is in the run's log and report: steelyard logs, steelyard report")
PROCESSES = Answer(
    "how many processes train, and in shards or not, are two words", "processes: 2, fsdp: true"
)
DEVICE = Answer("what a stage trains on is its device", "device: cpu")
PRECISION = Answer("the precision is the fastest that this CPU computes", "mixed_precision: bf16")
MEMORY = Answer(
    "the plan chooses the micro-batch so that the job fits into the memory", "gradient_checkpointing: true"
)
TARGETS = Answer(
    "LoRA adapts every matrix of every layer, or those of target_modules",
    "target_modules: [q_proj, v_proj]",
    (True,),
)
OPTIMISER = Answer(
    "the optimiser is AdamW with betas of 0.9 and 0.999",
    harmless=("adamw", "adamw_torch", "adamw_torch_fused", "adamw_hf", 0.9, 0.999, 1e-8),
)
ANSWERS_ONLY = Answer(
    "only answers are learnt; a message with weight: 0 is left out", harmless=(False, "assistant")
)
ANSWERS_TOO = Answer(ANSWERS_ONLY.why, harmless=(True,))
TEMPLATE = Answer("the model's own chat template is used, in training and in serving alike")
DATA = Answer("data are named under `data:`, by path", "data: [{path: rows.jsonl, ability: support}]")
KERNELS = Answer("attention is computed by this CPU's own kernels", harmless=("auto", "eager", "sdpa", False))
QUANTISED = Answer(
    "training on quantised weights (QLoRA) is not yet available", "compress: {weights: int4}", (False,)
)
WORKERS = Answer("reading is quick enough for one process; cores are taken by the plan")
FOLDERS = Answer("the run's folder is given on the command line", "steelyard up RECIPE --workdir DIR")
RESUMES = Answer("the same command goes on where a run stopped", "steelyard up RECIPE", (True, None))
NO_CODE = Answer("no code of a model folder is ever run", harmless=(False,))
HUB = Answer("nothing is sent anywhere", "steelyard export CHECKPOINT --to hf --output DIR", (False,))
REFERENCE = Answer(
    "a stage is compared with the model it begins from: the earlier stage's result", harmless=(None,)
)
NOT_YET = Answer("it is not yet available; this version would have to ignore it", harmless=(0, 0.0, False))

ANSWERS: dict[str, Answer] = {
    **dict.fromkeys(("save_strategy", "save_only_model"), CHECKPOINTS),
    **dict.fromkeys(("saves_per_epoch", "checkpoint_steps", "save_safetensors"), CHECKPOINTS),
    **dict.fromkeys(("eval_strategy", "evaluation_strategy"), HELD_OUT),
    **dict.fromkeys(("evals_per_epoch", "eval_dataset", "do_eval"), HELD_OUT),
    "greater_is_better": BEST,
    **dict.fromkeys(("per_device_eval_batch_size", "eval_batch_size", "predict_with_generate"), HELD_OUT),
    **dict.fromkeys(("logging_steps", "logging_dir", "logging_strategy", "plot_loss"), LOGS),
    **dict.fromkeys(("run_name", "wandb_project", "wandb_run_id", "use_tensorboard", "use_swanlab"), LOGS),
    **dict.fromkeys(("deepspeed", "fsdp_config", "fsdp_version", "ddp_timeout"), PROCESSES),
    **dict.fromkeys(("ddp_find_unused_parameters", "local_rank"), PROCESSES),
    **dict.fromkeys(("device_map", "use_cpu"), DEVICE),
    **dict.fromkeys(("bf16", "fp16", "tf32", "pure_bf16", "torch_dtype", "dtype", "compute_type"), PRECISION),
    **dict.fromkeys(("gradient_checkpointing_kwargs", "use_reentrant_gc", "upcast_layernorm"), MEMORY),
    **dict.fromkeys(("auto_find_batch_size", "use_cache"), MEMORY),
    **dict.fromkeys(("lora_target_linear",), TARGETS),
    **dict.fromkeys(("optim", "optimizer", "adam_beta1", "adam_beta2", "adam_epsilon"), OPTIMISER),
    **dict.fromkeys(("train_on_inputs", "train_on_prompt", "mask_history", "roles_to_train"), ANSWERS_ONLY),
    **dict.fromkeys(("completion_only_loss", "assistant_only_loss"), ANSWERS_TOO),
    **dict.fromkeys(("template", "chat_template", "default_system", "special_tokens"), TEMPLATE),
    **dict.fromkeys(("chat_template_jinja", "tool_format", "enable_thinking"), TEMPLATE),
    **dict.fromkeys(("dataset", "datasets", "dataset_dir", "dataset_name", "train_file"), DATA),
    **dict.fromkeys(("dataset_text_field", "dataset_prepared_path", "media_dir", "streaming"), DATA),
    **dict.fromkeys(("flash_attention", "flash_attn", "flash_attn_2", "xformers_attention"), KERNELS),
    **dict.fromkeys(("attn_implementation", "sdp_attention", "enable_liger_kernel", "use_unsloth"), KERNELS),
    **dict.fromkeys(("quantization_bit", "quantization_method", "load_in_8bit", "load_in_4bit"), QUANTISED),
    **dict.fromkeys(("bnb_4bit_quant_type", "double_quantization", "gptq"), QUANTISED),
    **dict.fromkeys(("preprocessing_num_workers", "dataloader_num_workers", "dataset_num_proc"), WORKERS),
    **dict.fromkeys(("dataset_processes", "overwrite_cache", "dataloader_pin_memory"), WORKERS),
    **dict.fromkeys(("use_fast_tokenizer", "tokenizer_type", "model_type", "group_by_length"), WORKERS),
    **dict.fromkeys(("pad_to_sequence_len", "pad_to_max_length", "eval_packing"), WORKERS),
    **dict.fromkeys(("output_dir", "overwrite_output_dir"), FOLDERS),
    **dict.fromkeys(("resume_from_checkpoint", "auto_resume_from_checkpoints", "do_train"), RESUMES),
    "trust_remote_code": NO_CODE,
    **dict.fromkeys(("push_to_hub", "hub_model_id", "hub_token", "hf_hub_token"), HUB),
    **dict.fromkeys(("neftune_noise_alpha", "label_smoothing_factor"), NOT_YET),
    **dict.fromkeys(("use_rslora", "use_dora"), NOT_YET),
    **dict.fromkeys(("loraplus_lr_ratio", "rslora", "pissa_init", "reward_model"), NOT_YET),
    **dict.fromkeys(("ref_model", "ref_model_adapters", "model_adapter_name", "ref_adapter_name"), REFERENCE),
    **dict.fromkeys(("resize_vocab", "freeze_trainable_layers", "unfrozen_parameters"), NOT_YET),
    "max_samples": Answer("every row of a file is read", "name a shorter file under data:"),
    "batch_size": Answer(
        "it may mean a device's batch or the whole one",
        "per_device_train_batch_size: 4   (times gradient_accumulation_steps is the whole)",
    ),
    "steps": Answer("optimiser steps are max_steps", "max_steps: 200"),
    "rl": Answer("a method is a stage of its own", "train: [{stage: sft}, {stage: dpo}]", (None,)),
}  # fmt: skip


def answer_borrowed(tree: Tree) -> None:
    """Drop what asks for nothing else; raise WrongUse for another word of other trainers, with its answer."""
    from .document import TABLES

    train = tree.values.get("train")
    stages = enumerate(train) if isinstance(train, list) else ()
    places: list[tuple[Path_, Any, str]] = [((), tree.values, "")]
    places += [(("train", i), stage, "train.*") for i, stage in stages]
    for at, table, owner in places:
        for word in [w for w in table if isinstance(w, str)] if isinstance(table, dict) else ():
            if word in ANSWERS and word not in TABLES[owner].model_fields:
                _answer(tree, (*at, word), table, ANSWERS[word])


def _answer(tree: Tree, at: Path_, table: dict[str, Any], answer: Answer) -> None:
    word = str(at[-1])
    value = table[word]
    if any(value == h and type(value) is type(h) for h in answer.harmless):
        del table[word]
        return
    text = f"{word} is a word of other trainers"
    raise WrongUse("recipe.borrowed", text, where=tree.where(at), why=answer.why, hint=answer.write)
