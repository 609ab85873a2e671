"""`train`: one stage of it, by the names that TRL, transformers and LLaMA-Factory have."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from ..methods import LOSS_TYPES
from .table import Table, say
from .values import NAMES_SCHEMA, Amount, Count, Share, Text, names_of


def _losses(value: Any) -> Any:
    """One loss of TRL, or a list of them."""
    names = {name for own in LOSS_TYPES.values() for name in own}
    given = value if isinstance(value, list) else [value]
    for loss in given:
        if not isinstance(loss, str) or loss not in names:
            raise ValueError(f"{loss!r} is no loss_type; dpo has {', '.join(LOSS_TYPES['dpo'])}")
    if not given or len(set(given)) < len(given):
        raise ValueError("names each loss once, and at least one")
    return value


Scheduler = Literal["cosine", "linear", "constant", "constant_with_warmup", "inverse_sqrt"]


def _metric(value: Any) -> Any:
    """transformers' words for the same."""
    return {"loss": "eval_loss", "eval_score": "score"}.get(value, value) if isinstance(value, str) else value


Modules = Annotated[list[Text], BeforeValidator(names_of), WithJsonSchema(NAMES_SCHEMA)]
Trackers = Annotated[
    list[Literal["tensorboard", "wandb", "mlflow"]], BeforeValidator(names_of), WithJsonSchema(NAMES_SCHEMA)
]


def _fsdp(value: Any) -> Any:
    """True or false; the words of older trainers (full_shard auto_wrap) mean true."""
    words = value.split() if isinstance(value, str) else value
    return True if isinstance(words, list) and "full_shard" in words else value


