"""Time and memory of pruning on this machine, from the calibrated rates of training.

Counts follow what the step does (compression/importance.py): a few layers are tried for each that goes, then
widths are fitted layer by layer over the rows. Of a mixture of experts all rows pass once
(compression/experts).
"""

from __future__ import annotations

from steelyard.shape import Shape

from .engines import LIBRARY_BYTES, START_S, TRL
from .local_train import TrainRates, layer_weights, layers_of, step_terms

PASS_TOKENS = 1024.0  # of one pass
LAYER_TOKENS, TOKENS = 1024.0, 8192.0  # that layers are chosen by, and that widths are fitted to
TRIED = 6  # layers that are tried for each that goes, from half-way up in the mean
F32 = 2.0  # times the arithmetic of BF16 that float32 takes
F64 = 4.0
ROW_TOKENS = 128.0  # keys that attention computes a token


def forward_s(shape: Shape, rates: TrainRates, tokens: float, dtype: str, head: float = 0.5) -> float:
    """Seconds of so many tokens through a model; `head`: the share of them that reaches the vocabulary."""
    row = {
        "finetuning_type": "full",
        "dtype": dtype,
        "lora_rank": 0,
        **layers_of(shape),
        "params": float(shape.params),
        "tokens": PASS_TOKENS,
        "answer_tokens": PASS_TOKENS * head,
        "seq_len": ROW_TOKENS,
    }
    return (
        rates.step.total(step_terms(row)) / 3 * tokens / PASS_TOKENS
    )  # a step is forward and twice backward


def prune_parts(shape: Shape, left: Shape, rates: TrainRates, dtype: str) -> dict[str, float]:
    """Seconds of choosing layers, of fitting widths, of writing what is left."""
    tried = sum((1 + TRIED / 2) * n / shape.layers for n in range(left.layers + 1, shape.layers + 1))
    parts = {"layers": tried * forward_s(shape, rates, LAYER_TOKENS, dtype, head=0.0)}
    if (left.ffn, left.kv_heads) != (shape.ffn, shape.kv_heads):
        parts["widths"] = _widths_s(shape, left, rates, dtype)
    return parts | {"write": rates.write.total({"start": 1.0, "each": float(left.params)})}


def _widths_s(shape: Shape, left: Shape, rates: TrainRates, dtype: str) -> float:
    """Two passes in float32, the Gram matrices of what comes in, their inverses."""
    share = left.layers / shape.layers
    passes = 2 * F32 * share * forward_s(shape, rates, TOKENS, dtype, head=0.0)
    wide = shape.heads * shape.head_dim
    gram = 2 * TOKENS * (shape.ffn**2 + wide**2) * F32
    inverses = (shape.ffn**3 + wide**3 + 2 * shape.hidden * shape.ffn * left.ffn) * F64
    return passes + left.layers * (gram + inverses) * rates.step.of.get("gemm", 2e-11)


def prune_peak_bytes(shape: Shape, dtype: str) -> float:
    """The network, one layer more in float32 with its Gram matrices, hidden states, what is written."""
    each = 2.0 if dtype == "bf16" else 4.0
    layer = layer_weights(layers_of(shape)) / shape.layers * 4 + 5 * 8.0 * shape.ffn**2
    states = 4.0 * shape.hidden * (LAYER_TOKENS * (shape.layers + 1) + TOKENS * 2)
    return shape.params * (each + 2.0 + 2.0) + layer + states


def routing_parts(
    shape: Shape, left: Shape, rates: TrainRates, tokens: float, dtype: str
) -> dict[str, float]:
    """Seconds of counting what routers pick over all rows, by transformers, and of writing what is left."""
    slower = TRL["lora", "f32" if dtype == "f32" else "bf16"].time
    counted = forward_s(shape, rates, tokens, dtype, head=0.0) * slower
    return {
        "start": START_S,
        "routes": counted,
        "write": rates.write.total({"start": 1.0, "each": float(left.params)}),
    }


def routing_peak_bytes(shape: Shape, dtype: str) -> float:
    """The model in transformers' process, and what is read of it to be written."""
    return LIBRARY_BYTES + shape.params * ((2.0 if dtype == "bf16" else 4.0) + 2.0)
