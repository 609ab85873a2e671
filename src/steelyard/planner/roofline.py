"""Time and memory of any job on any device: the plainest roofline, over whole arrays of candidates.

Every argument that varies may be a numpy array; arrays broadcast. Each part of a time is returned apart,
and the parts sum to the whole. Not here: which candidates there are (search.py), prices (cost.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from steelyard.shape import Shape

from .constants import PRIORS, Constants

Array = Any  # a float or a numpy array of them
RECOMPUTE = {"none": 0, "selective": 1, "full": 2}
LINK_SHARE = 0.7  # of a link's rate that a ring sustains (NCCL bus bandwidth at 256 MiB, A100 8-way: 215/300)
DEFAULT_NIC_BYTES_PER_S = 12.5e9  # 100 Gb/s where the catalogue names no network
USABLE_MEMORY = 0.92  # the allocator, the runtime's context and fragments keep the rest
RUNTIME_BYTES = 1.2e9  # context of driver and libraries, collective buffers


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What the roofline needs of a device; numbers or arrays, in FLOP/s, bytes and bytes/s."""

    peak: Array
    bandwidth: Array
    memory: Array
    scaleup: Array  # one device, one direction
    scaleout: Array
    node: Array  # devices that reach each other over the scale-up links


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSetup:
    """One training configuration, or arrays of them. d = devices / (t * p)."""

    devices: Array
    t: Array = 1
    p: Array = 1
    micro_batch: Array = 1
    global_batch: Array = 32
    seq_len: Array = 2048
    recompute: Array = 0  # see RECOMPUTE
    zero: Array = 1
    low_precision: Array = 0  # 1 for FP8 and FP4
    lora: Array = 0
    extra_forward: Array = 0.0  # forwards by a reference or teacher model: 1 for DPO and distillation


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A model's sizes; numbers or arrays of them."""

    params: Array
    active: Array
    layers: Array
    hidden: Array
    attention_flops: Array  # forward, a token, at this sequence length
    idle: Array = 0.0  # weights of experts that one token does not pass through
    kv_bytes: Array = 0.0  # a token, all layers
    vocab: Array = 32000

    @staticmethod
    def of(shape: Shape, seq_len: int, kv_dtype: str = "bf16") -> Sizes:
        """The sizes of one shape at a sequence length."""
        table = 0 if shape.tied else shape.vocab * shape.hidden
        active = shape.active_params - table
        return Sizes(
            params=shape.params,
            active=active,
            idle=shape.params - shape.active_params,
            layers=shape.layers,
            hidden=shape.hidden,
            attention_flops=shape.forward_flops_per_token(seq_len) - 2 * active,
            kv_bytes=shape.kv_bytes_per_token(kv_dtype),
            vocab=shape.vocab,
        )


def forward_flops(sizes: Sizes) -> Array:
    """Operations a token forward: 2 a weight used, plus causal attention (Kaplan et al. 2020, table 1)."""
    return 2.0 * sizes.active + sizes.attention_flops


def train_flops(sizes: Sizes, setup: TrainSetup) -> Array:
    """Operations a token, recomputation counted: 3 forwards (2 for LoRA), +1 with full recompute.

    Narayanan et al. 2021 (arXiv 2104.04473, appendix); selective recompute repeats attention alone
    (Korthikanti et al. 2022, arXiv 2205.05198, section 5).
    """
    passes = np.where(np.asarray(setup.lora) > 0, 2.0, 3.0) + np.equal(setup.recompute, 2)
    passes = passes + setup.extra_forward
    repeated = np.where(np.equal(setup.recompute, 1), sizes.attention_flops, 0.0)
    return forward_flops(sizes) * passes + repeated


def train_step_s(
    sizes: Sizes, setup: TrainSetup, hardware: Hardware, constant: dict[str, Array]
) -> dict[str, Array]:
    """Seconds of one optimiser step, by parts: gemm, launch, bubble, tp, dp.

    `constant` maps the names of PRIORS to values. Pipeline bubble (p - 1) / M: Narayanan et al. 2021,
    section 2.2; four all-reduces a layer: Shoeybi et al. 2019 (arXiv 1909.08053); ring all-reduce moves
    2 (n - 1) / n of the message (Thakur et al. 2005).
    """
    t, p = np.asarray(setup.t, float), np.asarray(setup.p, float)
    d = np.maximum(1.0, np.asarray(setup.devices, float) / (t * p))
    micro_steps = np.maximum(1.0, setup.global_batch / (d * setup.micro_batch))
    tokens = micro_steps * setup.micro_batch * setup.seq_len * d
    low = np.where(np.asarray(setup.low_precision) > 0, constant["train.low_precision"], 1.0)
    rate = hardware.peak * constant["train.efficiency"] * low
    gemm = tokens * train_flops(sizes, setup) / (setup.devices * rate)
    launch = micro_steps * sizes.layers / p * constant["train.layer_s"]
    bubble = (gemm + launch) * constant["train.bubble"] * (p - 1) / micro_steps
    near: Array = t <= hardware.node
    rate_of_link: Array = np.where(near, hardware.scaleup, hardware.scaleout)
    link = LINK_SHARE * rate_of_link
    messages = 4 + 2 * np.equal(setup.recompute, 2)
    width = 2.0 * setup.micro_batch * setup.seq_len * sizes.hidden
    tp = micro_steps * sizes.layers / p * messages * width * 2 * (t - 1) / t / np.maximum(link, 1e6)
    return {
        "gemm": gemm,
        "launch": launch,
        "bubble": bubble,
        "tp": tp * constant["train.communication"],
        "dp": data_parallel_s(sizes, setup, hardware, t * p, d, micro_steps)
        * constant["train.communication"],
    }


