"""A PEFT LoRA folder as the GGUF file that llama.cpp loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ..lora import KEY, TENSORS, lora_scale, lora_settings

NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip


def write_gguf(adapter: Path, model: Path, out: Path) -> None:
    """Raises ValueError for an adapter that is no plain LoRA of the linear layers."""
    import gguf

    from ....model import FAMILIES

    settings = lora_settings(adapter)
    config = orjson.loads((model / "config.json").read_bytes())
    form = FAMILIES[config["model_type"]].gguf
    if form is None:
        raise ValueError(f"llama.cpp stores no models of the family {config['model_type']}")
    writer = gguf.GGUFWriter(str(out), form.architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", lora_scale(settings) * settings["r"])
    for name, value in _tensors(adapter, config, form.interleaved):
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(adapter: Path, config: dict[str, Any], interleaved: bool) -> list[tuple[str, np.ndarray]]:
    from ....model import Weights

    tensors = []
    weights = Weights(adapter / TENSORS)
    for key in sorted(weights):
        match = KEY.match(key)
        if match is None or match[2] not in NAMES:
            raise ValueError(f"the adapter changes {key}, which llama.cpp cannot")
        value = weights.f32(key)
        if match[3] == "B" and interleaved and NAMES[match[2]] in ("attn_q", "attn_k"):
            heads = config["num_attention_heads"]
            value = _permuted(
                value, heads if NAMES[match[2]] == "attn_q" else config.get("num_key_value_heads", heads)
            )
        tensors.append((f"blk.{match[1]}.{NAMES[match[2]]}.weight.lora_{match[3].lower()}", value))
    return tensors


def _permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows as llama.cpp keeps those of llama: the halves of each rotated head interleaved.

    [heads * D, rank] -> [heads * D, rank] (convert_hf_to_gguf.py, permute)
    """
    rows = weight.shape[0]
    return np.ascontiguousarray(
        weight.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)
    )
