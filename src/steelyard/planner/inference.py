"""Seconds and bytes of prefill and decode on any device, over whole arrays of candidates.

Every argument that varies may be a numpy array; arrays broadcast. Each part of a time is returned apart,
and the parts sum to the whole. Not here: which candidates there are (search.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steelyard.shape import Shape

from .sizes import RUNTIME_BYTES, Array, Hardware, Sizes, forward_flops

# Physical meaning and prior of each base: (start value, log sd of the prior).
PRIORS: dict[str, tuple[float, float]] = {
    "serve.bandwidth": (0.6, 0.4),  # of memory bandwidth, in a decode step
    "serve.compute": (0.4, 0.5),  # of dense peak, in prefill and in large decode batches
    "serve.layer_s": (6e-5, 1.0),  # host and launch seconds a layer and engine step
    "serve.hop_s": (1.5e-5, 1.0),  # one tensor-parallel all-reduce of a few rows
    "serve.stack": (1.0, 0.3),  # what a stack takes on top of all the rest
}
GROUPED: dict[str, tuple[str, ...]] = {
    "serve.bandwidth": ("family", "device"),
    "serve.compute": ("family", "device"),
    "serve.layer_s": ("stack",),
    "serve.stack": ("stack",),
}


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
