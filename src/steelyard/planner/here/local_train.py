"""Time and memory of a training step on this machine, from calibrated rates.

Counts follow what the loop does: rows packed without padding, attention within each row, the head at
answer positions only, nothing recomputed, float32 masters of what is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from steelyard.hardware import Calibration
from steelyard.shape import Shape

from ..job.abilities import held_rows
from ..job.facts import DataFacts
from .rates import Rates, Row, Terms, fit_rates, line

NARROW = 16  # rank below which a product with a LoRA factor takes no less time (AVX-512, one Zen 4 core)
# A trained weight: norm 4, clipping 8, AdamW 16 read and 12 written, its copy 6, gradient set to zero 4.
UPDATE_BYTES = 50.0
CHUNK_ROWS = 256  # of logits at a time in the head
BUCKET_TOKENS = 32  # rows of like length go through attention together, padded to a multiple of it
FILE_BYTES = 2.0  # a weight, as models are published
# Times each term before any row. One, but for activations: what the C allocator keeps of the memory between
# tensors of many sizes, 1.3 to 1.45 times in 14 cells of 2 to 30 layers (glibc 2.36, one Zen 4 core).
HELD = {"start": 3.1e8} | dict.fromkeys(("file", "copies", "state", "working", "logits", "table"), 1.0)
HELD["activations"] = 1.35


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """What the data make of a stage: sequences, steps and tokens of one step."""

    steps: int
    tokens: float  # trained on in all
    micro_steps: float  # micro-batches of a full step
    micro_tokens: float  # of a mean micro-batch
    most_tokens: float  # of the fullest micro-batch
    row_tokens: float  # keys that attention computes a token, padding included
    answer_share: float


def packed(facts: DataFacts, settings: Mapping[str, Any]) -> Packed:
    """Walk examples into sequences as the loop does, with the sample of lengths as it stands.

    A sequence closes when the next example does not fit. A row has several examples where the template
    rewrites history, so that they are counted by their tokens.
    """
    facts, each = of_kind(facts, settings)
    limit, epochs = settings["max_length"], float(settings["num_train_epochs"])
    lengths = within(facts.lengths, settings) or [min(limit, max(1, round(facts.mean_length)))]
    mean = sum(lengths) / len(lengths)
    share = sum(lengths) / sum(facts.lengths) if facts.lengths else 1.0
    taught = 1.0 - _held_share(facts, settings)
    tokens = taught * (facts.tokens * share if facts.lengths else facts.rows * mean)
    rows = max(1, round(tokens / mean * epochs))
    fill = [float(n) for n in lengths]
    if settings.get("packing", True):
        fill = _sequences(lengths, settings.get("pack_length") or limit)
    rows_each = len(lengths) / len(fill)
    sequences = rows / rows_each
    micro, accum = settings["micro_batch"] * each, settings["grad_accum"]
    steps = max(1, ceil(ceil(sequences / micro) / accum))
    if settings.get("max_steps"):
        steps = settings["max_steps"]
        rows = round(steps * accum * micro * rows_each)
    full = min(accum, max(1.0, sequences / micro))
    micro_tokens = micro * sum(fill) / len(fill)
    return Packed(
        steps=steps,
        tokens=rows * mean,
        micro_steps=full,
        micro_tokens=min(micro_tokens, rows * mean),
        most_tokens=min(micro * max(fill), rows * mean),
        row_tokens=sum(n * n for n in padded(lengths)) / sum(lengths),
        answer_share=facts.answer_share,
    )


def _held_share(facts: DataFacts, settings: Mapping[str, Any]) -> float:
    """Of the rows, those that a stage holds out for its looks."""
    if "steer" in settings or "lift" in settings:
        return held_rows(facts, settings) / max(1, facts.rows)
    return float(settings.get("val_size", 0.0))


def of_kind(facts: DataFacts, settings: Mapping[str, Any]) -> tuple[DataFacts, int]:
    """What a stage sees where some data are answers to compare; sequences a row, all of one length."""
    pairs, labels = facts.pairs or 0, facts.labels or 0
    if writing(settings):
        return sampled(facts, settings["method"].get("num_generations", 1)), 1
    if not pairs + labels or settings.get("rows") == "texts":
        return facts, 1
    each = 2 if settings["rows"] == "pairs" else 1
    rows = {"pairs": pairs, "labels": labels}.get(settings["rows"], facts.rows - pairs - labels)
    tokens = round(facts.tokens * rows * each / (facts.rows + pairs))
    return replace(facts, rows=rows, tokens=tokens), each


def writing(settings: Mapping[str, Any]) -> bool:
    """Whether the model itself writes the answers that it learns from."""
    lmbda = (settings.get("method") or {}).get("lmbda")
    return settings.get("stage") == "grpo" or (settings.get("stage") == "distil" and bool(lmbda))


def stays_near(settings: Mapping[str, Any]) -> bool:
    """Whether the base is asked once for tokens of the prompts."""
    return settings.get("stage") == "sft" and bool((settings.get("method") or {}).get("beta"))


def sampled(facts: DataFacts, answers: int) -> DataFacts:
    """Chats alone, each as often as answers are sampled to it, as long as its own answer."""
    rows = facts.rows - (facts.pairs or 0) - (facts.labels or 0) - (facts.texts or 0)
    return replace(facts, rows=rows * answers, tokens=round(facts.tokens * rows / facts.rows) * answers)


def within(lengths: Sequence[int], settings: Mapping[str, Any]) -> list[int]:
    """Examples after `overlong`: split into parts of max_length at most, cut to it, or dropped."""
    limit, overlong = settings["max_length"], settings.get("overlong", "split")
    if overlong == "drop":
        return [n for n in lengths if n <= limit]
    if overlong == "truncate":
        return [min(n, limit) for n in lengths]
    return [part for n in lengths for part in (*[limit] * (n // limit), n % limit) if part]


def padded(lengths: Sequence[int]) -> list[int]:
    """Each row as long as attention computes it: up to the longest between two powers of two."""
    buckets = [max(BUCKET_TOKENS, 1 << (n - 1).bit_length()) for n in lengths]
    longest = {b: max(n for n, own in zip(lengths, buckets, strict=True) if own == b) for b in set(buckets)}
    return [-(-longest[b] // BUCKET_TOKENS) * BUCKET_TOKENS for b in buckets]


def _sequences(lengths: list[int], limit: int) -> list[float]:
    sequences, filled = [], 0
    for n in lengths:
        if filled and filled + n > limit:
            sequences.append(float(filled))
            filled = 0
        filled += n
    return [*sequences, float(filled)]


# ------------------------------------------------------------------ terms


def layer_weights(s: Row) -> float:
    """Matrix weights of all layers."""
    q, kv = s["heads"] * s["head_dim"], s["kv_heads"] * s["head_dim"]
    return s["layers"] * s["hidden"] * (2.0 * q + 2.0 * kv + 3.0 * s["ffn"])


def step_terms(s: Row) -> Terms:
    """Work of one micro-batch forward and backward. `s`: sizes, tokens, answer_tokens, seq_len, lora_rank."""
    lora = s["finetuning_type"] == "lora"
    again = 1.0 if s.get("gradient_checkpointing") else 0.0  # forward once more
    passes = (2.0 if lora else 3.0) + again  # forward and the gradient of inputs; full: of weights too
    tokens, answers, weights = s["tokens"], s["answer_tokens"], layer_weights(s)
    width = s["hidden"] * 22.0 + s["ffn"] * 6.0
    attention = 4.0 * s["layers"] * s["heads"] * s["head_dim"] * tokens * s["seq_len"] / 2
    adapters = 6.0 * tokens * _adapter_products(s) if lora else 0.0
    return {
        "gemm": 2.0 * tokens * weights * passes,
        "gemm_narrow": 2.0 * tokens * weights * passes * 256.0 / s["hidden"],
        "adapters": adapters,
        "head": 2.0 * answers * s["vocab"] * s["hidden"] * (passes - again),
        "softmax": answers * s["vocab"] * 4.0 * 6,
        "attention": attention * (3.5 + again),
        "elementwise": (2.4 + again) * 2 * s["layers"] * tokens * width,
        "layers": float(s["layers"]),
        "start": 1.0,
    }


def _adapters(s: Row) -> float:
    q, kv, h, f = s["heads"] * s["head_dim"], s["kv_heads"] * s["head_dim"], s["hidden"], s["ffn"]
    return s["layers"] * s.get("lora_rank", 0) * (2.0 * (h + q) + 2 * (h + kv) + 3 * (h + f))


def _adapter_products(s: Row) -> float:
    """Products a token with the factors as the loop stacks them: q, k, v as one, gate and up as one.

    A stacked B holds zeros outside its blocks, and a rank below NARROW takes as long as NARROW.
    """
    q, kv, h, f = s["heads"] * s["head_dim"], s["kv_heads"] * s["head_dim"], s["hidden"], s["ffn"]
    sides = [(3, h + q + 2.0 * kv), (1, q + h), (2, h + 2.0 * f), (1, f + h)]
    return s["layers"] * sum(max(NARROW, n * s.get("lora_rank", 0)) * width for n, width in sides)


def optimiser_terms(s: Row) -> Terms:
    """Gradient's norm and clipping, AdamW, new copies: passes over float32 vectors.

    Of LoRA each layer's factors are gathered and handed out one by one.
    """
    lora = s["finetuning_type"] == "lora"
    return {
        "start": 1.0,
        "layers": float(s["layers"]) if lora else 0.0,
        "bytes": UPDATE_BYTES * trained_params(s),
    }


def params_of(s: Row) -> float:
    """All weights of a tied model of these sizes."""
    return layer_weights(s) + s["vocab"] * s["hidden"]


def trained_params(s: Row) -> float:
    """Weights that the optimiser holds."""
    return _adapters(s) if s["finetuning_type"] == "lora" else s.get("params") or params_of(s)


def memory_terms(s: Row) -> Terms:
    """Bytes held at the peak of a training process, in the backward pass.

    LoRA keeps the base's file mapped and, beside it, what is joined (q, k, v; gate, up); full fine-tuning
    keeps a copy of every weight in the compute dtype. `activations` are what a layer's own kernels save:
    two norms in and out, q, k, v, the attention's output, gate, up, their product. `working` are gradients
    inside one MLP, `table` the head's product with its matrix: a gradient or another layout of it.
    """
    compute, lora = 2.0 if s["dtype"] == "bf16" else 4.0, s["finetuning_type"] == "lora"
    params, trained, tokens = s.get("params") or params_of(s), trained_params(s), s["tokens"]
    q, kv, h, f = s["heads"] * s["head_dim"], s["kv_heads"] * s["head_dim"], s["hidden"], s["ffn"]
    joined = s["layers"] * h * (q + 2.0 * kv + 2.0 * f)
    copied = params if compute < 4 else 0.0  # float32 trains the masters themselves
    inner = tokens * (4.0 * h + 2.0 * q + 2.0 * kv + 3.0 * f) * compute  # of one layer
    layers = s["layers"]
    kept = inner + layers * tokens * h * 4.0 if s.get("gradient_checkpointing") else layers * inner
    return {
        "start": 1.0,
        "file": params * FILE_BYTES if lora else 0.0,
        "copies": (joined if lora else copied) * compute,
        "state": trained * 16.0,
        "activations": kept,
        "working": tokens * (2.0 * h + 6.0 * f) * compute,
        "logits": min(CHUNK_ROWS, s["answer_tokens"]) * s["vocab"] * 8.0,
        "table": float(s["vocab"] * h) * compute,
    }


# ------------------------------------------------------------------ this machine


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRates:
    """Everything that calibration says about training here."""

    step: Rates
    optimiser: Rates
    memory: Rates
    load: Rates
    write: Rates
    checkpoint: Rates
    start_s: float


def flops_per_s(calibration: Calibration) -> float:
    """FP32 GEMM rate of this machine's BLAS at the largest m, 50 GFLOP/s where it was not measured."""
    return max((r["flops_per_s"] for r in calibration.of("gemm")), default=5e10)


