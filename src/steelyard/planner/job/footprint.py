"""Bytes that training and serving hold, from sizes alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steelyard.shape import Shape


def lora_params(shape: Shape, rank: int) -> int:
    """Adapter weights on all seven projections of each layer: rank * (inputs + outputs) each."""
    h, f = shape.hidden, shape.ffn
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    widths = 2 * (h + q) + 2 * (h + kv) + (3 if shape.gated else 2) * (h + f)
    return shape.layers * rank * widths


def layer_activation_bytes(shape: Shape, tokens: int, bytes_each: int = 2) -> float:
    """What one layer keeps for backward without recomputation, fused attention.

    After Korthikanti et al. 2022 (arXiv 2205.05198, equation 1) with the terms of a gated MLP and RMS
    norms: two norm inputs and outputs, q, k, v, the attention output, gate, up, their product.
    """
    h, f = shape.hidden, shape.ffn
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    values = 4 * h + 2 * q + 2 * kv + q + (4 if shape.gated else 2) * f
    return float(values) * tokens * bytes_each


def training_bytes(settings: Mapping[str, Any], shape: Shape, answer_share: float) -> float:
    """Peak bytes of tensors in one training process: weights, gradients, AdamW, activations, logits.

    BF16 compute keeps an FP32 master of what it trains; frozen weights stand once.
    """
    compute = 2 if settings["dtype"] == "bf16" else 4
    tokens = settings["micro_batch"] * settings["max_length"]
    if settings["finetuning_type"] == "lora":
        trained = lora_params(shape, settings["lora_rank"])
        fixed = shape.params * compute + trained * 16
    else:
        fixed = shape.params * (16 + (2 if compute == 2 else 0))
    logits = tokens * answer_share * shape.vocab * 4 * 2
    inner = layer_activation_bytes(shape, tokens, compute)
    if settings.get("gradient_checkpointing"):  # each layer's input, float32, and one layer's inner values
        return fixed + shape.layers * shape.hidden * tokens * 4 + inner + logits
    return fixed + shape.layers * inner + logits
