"""A model of a known shape with random weights, for speed, memory and start: never for quality.

    python bench/random_model.py SHAPE OUT [--tokenizer FOLDER]

Sizes from the models' published config.json; weights N(0, 0.02) in BF16, equal for equal shape. The tokenizer
is that of FOLDER (a Hugging Face folder; default: the packaged model), so ids stay below the vocabulary.

llama-3-8b (16 GB) is made to be gated: its layers add little to the residual stream, so that roundings do not
grow into chaos, and ids that the tokenizer does not have are as good as never drawn.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.model import Tokenizer, bf16_of, f32_of, resolve, to_hf
from steelyard.model.weights import write_each

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 49152,
    },
    "smollm2-360m": {
        "hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 15,
        "num_key_value_heads": 5, "head_dim": 64, "vocab_size": 49152,
    },
    "qwen3-0.6b": {
        "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
    },
    "qwen3-1.7b": {
        "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
    },
    "qwen3-4b": {
        "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
    },
    "llama-3-8b": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256,
    },
}  # fmt: skip
APART = ("llama-3-8b",)  # the head is a matrix of its own
CALM = 1 / 32  # of the matrices that write into the residual stream
MARK, AWAY = 0.08, -8.0  # embedding's first column, and the head's where an id has no text
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def config(name: str) -> dict[str, Any]:
    kind = "Qwen3" if name.startswith("qwen3") else "Llama"
    return {
        "architectures": [f"{kind}ForCausalLM"], "model_type": kind.lower(), "rms_norm_eps": 1e-6,
        "rope_theta": 1e6, "max_position_embeddings": 40960, "tie_word_embeddings": name not in APART,
        "attention_bias": False, "hidden_act": "silu", "torch_dtype": "bfloat16", "use_sliding_window": False,
        "bos_token_id": 1, "eos_token_id": 2, **SHAPES[name],
    }  # fmt: skip


def tensors(name: str) -> dict[str, tuple[int, ...]]:
    s = SHAPES[name]
    hidden, ffn, head = s["hidden_size"], s["intermediate_size"], s["head_dim"]
    wide, narrow = s["num_attention_heads"] * head, s["num_key_value_heads"] * head
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (s["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    if name in APART:
        found["lm_head.weight"] = (s["vocab_size"], hidden)
    for layer in range(s["num_hidden_layers"]):
        parts = {
            "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
            "self_attn.q_proj": (wide, hidden), "self_attn.k_proj": (narrow, hidden),
            "self_attn.v_proj": (narrow, hidden), "self_attn.o_proj": (hidden, wide),
            "mlp.gate_proj": (ffn, hidden), "mlp.up_proj": (ffn, hidden), "mlp.down_proj": (hidden, ffn),
        }  # fmt: skip
        if name.startswith("qwen3"):
            parts |= {"self_attn.q_norm": (head,), "self_attn.k_norm": (head,)}
        found |= {f"model.layers.{layer}.{part}.weight": shape for part, shape in parts.items()}
    return found


def make(shape: str, out: Path, tokenizer: Path | None = None) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        source = tokenizer or Path(scratch)
        if tokenizer is None:
            to_hf(resolve("demo", "."), source)
        for name in TOKENIZER:
            if (source / name).exists():
                shutil.copyfile(source / name, out / name)
    texts = Tokenizer(out).vocab_size
    noise = (np.random.default_rng(0).standard_normal(2**22, np.float32) * 0.02).view(np.uint32) >> 16
    noise = noise.astype(np.uint16)
    one = np.uint16(0x3F80)  # 1.0 in BF16: a norm's weight
    shapes = tensors(shape)
    place = {name: n for n, name in enumerate(shapes)}

    def values(name: str) -> np.ndarray:
        """Each tensor begins elsewhere in the noise: an engine stores equal constants once."""
        dims = shapes[name]
        if len(dims) == 1:
            return np.full(dims, one)
        drawn = noise
        if shape in APART and name.endswith(("o_proj.weight", "down_proj.weight")):
            drawn = bf16_of(f32_of(noise, "BF16") * np.float32(CALM))
        return np.resize(np.roll(drawn, 9973 * place[name]), dims)

    def calm(name: str) -> np.ndarray:
        made = values(name)
        if shape in APART and name == "model.embed_tokens.weight":
            made[:, 0] = bf16_of(np.float32([MARK]))[0]
        if shape in APART and name == "lm_head.weight":
            made[:, 0] = 0
            made[texts:, 0] = bf16_of(np.float32([AWAY]))[0]
        return made

    write_each({name: ("BF16", dims) for name, dims in shapes.items()}, calm, out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(config(shape), indent=2) + "\n")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=tuple(SHAPES))
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    args = parser.parse_args()
    print(make(args.shape, args.out, args.tokenizer))


if __name__ == "__main__":
    main()
