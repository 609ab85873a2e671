"""Megatron-LM: pretrain_gpt.py with the model's sizes and every split of the plan as flags. Pure.

For Gaudi it is Intel's fork, which has the same flags. Not here: making its data files and checkpoints.
"""

from __future__ import annotations

from typing import Any

from .target import DATA, Target, Training, before, options, script, told, torchrun, tuned

# ZeRO -> what is sharded. 1 is Megatron's own distributed optimiser; 2 and 3 its FSDP.
SHARDED = {2: "optim_grads", 3: "optim_grads_params"}
REASONS = {
    "finetuning_type": "Megatron-LM trains all weights (adapters: Megatron-Bridge, from Python)",
    "lora_rank": "Megatron-LM trains all weights",
    "lora_alpha": "Megatron-LM trains all weights",
    "job": "Megatron-LM's pretrain_gpt.py trains on texts and chats (Intel's fork on texts)",
    "precision": "Megatron-LM computes in bf16, fp16, f32, or fp8 and fp4 through Transformer Engine",
    "zero": "Megatron-LM's FSDP does not go with pipeline parallelism",
}
PRECISIONS: dict[str, dict[str, Any]] = {
    "bf16": {"bf16": True},
    "fp16": {"fp16": True},
    "f32": {},
    "fp8": {"bf16": True, "fp8-format": "hybrid"},
    "fp4": {"bf16": True, "fp4-format": "e2m1", "fp4-recipe": "nvfp4"},
}
VARIABLES = {"MEGATRON": "the folder of Megatron-LM"}
EVALUATED_EVERY = 1000  # steps
# What a family has beside Llama's parts; of the others the needs say that flags are missing.
OWN_PARTS: dict[str, dict[str, Any]] = {
    "llama": {}, "mistral": {}, "mixtral": {},
    "qwen2": {"add-qkv-bias": True}, "qwen3": {"qk-layernorm": True},
}  # fmt: skip


def megatron(training: Training) -> Target:
    """The script that starts pretrain_gpt.py on each host."""
    model = _model(training)
    flags, stated = _flags(training)
    model |= flags
    own = options(model)
    words = (*torchrun(training), "pretrain_gpt.py", *own)
    queues = 8 if "use-megatron-fsdp" in flags else 1  # its FSDP wants several, its splits one
    here = ('here="$PWD"', 'cd "$MEGATRON"', f"export CUDA_DEVICE_MAX_CONNECTIONS={queues}")
    fork = "Intel's fork of Megatron-LM for Gaudi" if training.platform == "gaudi" else "Megatron-LM"
    return Target(
        name="megatron-lm",
        files={"run.sh": script((*told(VARIABLES), *before(training), *here), _from_here(words))},
        stated={k: f"run.sh: --{v}" for k, v in stated.items()},
        given={"megatron-lm": model},
        argv={"megatron-lm": own},
        reasons=REASONS,
        variables=VARIABLES,
        made_of="its weights converted from Megatron's form into that of Hugging Face",
        needs=(
            f"{fork}, checked out at $MEGATRON, its helpers built (make -C $MEGATRON/megatron/core/datasets)",
            _data(flags),
            "tokenizer: the model's own folder",
            *_begins(training),
            *(() if _kin(training) else (f"flags of what {training.family} has beside Llama's parts",)),
        ),
    )


def _begins(training: Training) -> tuple[str, ...]:
    if training.after:
        return (tuned(training.after.place, None)[1],)
    return ("checkpoint: the weights in Megatron's form",) if training["job"] != "pretrain" else ()


def _data(flags: dict[str, Any]) -> str:
    if "sft" in flags:
        return f"{DATA}: rows of messages, in the form of --sft-tokenizer-prompt-format"
    return "data/train_text_document.bin and .idx (tools/preprocess_data.py)"


def _kin(training: Training) -> str | None:
    """The family of OWN_PARTS that a model is of."""
    family = training.family.lower()
    return next((name for name in OWN_PARTS if name in family), None)


def _from_here(words: tuple[str, ...]) -> tuple[str, ...]:
    """Paths of the export's own folder: the script has left it."""
    own = ("data/train_text_document", DATA, "tokenizer", "checkpoint", "checkpoints")
    return tuple(f'"$here/{word}"' if word in own or word.startswith("../") else word for word in words)


def _model(training: Training) -> dict[str, Any]:
    """Sizes of the model, in the form of Llama and its kin."""
    s = training.sizes
    model: dict[str, Any] = {
        "num-layers": s["layers"],
        "hidden-size": s["hidden"],
        "ffn-hidden-size": s["ffn"],
        "num-attention-heads": s["heads"],
        "kv-channels": s["head_dim"],
        "position-embedding-type": "rope",
        "normalization": "RMSNorm",
        "swiglu": True,
        "disable-bias-linear": True,
        "tokenizer-type": "HuggingFaceTokenizer",
        "tokenizer-model": "tokenizer",
    }
    if s["kv_heads"] != s["heads"]:
        model |= {"group-query-attention": True, "num-query-groups": s["kv_heads"]}
    if not s["tied"]:
        model["untie-embeddings-and-output-weights"] = True
    if s["experts"]:
        model |= {"num-experts": s["experts"], "moe-router-topk": s["experts_per_token"]}
        model |= {"moe-ffn-hidden-size": s["ffn"], "moe-grouped-gemm": True}
        model |= {"moe-token-dispatcher-type": "alltoall"}
    return model | OWN_PARTS.get(_kin(training) or "", {})