class StageTable(Table):
    stage: Literal["sft", "pt", "dpo", "kto", "orpo", "distil", "grpo", "rm"] | None = say(
        "pt (continue) = plain text, sft = answers, distil = answers by a teacher's word for each token, "
        "dpo and orpo = pairs of answers, kto = rated answers, grpo = sampled answers, rewarded by "
        "`compare`, rm = a reward model from pairs",
        "sft",
    )
    finetuning_type: Literal["lora", "full"] | None = say("what is trained", "lora")
    train_from_scratch: bool | None = say(
        "of a first stage pt: begin with random weights; sizes and tokenizer are the model's", False
    )
    engine: Literal["auto", "own", "trl"] | None = say(
        "what trains: own, the loop for this CPU; trl, any device, by an environment of its own", "own"
    )
    device: Literal["auto", "cpu", "cuda", "xpu", "hpu"] | None = say("what the engine computes on", "cpu")
    processes: Annotated[int, Field(ge=1, le=1024)] | None = say(
        "that share out each step: one a device, of a CPU one, where left out", 2
    )
    fsdp: Annotated[bool, BeforeValidator(_fsdp)] | None = say(
        "weights and optimiser in shards over the processes (accelerators)", True
    )
    lora_rank: Annotated[int, Field(ge=1, le=1024)] | None = say("rank of the LoRA matrices", 16)
    lora_alpha: Annotated[int, Field(ge=1, le=8192)] | None = say("scale of LoRA, divided by the rank", 32)
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = say("peak learning rate", 2.0e-4)
    num_train_epochs: Annotated[float, Field(gt=0, le=10_000)] | None = say("passes over the data", 2)
    max_steps: Count | None = say("optimiser steps; goes before num_train_epochs", 200)
    max_length: Annotated[int, Field(ge=8, le=1_000_000)] | None = say("tokens of a sequence", 512)
    overlong: Literal["split", "truncate", "drop"] | None = say(
        "rows beyond max_length: split at turn borders, cut to the last turns, or dropped", "split"
    )
    packing: bool | None = say("several rows in one sequence", True)
    per_device_train_batch_size: Count | None = say("sequences per device per step", 4)
    gradient_accumulation_steps: Count | None = say("micro-batches per optimiser step", 2)
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] | None = say("share of the steps that warm up", 0.1)
    warmup_steps: Amount | None = say("steps that warm up, in place of warmup_ratio", 20)
    lr_scheduler_type: Scheduler | None = say("how the rate falls", "cosine")
    weight_decay: Annotated[float, Field(ge=0, le=1)] | None = say("of AdamW", 0.0)
    beta: Annotated[float, Field(ge=0, le=100)] | None = say(
        "sft, dpo, kto, grpo: how closely the model stays to the one it begins from (sft: tokens of the "
        "prompts that are held at its word, to each taught one); orpo: weight of the pairs; "
        "distil with lmbda: 0 forward, 1 reverse divergence from the teacher, between them a mixture",
        0.1,
    )
    loss_type: Annotated[str | list[str], BeforeValidator(_losses)] | None = say(
        "of dpo (several are added up), kto or grpo, by TRL's names", ["sigmoid", "sft"]
    )
    loss_weights: list[Annotated[float, Field(ge=0, le=1000)]] | None = say(
        "of dpo: one for each loss_type", [1.0, 0.1]
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] | None = say(
        "of dpo: the share of pairs that may be the wrong way round", 0.0
    )
    desirable_weight: Annotated[float, Field(gt=0, le=1000)] | None = say("of kto: of good answers", 1.0)
    undesirable_weight: Annotated[float, Field(gt=0, le=1000)] | None = say("of kto: of bad answers", 1.0)
    teacher_model_name_or_path: Text | None = say(
        "of distil: a model of the same vocabulary", "models/larger"
    )
    loss_top_k: Annotated[int, Field(ge=1, le=1024)] | None = say(
        "of distil: the teacher's likeliest tokens that are kept; the others are one class", 64
    )
    lmbda: Annotated[float, Field(ge=0, le=1)] | None = say(
        "of distil: share of the steps whose answers the student writes, judged by a teacher beside it "
        "(trl); 0: the rows' own answers, of which the teacher is asked once",
        1.0,
    )
    center_rewards_coefficient: Annotated[float, Field(ge=0, le=100)] | None = say(
        "of rm: weight of the rewards' distance from 0 in the loss", 0.01
    )
    adapter_name_or_path: Text | None = say(
        "of a first stage with LoRA: the adapter of the model that it goes on from, a folder",
        "adapters/support",
    )
    num_generations: Annotated[int, Field(ge=2, le=1024)] | None = say(
        "of grpo: answers sampled to a prompt", 8
    )
    max_completion_length: Annotated[int, Field(ge=1, le=1_000_000)] | None = say(
        "of grpo, distil with lmbda: tokens of a sampled answer; a longer one is cut and taken as it is", 256
    )
    temperature: Annotated[float, Field(gt=0, le=10)] | None = say(
        "of grpo, distil with lmbda: of sampling; of distil of the divergence too", 1.0
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = say(
        "of grpo, distil with lmbda: share of the likeliest tokens that are sampled from", 1.0
    )
    scale_rewards: Literal["group", "batch", "none"] | None = say(
        "of grpo: rewards less their mean are divided by their standard deviation, of the prompt's answers "
        "or the step's, or not at all",
        "group",
    )
    loss_per: Literal["token", "ability"] | None = say(
        "sft, distil: what counts alike in the loss: every taught token, or every ability by its rows, "
        "whatever the length of its answers",
        "ability",
    )
    max_grad_norm: Annotated[float, Field(gt=0)] | None = say("gradients are clipped to this norm", 1.0)
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] | None = say(
        "share of a LoRA's inputs left out of a step", 0.05
    )
    target_modules: Modules | None = say(
        "the matrices that LoRA adapts; all-linear: every one of every layer", ["q_proj", "v_proj"]
    )
    modules_to_save: Modules | None = say(
        "modules that a stage with LoRA trains whole, kept beside its factors (trl)",
        ["embed_tokens", "lm_head"],
    )
    mixed_precision: Literal["no", "bf16", "fp8"] | None = say(
        "what products are computed in; no: float32", "bf16"
    )
    gradient_checkpointing: bool | None = say(
        "keep a layer's input alone and compute it again: less memory, same bits", True
    )
    eval_steps: Count | None = say("steps between two looks at rows held out of this stage", 50)
    val_size: Annotated[Share, Field(gt=0, le=0.5)] | None = say(
        "share of the rows held out of this stage for eval_steps", "5%"
    )
    load_best_model_at_end: bool | None = say(
        "the result is the model of the best look, by metric_for_best_model", True
    )
    metric_for_best_model: Annotated[Literal["eval_loss", "score"], BeforeValidator(_metric)] | None = say(
        "what makes a look the best: the least eval_loss, or of sft the highest score of answers to the rows "
        "held out, by the gate's compare",
        "score",
    )
    early_stopping_patience: Count | None = say("looks without a better one that end the stage", 3)
    save_steps: Count | None = say("steps between two checkpoints that stay in the artefact", 100)
    save_total_limit: Count | None = say("of those checkpoints the newest that stay; all where left out", 3)
    report_to: Trackers | None = say("where the curve is written too, offline", ["tensorboard"])
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = say("of this stage", 0)
