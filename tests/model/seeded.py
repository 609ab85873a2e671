"""Models whose bytes follow from numpy's generator alone: equal on every machine and with every version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.model import bf16_of, write

SIZES: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "tie_word_embeddings": True},
    "llama-rope": {
        "model_type": "llama",
        "tie_word_embeddings": False,
        "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True, "use_sliding_window": False},
    "qwen3": {"model_type": "qwen3", "tie_word_embeddings": False},
    "mistral": {"model_type": "mistral", "tie_word_embeddings": False, "sliding_window": 32},
}  # fmt: skip


def model(folder: Path, case: str) -> Path:
    """A random model of the case in BF16, with a tokenizer that reads bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**SIZES, **CASES[case]}
    draw = np.random.default_rng(list(CASES).index(case))
    tensors = {name: ("BF16", _values(draw, name, shape)) for name, shape in shapes(config).items()}
    write(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    _tokenizer(folder)
    return folder


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    h, f, d = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * d, config["num_key_value_heads"] * d
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], h)}
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        inner = {
            "self_attn.q_proj": (q, h), "self_attn.k_proj": (kv, h), "self_attn.v_proj": (kv, h),
            "self_attn.o_proj": (h, q), "mlp.gate_proj": (f, h), "mlp.up_proj": (f, h),
            "mlp.down_proj": (h, f), "input_layernorm": (h,), "post_attention_layernorm": (h,),
        }  # fmt: skip
        if config["model_type"] == "qwen3":
            inner |= {"self_attn.q_norm": (d,), "self_attn.k_norm": (d,)}
        found |= {f"{at}{name}.weight": shape for name, shape in inner.items()}
        if config["model_type"] == "qwen2":
            found |= {f"{at}self_attn.{p}_proj.bias": (q if p == "q" else kv,) for p in "qkv"}
    found["model.norm.weight"] = (h,)
    return found if config["tie_word_embeddings"] else {**found, "lm_head.weight": (config["vocab_size"], h)}


def _values(draw: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    centre = 1.0 if "norm" in name else 0.0
    # Uniform, not normal: its bits follow from integers alone, on every processor.
    return bf16_of((centre + 0.6 * (draw.random(shape, np.float32) - 0.5)).astype(np.float32))


def _tokenizer(folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    inner = Tokenizer(models.BPE({c: i for i, c in enumerate([*specials, *alphabet])}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(token, special=True) for token in specials])
    inner.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
