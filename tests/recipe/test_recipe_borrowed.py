"""What a LLaMA-Factory, TRL or Axolotl user types: taken, dropped as harmless, or answered; never guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steelyard import recipe
from steelyard.errors import WrongUse
from steelyard.recipe.borrowed import ANSWERS, SOURCE_ALIASES, STAGE_ALIASES, TOP_ALIASES
from steelyard.recipe.document import TABLES

# Words of the examples in those projects' documentation, each with a value that stands there.
LLAMA_FACTORY = {
    "template": "qwen3", "cutoff_len": 2048, "max_samples": 1000, "overwrite_cache": True,
    "preprocessing_num_workers": 16, "dataloader_num_workers": 4, "output_dir": "x", "logging_steps": 10,
    "save_steps": 500, "plot_loss": True, "overwrite_output_dir": True, "save_only_model": False,
    "report_to": "none", "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8,
    "learning_rate": 1e-4, "num_train_epochs": 3.0, "lr_scheduler_type": "cosine", "warmup_ratio": 0.1,
    "bf16": True, "fp16": True, "ddp_timeout": 180000000, "resume_from_checkpoint": None, "val_size": 0.1,
    "per_device_eval_batch_size": 1, "eval_strategy": "steps", "eval_steps": 500, "lora_rank": 8,
    "lora_target": "all", "lora_alpha": 16, "lora_dropout": 0.1, "quantization_bit": 4, "flash_attn": "auto",
    "deepspeed": "ds_z3.json", "dataset_dir": "data", "mask_history": True, "neftune_noise_alpha": 5,
    "max_grad_norm": 1.0, "warmup_steps": 20, "optim": "adamw_torch", "packing": True, "seed": 42,
    "trust_remote_code": True, "use_rslora": True, "enable_liger_kernel": True, "finetuning_type": "lora",
}  # fmt: skip
TRL = {
    "max_length": 1024, "model_init_kwargs": None, "gradient_checkpointing": True, "logging_dir": "x",
    "lora_r": 16, "target_modules": ["q_proj"], "assistant_only_loss": True, "completion_only_loss": True,
    "dataset_num_proc": 4, "eval_dataset": "x", "save_total_limit": 2, "load_best_model_at_end": True,
    "early_stopping_patience": 3, "torch_dtype": "bfloat16", "attn_implementation": "flash_attention_2",
    "push_to_hub": True, "group_by_length": True, "label_smoothing_factor": 0.1, "tf32": True,
    "adam_beta1": 0.9, "adam_beta2": 0.95, "weight_decay": 0.0, "load_in_4bit": True, "run_name": "x",
    "max_seq_length": 512, "dataset_text_field": "text", "save_strategy": "steps", "use_cache": False,
}  # fmt: skip
AXOLOTL = {
    "sequence_len": 4096, "adapter": "lora", "micro_batch_size": 2, "num_epochs": 1, "sample_packing": True,
    "val_set_size": 0.05, "flash_attention": True, "lora_target_linear": True, "lora_target_modules": ["q"],
    "fsdp": ["full_shard"], "fsdp_config": {}, "wandb_project": "x", "evals_per_epoch": 4,
    "saves_per_epoch": 1, "pad_to_sequence_len": True, "train_on_inputs": False, "special_tokens": {},
    "load_in_8bit": True, "dataset_prepared_path": "x", "optimizer": "adamw_8bit", "lr_scheduler": "cosine",
    "xformers_attention": True, "chat_template": "chatml", "roles_to_train": "assistant", "lr": 1e-4,
    "datasets": [], "hub_model_id": "x", "device_map": "auto", "local_rank": 0, "batch_size": 8,
}  # fmt: skip
WORDS = LLAMA_FACTORY | TRL | AXOLOTL
del WORDS["model_init_kwargs"]
BASE = "model: demo\ndata: [{path: rows.jsonl}]\n"


def load(tmp_path: Path, text: str) -> recipe.Recipe:
    (tmp_path / "steelyard.yaml").write_text(text, encoding="utf-8")
    return recipe.load(tmp_path / "steelyard.yaml")


def yaml(value: Any) -> str:
    import json

    return json.dumps(value)


@pytest.mark.parametrize("word", sorted(WORDS))
@pytest.mark.parametrize("place", ["train", "top"])
def test_a_word_of_another_trainer_is_taken_or_answered(tmp_path: Path, word: str, place: str) -> None:
    line = f"{word}: {yaml(WORDS[word])}\n"
    text = f"{BASE}train:\n  - {line}" if place == "train" else BASE + line
    try:
        load(tmp_path, text)
    except WrongUse as error:
        assert error.hint and "did you mean" not in error.hint, (word, error.hint)
        assert error.where and error.where.line
        if word in ANSWERS:
            assert (error.code, error.why) == ("recipe.borrowed", ANSWERS[word].why)
        elif error.code == "recipe.no_value":
            assert WORDS[word] is None
        else:
            assert place == "top" and "belongs under train[]" in error.hint


@pytest.mark.parametrize(("word", "own"), sorted(STAGE_ALIASES.items()))
def test_an_alias_means_the_same(tmp_path: Path, word: str, own: str) -> None:
    values = {
        "finetuning_type": "full",
        "packing": False,
        "lr_scheduler_type": "linear",
        "learning_rate": 1e-3,
        "label_smoothing": 0.1,
        "loss_type": "ipo",
        "teacher_model_name_or_path": "larger",
        "val_size": 0.1,
        "target_modules": ("q_proj",),
        "modules_to_save": ("embed_tokens",),
    }
    value = values.get(own, 32)
    of = recipe.METHOD_WORDS.get(own, ("sft",))[0]
    more = ", teacher_model_name_or_path: x" if own == "loss_top_k" else ""
    stage = load(tmp_path, f"{BASE}train: [{{stage: {of}, {word}: {yaml(value)}{more}}}]\n").train[0]
    assert getattr(stage, own) == value


def test_a_model_and_data_by_other_names(tmp_path: Path) -> None:
    for word in TOP_ALIASES:
        made = load(tmp_path, f"{word}: demo\ndata: [{{file_name: a.jsonl, type: chat_template}}]\n")
        assert (made.model, made.data[0].path, made.data[0].format) == ("demo", "a.jsonl", "messages")
    assert set(SOURCE_ALIASES.values()) <= set(TABLES["data.*"].model_fields)


@pytest.mark.parametrize(
    ("word", "value"),
    [("lora_target", "all"), ("optim", "adamw_torch"), ("report_to", "none"), ("lora_dropout", 0),
     ("do_train", True), ("train_on_inputs", False), ("completion_only_loss", True), ("warmup_steps", 0)],
)  # fmt: skip
def test_what_asks_for_what_is_done_anyway_is_no_error(tmp_path: Path, word: str, value: Any) -> None:
    plain = load(tmp_path, f"{BASE}train: [{{stage: sft}}]\n")
    assert load(tmp_path, f"{BASE}train: [{{stage: sft, {word}: {yaml(value)}}}]\n").hash == plain.hash


def test_no_answer_hides_a_word_of_ours() -> None:
    own = {name for table in ("", "train.*") for name in TABLES[table].model_fields}
    assert not own & set(ANSWERS) and not own & set(STAGE_ALIASES)
    assert {own for own in STAGE_ALIASES.values()} <= set(TABLES["train.*"].model_fields)


def test_an_alias_and_its_word_at_once_are_a_duplicate(tmp_path: Path) -> None:
    with pytest.raises(WrongUse) as error:
        load(tmp_path, f"{BASE}train: [{{micro_batch_size: 2, per_device_train_batch_size: 2}}]\n")
    assert error.value.code == "recipe.duplicate_key"
