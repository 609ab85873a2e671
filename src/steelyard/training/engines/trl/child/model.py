"""The model: loaded, with an adapter on what LoRA is to cover, and written as tensors alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from .stages.reward import HEAD, config_of
from .telling import Failed

ROUTERS = ("gate", "router", "shared_expert_gate")  # an adapter there moves tokens between experts
REWARD = "rm"  # the stage whose model has a head that gives a score


def loaded(job: dict[str, Any], dtype: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    if job.get("stage") == REWARD:  # its head, which the base has not, is drawn by the job's seed
        return AutoModelForSequenceClassification.from_pretrained(
            job["base"], dtype=dtype, local_files_only=True, num_labels=1
        )

    if job["train_from_scratch"]:
        config = AutoConfig.from_pretrained(job["base"], local_files_only=True)
        return AutoModelForCausalLM.from_config(config, dtype=dtype)
    return AutoModelForCausalLM.from_pretrained(job["base"], dtype=dtype, local_files_only=True)


def with_adapter(model: Any, job: dict[str, Any]) -> Any:
    """LoRA from the factors of the order; for a family that steelyard has no network of, PEFT's own start."""
    from peft import PeftModel, get_peft_model

    if job["modules_to_save"]:
        return with_modules(model, job)
    if job["init"]:
        return PeftModel.from_pretrained(model, job["init"], is_trainable=True)
    return get_peft_model(model, fresh_config(model, job))


def fresh_config(model: Any, job: dict[str, Any]) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=job["lora_rank"],
        lora_alpha=job["lora_alpha"],
        lora_dropout=job["lora_dropout"],
        target_modules=job["target_modules"] or targets(model),
        task_type=task_of(job),
    )


def task_of(job: dict[str, Any]) -> str:
    return "SEQ_CLS" if job["stage"] == REWARD else "CAUSAL_LM"


def with_modules(model: Any, job: dict[str, Any]) -> Any:
    """LoRA, and modules of the base that are trained whole, in float32; tied ones stay one weight."""
    from peft import LoraConfig, get_peft_model
    from peft.utils.other import ModulesToSaveWrapper
    from safetensors.torch import load_file

    if missing := sorted(set(job["modules_to_save"]) - modules_of(model)):
        raise Failed("modules", missing=missing[0])
    path = Path(job["init"]) if job["init"] else None
    config = LoraConfig.from_pretrained(str(path)) if path else fresh_config(model, job)
    config.inference_mode, config.modules_to_save = False, list(job["modules_to_save"])
    config.task_type = task_of(job)
    tied = bool(model.config.get_text_config().tie_word_embeddings)
    config.ensure_weight_tying = tied and job["stage"] != REWARD
    model = get_peft_model(model, config)
    for name, factor in load_file(path / "adapter_model.safetensors").items() if path else ():
        model.get_parameter(f"{name.removesuffix('.weight')}.default.weight").data.copy_(factor)
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            module.modules_to_save.float()
    return model


def targets(model: Any) -> list[str]:
    """Every linear layer but the head and routers; routed experts where PEFT knows how they are stored."""
    import torch

    head = model.get_output_embeddings()
    linears = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    try:
        from peft.utils.transformers_weight_conversion import (
            _MODEL_TO_CONVERSION_PATTERN,
            _MOE_TARGET_MODULE_MAPPING,
        )

        pattern = _MODEL_TO_CONVERSION_PATTERN.get(model.config.model_type, "")
        experts = set(_MOE_TARGET_MODULE_MAPPING.get(pattern, {}))
    except ImportError:
        experts = set()
    return sorted(name for name in (linears | experts) - {*ROUTERS, HEAD} if fits(model, name))


def fits(model: Any, name: str) -> bool:
    """Whether PEFT adapts a layer of that name in this family: of Mamba not every one."""
    from peft import LoraConfig
    from peft.tuners.tuners_utils import _check_lora_target_modules_mamba

    try:
        _check_lora_target_modules_mamba(LoraConfig(), model, name)
    except ValueError:
        return False
    return True


def covered_share(model: Any) -> float:
    """Of the base's weights, the share that an adapter acts on."""
    adapted = {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
            owner = getattr(module, "parameter_name", "weight")
            layer = module.get_base_layer() if hasattr(module, "get_base_layer") else module.base_layer
            weight = getattr(layer, owner, None)
            if weight is not None:
                adapted[f"{name}.{owner}"] = weight.numel()
    own = dict(model.named_parameters())
    saved = sum(p.numel() for n, p in own.items() if ".modules_to_save." in n)
    base = sum(p.numel() for n, p in own.items() if "lora_" not in n) - saved
    return (sum(adapted.values()) + saved) / base


# ------------------------------------------------------------------ written


def write_full(model: Any, result: Path) -> None:
    """Rounded once, in the names of the hub."""
    import torch

    model.to(torch.bfloat16).save_pretrained(result, max_shard_size="5GB")


def write_adapter(model: Any, result: Path) -> None:
    """The factors in PEFT's names, and what a configuration of them has to say."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    (result / "adapter").mkdir(parents=True)
    factors = get_peft_model_state_dict(model)
    state = {name: factor.detach().float().cpu().contiguous().clone() for name, factor in factors.items()}
    save_file(state, result / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
    model.save_pretrained(result / "peft")  # read again by write_merged, and not kept
    config = model.peft_config["default"]
    told = {
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "target_modules": sorted(config.target_modules or ()),
        "target_parameters": sorted(config.target_parameters or ()),
        "rank_pattern": dict(sorted(config.rank_pattern.items())),
        "alpha_pattern": dict(sorted(config.alpha_pattern.items())),
        "modules_to_save": sorted(set(config.modules_to_save or ()) & modules_of(model)),
        "task_type": str(getattr(config.task_type, "value", config.task_type)),
        "ensure_weight_tying": config.ensure_weight_tying,
    }
    (result / "adapter.json").write_text(json.dumps({k: v for k, v in told.items() if v}))


def modules_of(model: Any) -> set[str]:
    """The last parts of their names."""
    return {name.rpartition(".")[2] for name, _ in model.named_modules()}


def write_reward(model: Any, result: Path) -> None:
    """What the configuration of a reward model says."""
    result.mkdir(parents=True, exist_ok=True)
    (result / "reward.json").write_text(json.dumps(config_of(model)))


def write_merged(job: dict[str, Any], result: Path) -> None:
    """The base's own weights in float32 plus the adapter, rounded once, in the names of the hub."""
    import torch
    from peft import PeftModel

    model = PeftModel.from_pretrained(loaded(job, torch.float32), result / "peft").merge_and_unload()
    write_full(model, result)
    shutil.rmtree(result / "peft")
