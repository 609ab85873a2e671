"""A model's sizes and a device's rates, as numbers or as arrays over candidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from steelyard.shape import Shape

Array = Any  # a float or a numpy array of them
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
    heads: Array = 0
    kv_heads: Array = 0
    head_dim: Array = 0
    ffn: Array = 0  # width of one MLP; of one expert where there are experts
    gated: Array = 1  # 1: gate, up and down matrices; 0: up and down
    experts: Array = 0  # routed experts a layer, 0 = dense
    experts_per_token: Array = 0
    tied: Array = 0

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
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            ffn=shape.ffn,
            gated=int(shape.gated),
            experts=shape.experts,
            experts_per_token=shape.experts_per_token,
            tied=int(shape.tied),
        )


def forward_flops(sizes: Sizes) -> Array:
    """Operations a token forward: 2 a weight used, plus causal attention (Kaplan et al. 2020, table 1)."""
    return 2.0 * sizes.active + sizes.attention_flops


def total(parts: Mapping[str, Array]) -> Array:
    """The sum of a time's parts."""
    return np.sum(np.broadcast_arrays(*parts.values()), axis=0)