def _flags(training: Training) -> tuple[dict[str, Any], dict[str, str]]:
    t = training
    flags: dict[str, Any] = {
        "seq-length": t["seq_len"],
        "max-position-embeddings": t["seq_len"],
        "micro-batch-size": t["micro_batch"],
        "global-batch-size": t["global_batch"],
        "train-iters": int(t["steps"]),
        "lr": float(t["learning_rate"]),
        "lr-decay-style": "cosine",
        "lr-warmup-iters": t.warmup_steps,
        "weight-decay": float(t["weight_decay"]),
        "tensor-model-parallel-size": t["tp"],
        "pipeline-model-parallel-size": t["pp"],
        "context-parallel-size": t["cp"],
        "data-path": "data/train_text_document",
        "split": "99,1,0" if t["evaluated"] else "100,0,0",
        "save": "checkpoints",
        "load": "checkpoints",  # where a run goes on; without any it begins
        "save-interval": t.save_steps,
    }
    stated = {
        "seq_len": "seq-length", "micro_batch": "micro-batch-size", "global_batch": "global-batch-size",
        "steps": "train-iters", "learning_rate": "lr", "warmup_ratio": "lr-warmup-iters",
        "weight_decay": "weight-decay", "tp": "tensor-model-parallel-size",
        "pp": "pipeline-model-parallel-size", "cp": "context-parallel-size", "dp": "global-batch-size",
        "checkpoint_every_s": "save-interval",
    }  # fmt: skip
    _splits(training, flags, stated)
    _forms(training, flags, stated)
    if t["evaluated"]:
        flags |= {"eval-interval": EVALUATED_EVERY, "eval-iters": round(EVALUATED_EVERY * t["evaluated"])}
        stated["evaluated"] = "eval-iters"
    return flags, stated


def _splits(training: Training, flags: dict[str, Any], stated: dict[str, str]) -> None:
    """Stages of stages, experts, sequence parallelism, and what is sharded over data."""
    if training["pp"] > 1:
        stated["virtual_stages"] = "num-virtual-stages-per-pipeline-rank"
        flags |= _uneven(training.sizes["layers"], training["pp"] * training["virtual_stages"])
        if training["virtual_stages"] > 1:
            flags["num-virtual-stages-per-pipeline-rank"] = training["virtual_stages"]
    if training["ep"] > 1:
        flags["expert-model-parallel-size"] = training["ep"]
        stated["ep"] = "expert-model-parallel-size"
    if training["sequence_parallel"]:
        flags["sequence-parallel"] = True
        stated["sequence_parallel"] = "sequence-parallel"
    zero = training["zero"]
    if zero == 1 or (zero == 0 and training["offload"]):
        flags["use-distributed-optimizer"] = True
        stated["zero"] = "use-distributed-optimizer"
    elif zero in SHARDED and training["pp"] == 1:
        flags |= {"use-megatron-fsdp": True, "data-parallel-sharding-strategy": SHARDED[zero]}
        flags |= {"use-distributed-optimizer": True, "ckpt-format": "fsdp_dtensor"}
        stated["zero"] = "data-parallel-sharding-strategy"


def _uneven(layers: int, stages: int) -> dict[str, Any]:
    """Where stages do not divide the layers: the last one has what the others leave."""
    last = layers - -(-layers // stages) * (stages - 1)
    return {"decoder-last-pipeline-num-layers": last} if layers % stages and last > 0 else {}


def _forms(training: Training, flags: dict[str, Any], stated: dict[str, str]) -> None:
    """Precision, recomputing, offloading, and where the weights come from."""
    if training["precision"] in PRECISIONS:
        flags |= PRECISIONS[training["precision"]]
        stated["precision"] = next(iter(PRECISIONS[training["precision"]]), "bf16 left out")
    if training["recompute"] != "none":
        flags["recompute-granularity"] = training["recompute"]
        stated["recompute"] = "recompute-granularity"
    if training["recompute"] == "full":
        flags |= {"recompute-method": "uniform", "recompute-num-layers": 1}
    if training["offload"]:
        flags |= {"optimizer-cpu-offload": True, "optimizer-offload-fraction": 1.0}
        flags |= {"use-precision-aware-optimizer": True}
        stated["offload"] = "optimizer-cpu-offload"
    if training["job"] == "pretrain":
        stated["job"] = "pretrain_gpt.py"
        return
    # To begin from, its weights alone.
    flags["pretrained-checkpoint"] = tuned(training.after.place, None)[0] if training.after else "checkpoint"
    if training["job"] == "continue":
        stated["job"] = "pretrained-checkpoint"
    elif training["job"] == "sft" and training.platform != "gaudi":
        flags |= {"sft": True, "data-path": DATA, "tokenizer-type": "SFTTokenizer"}
        stated["job"] = "sft"
