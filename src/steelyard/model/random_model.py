"""A model of given sizes with random weights, for measuring speed and memory: never for quality.."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .families import PLAIN
from .weights import write

RANGE = 0.05  # of the weights, on both sides of 0
NOISE = 2**20  # numbers that are drawn; a tensor repeats them from a place of its own
ONE = np.uint16(0x3F80)  # 1.0 in BF16: the weight of a norm


def write_random_model(
    folder: Path,
    *,
    layers: int,
    hidden: int,
    ffn: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    vocab: int,
    max_position: int = 2048,
) -> None:
    """Write config.json and model.safetensors, BF16, the head tied; equal sizes give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": PLAIN.name, "architectures": [PLAIN.architecture], "hidden_size": hidden,
        "intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": head_dim, "vocab_size": vocab, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "max_position_embeddings": max_position, "tie_word_embeddings": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    noise = np.random.default_rng(0).uniform(-RANGE, RANGE, NOISE).astype(np.float32).view(np.uint32) >> 16
    shapes = dict(_shapes(layers, hidden, ffn, heads * head_dim, kv_heads * head_dim, vocab))
    write(
        {n: ("BF16", _values(noise.astype(np.uint16), i, s)) for i, (n, s) in enumerate(shapes.items())},
        folder / "model.safetensors",
    )


def _values(noise: np.ndarray, place: int, shape: tuple[int, ...]) -> np.ndarray:
    """Each tensor begins elsewhere in the noise: OpenVINO stores equal constants once."""
    return np.full(shape, ONE) if len(shape) == 1 else np.resize(np.roll(noise, 9973 * place), shape)


def _shapes(
    layers: int, hidden: int, ffn: int, wide: int, narrow: int, vocab: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (vocab, hidden)
    yield "model.norm.weight", (hidden,)
    inner: dict[str, tuple[int, ...]] = {
        "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
        "self_attn.q_proj": (wide, hidden), "self_attn.k_proj": (narrow, hidden),
        "self_attn.v_proj": (narrow, hidden), "self_attn.o_proj": (hidden, wide),
        "mlp.gate_proj": (ffn, hidden), "mlp.up_proj": (ffn, hidden), "mlp.down_proj": (hidden, ffn),
    }  # fmt: skip
    for layer in range(layers):
        yield from ((f"model.layers.{layer}.{name}.weight", shape) for name, shape in inner.items())
