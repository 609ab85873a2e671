"""Seconds and bytes of a training step on any device, over whole arrays of candidates.

Every argument that varies may be a numpy array; arrays broadcast. Each part of a time is returned apart,
and the parts sum to the whole. Not here: which candidates there are (search.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steelyard.shape import Shape

from .sizes import LINK_SHARE, RUNTIME_BYTES, Array, Hardware, Sizes, forward_flops

RECOMPUTE = {"none": 0, "selective": 1, "full": 2}
# Physical meaning and prior of each base: (start value, log sd of the prior).
PRIORS: dict[str, tuple[float, float]] = {
    "train.efficiency": (0.45, 0.5),  # of dense peak, in the GEMMs of a training step
    "train.low_precision": (0.7, 0.4),  # FP8 and FP4 reach this share of the efficiency of BF16
    "train.layer_s": (5e-4, 1.0),  # host and launch seconds a layer and micro-batch, forward and backward
    "train.communication": (1.0, 0.7),  # exposed communication against the ring's own time
    "train.bubble": (0.6, 0.5),  # pipeline bubble against (p - 1) / M; interleaving makes it small
}
GROUPED: dict[str, tuple[str, ...]] = {
    "train.efficiency": ("family", "stack", "device"),
}


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