def bytes_per_s(calibration: Calibration) -> float:
    """Memory rate, 10 GB/s where it was not measured."""
    return max((r["bytes_per_s"] for r in calibration.of("triad")), default=1e10)


def train_rates(calibration: Calibration, finetuning_type: str, dtype: str) -> TrainRates:
    """Fit all rates from the rows of `training.probe`; own micro-benchmarks are the priors."""
    rows = [r for r in calibration.of("train_micro") if r["dtype"] == dtype]
    same = [r for r in rows if r["finetuning_type"] == finetuning_type] or rows
    flops = flops_per_s(calibration) * (2.0 if dtype == "bf16" else 1.0)
    memory = bytes_per_s(calibration)
    priors = {
        "gemm": 0.8 / flops,
        "gemm_narrow": 1.0 / flops,
        "adapters": 1.3 / flops,
        "head": 1 / flops,
        "softmax": 1 / memory,
        "attention": 6 / flops,
        "elementwise": 1 / memory,
        "layers": 1e-3,
        "start": 2e-3,
    }
    starts = calibration.of("train_start")
    held = HELD | ({"start": float(starts[0]["rss_bytes"])} if starts else {})
    disk = max((r["bytes_per_s"] for r in calibration.of("file_write")), default=3e8)
    return TrainRates(
        # Full fine-tuning runs other kernels: with three rows of its own kind a fit needs no others.
        step=fit_rates(same if len(same) >= 3 else rows, step_terms, priors),
        optimiser=fit_rates(
            rows, optimiser_terms, {"start": 5e-4, "layers": 4e-4, "bytes": 1 / memory}, "optimiser_s"
        ),
        memory=fit_rates(rows, memory_terms, held, "rss_bytes", sure=("file", "copies", "state")),
        load=line(same, params_of, "load_s", (0.05, 4 / memory + 1e-9)),
        write=line(same, params_of, "write_s", (0.05, 2 / disk)),
        checkpoint=line(rows, lambda r: r["checkpoint_bytes"], "checkpoint_s", (0.02, 1 / disk)),
        start_s=float(starts[0]["s"]) if starts else 3.0,
    )


def layers_of(shape: Shape) -> dict[str, Any]:
    """A shape in the words of every calibration row."""
    return {
        "layers": shape.layers,
        "hidden": shape.hidden,
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "ffn": shape.ffn,
        "vocab": shape.vocab,
    }


def sizes_of(shape: Shape, settings: Mapping[str, Any], run: Packed, tokens: float) -> dict[str, Any]:
    """One micro-batch of a job in the words of a calibration row."""
    return {
        "finetuning_type": settings["finetuning_type"],
        "dtype": settings["dtype"],
        "lora_rank": settings["lora_rank"],
        "gradient_checkpointing": bool(settings.get("gradient_checkpointing")),
        **layers_of(shape),
        "params": float(shape.params),
        "tokens": tokens,
        "answer_tokens": max(1.0, tokens * run.answer_share),
        "seq_len": run.row_tokens,
    }
