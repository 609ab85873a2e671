"""Names of a dense decoder's weights, as Hugging Face and as llama.cpp have them; rows that one moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .families import Decoder, Names

OUTER = {"token_embd": "embedding", "output_norm": "norm", "output": "head"}  # to the fields of Names
INNER = {
    "attn_norm": "attention_norm", "ffn_norm": "mlp_norm", "attn_q": "query", "attn_k": "key",
    "attn_v": "value", "attn_output": "output", "attn_q_norm": "query_norm", "attn_k_norm": "key_norm",
    "ffn_gate": "gate", "ffn_up": "up", "ffn_down": "down",
}  # fmt: skip
ROPE_FACTORS = "rope_freqs.weight"  # llama 3 scaling, as a factor a frequency


def hf_stem(stem: str, names: Names) -> str | None:
    """blk.3.attn_q -> model.layers.3.self_attn.q_proj; None for a tensor of another kind of model."""
    if stem in OUTER:
        return str(getattr(names, OUTER[stem]))
    parts = stem.split(".", 2)
    if len(parts) == 3 and parts[0] == "blk" and parts[2] in INNER:
        return f"{names.layer.format(parts[1])}{getattr(names, INNER[parts[2]])}"
    return None


def gguf_stems(decoder: Decoder) -> Iterator[str]:
    """Every matrix and norm that such a model may have, in the order in which llama.cpp reads them."""
    yield "token_embd"
    for layer in range(decoder.layers):
        yield from (f"blk.{layer}.{inner}" for inner in INNER)
    yield "output_norm"
    if not decoder.tied:
        yield "output"


@dataclass(frozen=True, slots=True)
class Interleaved:
    """llama.cpp interleaves the two halves of each rotated head (convert_hf_to_gguf.py, permute)."""

    heads: int

    def done(self, weight: np.ndarray) -> np.ndarray:
        """[heads * D, ...] as llama.cpp has its rows."""
        rows = weight.shape[0]
        halves = weight.reshape(self.heads, 2, rows // self.heads // 2, *weight.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))

    def undone(self, weight: np.ndarray) -> np.ndarray:
        rows = weight.shape[0]
        pairs = weight.reshape(self.heads, rows // self.heads // 2, 2, *weight.shape[1:])
        return pairs.swapaxes(1, 2).reshape(weight.shape)