def data_parallel_s(
    sizes: Sizes, setup: TrainSetup, hardware: Hardware, split: Array, d: Array, micro_steps: Array
) -> Array:
    """Ring time of gradients (ZeRO 1), or of weights and gradients a micro-batch (ZeRO 3), a third exposed.

    Rajbhandari et al. 2020 (arXiv 1910.02054, section 7). The rest hides behind the backward pass.
    """
    trained = np.where(np.asarray(setup.lora) > 0, 0.01, 1.0)
    held = 2.0 * sizes.params / split
    rounds = np.where(np.equal(setup.zero, 3), 2.0 * np.minimum(micro_steps, 4) + trained, 2.0 * trained)
    near: Array = np.asarray(setup.devices) <= hardware.node
    rate: Array = np.where(near, hardware.scaleup, hardware.scaleout)
    link = np.maximum(LINK_SHARE * rate, 1e6)
    return rounds * held * (d - 1) / d / link / 3


def train_memory_bytes(shape: Shape, setup: TrainSetup) -> Array:
    """Bytes one device holds: weights 2, gradients 4, AdamW 12 a parameter, activations, logits.

    Split by t and p, optimiser by d from ZeRO 1, everything by d at ZeRO 3. Activations a layer:
    34 s b h / t selective, 2 s b h full, 34 s b h + fused attention none (Korthikanti et al. 2022, table 2);
    min(M, p) micro-batches in flight.
    """
    t, p = np.asarray(setup.t, float), np.asarray(setup.p, float)
    d = np.maximum(1.0, np.asarray(setup.devices, float) / (t * p))
    held = shape.params / (t * p)
    lora = np.asarray(setup.lora) > 0
    zero = np.asarray(setup.zero)
    weights = 2.0 * held / np.where(zero == 3, d, 1.0)
    trained = np.where(lora, 0.01, 1.0) * held
    state = trained * (4.0 / np.where(zero == 3, d, 1.0) + 12.0 / np.where(zero >= 1, d, 1.0))
    width = np.asarray(setup.micro_batch, float) * setup.seq_len * shape.hidden
    each = np.where(np.equal(setup.recompute, 2), 2.0, 34.0) * width / t
    flight = np.minimum(np.maximum(1.0, setup.global_batch / (d * setup.micro_batch)), p)
    logits = 6.0 * setup.micro_batch * setup.seq_len * shape.vocab / t
    return weights + state + each * shape.layers / p * flight + 34.0 * width / t + logits + RUNTIME_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSetup:
    """One serving configuration, or arrays: `batch` requests in flight on one replica of t * p devices."""

    t: Array = 1
    p: Array = 1
    batch: Array = 1
    prompt: Array = 128
    output: Array = 64
    weight_bits: Array = 16


def serve_s(
    sizes: Sizes, setup: ServeSetup, hardware: Hardware, constant: dict[str, Array]
) -> dict[str, dict[str, Array]]:
    """Seconds of the prefill of one request and of one decode step, each by parts.

    Decode reads the active weights and the KV cache once a step and computes 2 operations a weight and
    sequence (Pope et al. 2022, arXiv 2211.05102, section 2); a mixture of experts reads
    E (1 - (1 - k/E)^batch) experts (planner.md section 5). Pipeline stages serve one after the other.
    """
    t = np.asarray(setup.t, float)
    stack = constant["serve.stack"]
    rate = hardware.peak * constant["serve.compute"] * t
    memory = hardware.bandwidth * constant["serve.bandwidth"] * t
    chosen = np.clip(sizes.active / sizes.params, 0.0, 1.0)
    touched = 1 - (1 - chosen) ** np.maximum(0.0, np.asarray(setup.batch) - 1)
    read = (sizes.active + sizes.idle * touched) * setup.weight_bits / 8
    context = setup.prompt + np.asarray(setup.output) / 2
    hop = np.where(t > 1, 2 * sizes.layers * constant["serve.hop_s"] * np.log2(np.maximum(t, 2)), 0.0)
    launch = sizes.layers * constant["serve.layer_s"]
    flops = 2.0 * sizes.active
    return {
        "prefill": {
            "compute": stack * setup.prompt * forward_flops(sizes) / rate,
            "launch": stack * launch,
            "tp": stack * hop,
        },
        "decode": {
            "weights": stack * read / memory,
            "kv": stack * setup.batch * context * sizes.kv_bytes / memory,
            "compute": stack * setup.batch * flops / rate,
            "launch": stack * launch,
            "tp": stack * hop,
        },
    }


def serve_memory_bytes(shape: Shape, setup: ServeSetup, kv_bytes: float) -> Array:
    """Bytes one device holds: its share of weights and KV cache at full length, and the runtime."""
    split = np.asarray(setup.t, float) * np.asarray(setup.p, float)
    cache = np.asarray(setup.batch) * (setup.prompt + np.asarray(setup.output)) * kv_bytes
    return (shape.params * np.asarray(setup.weight_bits) / 8 + cache) / split + RUNTIME_BYTES


def values(constants: Constants, phase: str, groups: Mapping[str, str]) -> dict[str, float]:
    """All constants of "train" or "serve" for one device and stack."""
    return {name: constants.value(name, groups) for name in PRIORS if name.startswith(phase)}


def total(parts: Mapping[str, Array]) -> Array:
    """The sum of a time's parts."""
    return np.sum(np.broadcast_arrays(*parts.values()), axis=0)
