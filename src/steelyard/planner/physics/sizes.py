"""A model's sizes and a device's rates, as numbers or as arrays over candidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from steelyard.hardware import Device
from steelyard.shape import Shape

Array = Any  # a float or a numpy array of them
DEFAULT_NIC_BYTES_PER_S = 12.5e9  # 100 Gb/s where the catalogue names no network
PCIE_BYTES_PER_S = 25e9  # of PCIe 4.0 x16, between devices of one host without links of their own
LONE_DEVICES = 8  # of a card without links or network of its own: one host's slots
MOST_IN_NODE = 72  # of one scale-up domain
USABLE_MEMORY = 0.92  # the allocator, the runtime's context and fragments keep the rest
RUNTIME_BYTES = 1.2e9  # context of driver and libraries, collective buffers


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What the roofline needs of a device; numbers or arrays, in FLOP/s, bytes and bytes/s."""

    peak: Array
    bandwidth: Array
    memory: Array
    scaleup: Array  # one device, one direction
    scaleout: Array  # one device's share of the network, one direction
    node: Array  # devices that reach each other over the scale-up links
    peak16: Array = 0.0  # of 16-bit formats; 0 = `peak`
    mesh: Array = 0.0  # 1: direct links, a peer gets 1/(node - 1) of the headline; 0: a switch
    nics: Array = 1.0  # network cards a device
    pcie: Array = 25e9  # to the host, one direction
    # Measured shares of this device's kernels, of a relative's where it has none (bench/fit_kernels.py).
    matrix_share: Array = 0.9  # of the peak, in a large matrix product
    m0: Array = 96.0  # rows, columns and depth that a product seems longer than it is
    n0: Array = 234.0
    k0: Array = 232.0
    corner: Array = 2.0  # how sharp the roofline's corner is
    memory_share: Array = 0.75  # of the bandwidth
    kernel_s: Array = 5e-6  # of one launch, the device's side
    attention_share: Array = 0.48  # of the peak, in fused attention over long sequences
    attention_len: Array = 1100.0  # tokens where it reaches half of that
    link_share: Array = 0.72  # of the scale-up link's rate that a ring sustains
    link_shared: Array = 0.0  # without links of their own: what each device beyond a pair takes of a bus
    link_bytes: Array = 4e6  # that a message over it seems longer than it is
    link_start_s: Array = 8e-6  # of a collective, before any hop
    link_s: Array = 1.5e-6  # a hop of a ring
    nic_share: Array = 0.8  # of the network's rate

    def __post_init__(self) -> None:
        if np.ndim(self.peak16) == 0 and self.peak16 == 0:
            object.__setattr__(self, "peak16", self.peak)


def hardware_of(device: Device, precision: str = "bf16") -> Hardware | None:
    """A device's figures for the roofline, None where no peak is published."""
    peak = device.peak_flops(precision)
    if not peak:
        return None
    return Hardware(
        peak=peak,
        bandwidth=device.memory_bytes_per_s,
        memory=device.memory_bytes,
        scaleup=max(device.scaleup_bytes_per_s / 2, PCIE_BYTES_PER_S),
        scaleout=device.scaleout_bytes_per_s or DEFAULT_NIC_BYTES_PER_S,
        node=float(min(in_host(device), MOST_IN_NODE)),
        peak16=device.peak_flops("bf16") or peak,
        mesh=float(device.scaleup_topology == "mesh"),
        **device.kernel(precision),
    )


def in_host(device: Device) -> int:
    """Devices that share links, of cards without any the slots of a host."""
    card = device.kind != "cpu" and not device.scaleout_bytes_per_s
    return device.scaleup_devices if device.scaleup_devices > 1 else LONE_DEVICES if card else 1


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
    attention_params: Array = 0.0  # weights a layer of attention; 0 = those of its heads
    window: Array = 1.0  # of the tokens before it, the share a token looks at (sliding windows)
    sliding: Array = 0.0  # tokens of that window, 0 = none
    sliding_share: Array = 0.0  # of the layers that slide it

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
            attention_params=float(latent_params(shape)),
            window=shape.attended(seq_len) / ((seq_len + 1) / 2),
            sliding=shape.sliding_window or 0,
            sliding_share=shape.window_share if shape.sliding_window else 0.0,
        )


def attended_share(length: float, window: float, share: float) -> float:
    """Of the tokens before it, what a token looks at in the mean over positions and layers."""
    beyond = max(0.0, 1 - window / length) if window else 0.0
    return 1 - share * beyond**2


def cached_share(length: Array, window: Array, share: Array) -> Array:
    """Of a sequence's KV cache, what is kept where a share of the layers slides a window (0 = none does)."""
    beyond = np.clip(1 - np.asarray(window, float) / np.maximum(1.0, length), 0.0, 1.0)
    return 1 - np.where(np.asarray(window) > 0, share, 0.0) * beyond


def latent_params(shape: Shape) -> int:
    """Attention weights a layer under multi-head latent attention, 0 without it (DeepSeek-V2, section 2.1).

    The cache holds rank + rope values; queries pass a rank three times as wide, as published.
    """
    width = shape.kv_width
    if not width or width >= 2 * shape.kv_heads * shape.head_dim:
        return 0
    return latent_weights(shape.hidden, shape.heads, shape.head_dim, width)


def latent_weights(hidden: Array, heads: Array, head_dim: Array, width: Array) -> Array:
    """Weights of the projections down to the ranks and up to the heads, and of the output."""
    rank, rope = width * 8 / 9, width / 9
    queries = 3 * rank * (hidden + heads * (head_dim + rope))
    return queries + hidden * width + 2 * rank * heads * head_dim + heads * head_dim * hidden


def layer_params(sizes: Sizes) -> tuple[Array, Array, Array]:
    """Weights of one layer: attention, MLP that a token passes through, MLP that it does not."""
    own = sizes.hidden * sizes.head_dim * (2.0 * sizes.heads + 2.0 * sizes.kv_heads)
    latent = np.asarray(sizes.attention_params) > 0
    attention = np.where(latent, sizes.attention_params, own) if latent.any() else own
    used = (sizes.active - sizes.vocab * sizes.hidden) / sizes.layers
    attention = np.minimum(attention, 0.9 * used)  # sizes that do not add up
    return attention, used - attention, sizes.idle / sizes.layers


def forward_flops(sizes: Sizes) -> Array:
    """Operations a token forward: 2 a weight used, plus causal attention (Kaplan et al. 2020, table 1)."""
    return 2.0 * sizes.active + sizes.attention_flops


def total(parts: Mapping[str, Array]) -> Array:
    """The sum of a time's parts."""
    return np.sum(np.broadcast_arrays(*parts.values()), axis=0)
