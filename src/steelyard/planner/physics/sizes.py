"""A model's sizes and a device's rates, as numbers or as arrays over candidates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from steelyard.hardware import Device
from steelyard.layers import Half, Stack
from steelyard.shape import Shape

Array = Any  # a float or a numpy array of them
DEFAULT_NIC_BYTES_PER_S = 12.5e9  # 100 Gb/s where the catalogue names no network
PCIE_BYTES_PER_S = 25e9  # of PCIe 4.0 x16, between devices of one host without links of their own
LONE_DEVICES = 8  # of a card without links or network of its own: one host's slots
MOST_IN_NODE = 72  # of one scale-up domain
USABLE_MEMORY = 0.92  # the allocator, the runtime's context and fragments keep the rest
RUNTIME_BYTES = 1.2e9  # context of driver and libraries, collective buffers
# Ends of the interval of bytes, over the middle: a trainer's allocator moves blocks of many sizes in and out.
NEEDED_LOW, TRAINED_HIGH = 0.85, 1.18


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


# Columns of `Sizes.halves`: how many of a mean layer, and what steelyard.layers says of one.
HALF = ("count", "scale", "into", "out", "kept", "passed", "core", "ring", "mlp", "chosen", "experts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A model at a sequence length; numbers, or arrays over models.

    `halves` lists the kinds of half layers that it has, [..., kinds, HALF]; the other fields are sums or
    means over its layers. All are taken once a model, so that a candidate costs no more than with one kind.
    """

    params: Array
    active: Array  # that one token of text passes through, the look-up table aside
    layers: Array
    hidden: Array
    attention_flops: Array  # forward, a token, at this sequence length, recurrences too
    halves: Array
    idle: Array = 0.0  # weights of experts that one token does not pass through
    tower: Array = 0.0  # weights of a vision tower
    vocab: Array = 32000
    tied: Array = 0
    heads: Array = 0  # with scores, a mean layer
    head_dim: Array = 0
    ffn: Array = 0  # width of its usual MLP, of one expert where there are experts
    gated: Array = 1  # 1: gate, up and down matrices; 0: up and down
    experts: Array = 0  # routed experts of a layer that has some
    experts_per_token: Array = 0
    routed: Array = 0.0  # of the layers, those with experts
    lead: Array = 0.0  # dense layers before the first with experts
    lead_params: Array = 0.0  # weights of these together
    kv_bytes: Array = 0.0  # a token, all layers
    kv_split: Array = 1.0  # devices that share it at most
    state_bytes: Array = 0.0  # a sequence, however long
    sliding: Array = 0.0  # tokens of a window, 0 = none
    sliding_share: Array = 0.0  # of the cache, what slides it

    @staticmethod
    def of(shape: Shape, seq_len: float, kv_dtype: str = "bf16") -> Sizes:
        """The sizes of one shape at a sequence length."""
        table = 0 if shape.tied else shape.vocab * shape.hidden
        active, idle = max(1e6, shape.active_params - table), _idle_params(shape)
        halves = _halves(shape, active)
        cached = _summed(shape, lambda half: half.cached)
        window = max(half.window for run in shape.stack for half in run.halves)
        slid = _summed(shape, lambda half: half.cached if half.window else 0.0)
        splits = [half.split for run in shape.stack for half in run.halves if half.cached]
        lead = _lead(shape.stack)
        known = max(half.experts for run in shape.stack for half in run.halves)
        sparse = sum(run.count for run in shape.stack if any(half.experts for half in run.halves))
        return Sizes(
            params=float(shape.params), active=active, idle=idle, tower=float(shape.tower_params),
            layers=float(shape.layers), hidden=float(shape.hidden), vocab=float(shape.vocab),
            attention_flops=_summed(shape, lambda half: half.flops(seq_len)), halves=halves,
            tied=float(shape.tied), heads=_summed(shape, lambda half: half.heads) / shape.layers,
            head_dim=float(shape.head_dim), ffn=float(shape.ffn), gated=float(shape.gated),
            experts=float(known), experts_per_token=float(shape.experts_per_token),
            routed=sparse / shape.layers if known else float(idle > 0),
            lead=float(sum(run.count for run in lead)),
            lead_params=float(sum(run.count * run.weights for run in lead)),
            kv_bytes=float(shape.kv_bytes_per_token(kv_dtype)), kv_split=float(min(splits, default=1)),
            state_bytes=float(shape.state_bytes), sliding=float(window),
            sliding_share=slid / cached if window and cached else 0.0,
        )  # fmt: skip


def next_token_layer(sizes: Sizes) -> Sizes:
    """The layer that predicts a token further ahead (MTP; DeepSeek-V3, arXiv 2412.19437, section 2.2): a last
    layer, and a product of two hidden states into one before it. It passes through the model's own head."""
    behind, head = sizes.layers - sizes.lead, sizes.vocab * sizes.hidden
    layer = (sizes.active - head - sizes.lead_params) / behind + 2.0 * sizes.hidden**2
    idle = sizes.idle / behind
    return replace(
        sizes, params=layer + idle, active=layer + head, idle=idle, layers=1.0, tower=0.0,
        attention_flops=sizes.attention_flops / sizes.layers, kv_bytes=sizes.kv_bytes / sizes.layers,
        routed=np.minimum(sizes.experts, 1.0), lead=0.0, lead_params=0.0, state_bytes=0.0,
    )  # fmt: skip


def together(models: Sequence[Sizes]) -> Sizes:
    """One `Sizes` of arrays over models; kinds that a model lacks count 0."""
    kinds = max(len(model.halves) for model in models)
    padded = [np.pad(model.halves, ((0, kinds - len(model.halves)), (0, 0))) for model in models]
    blank = np.array([0.0 if name in ("count", "mlp", "experts", "core", "ring") else 1.0 for name in HALF])
    halves = np.array([np.where(rows[:, :1] > 0, rows, blank) for rows in padded])
    rest = {
        f.name: np.array([float(getattr(m, f.name)) for m in models])
        for f in fields(Sizes)
        if f.name != "halves"
    }
    return Sizes(**rest, halves=halves)


def mean(sizes: Sizes, *columns: str) -> Array:
    """The sum over a mean layer's halves of the product of these columns."""
    picked = [sizes.halves[..., HALF.index(name)] for name in ("count", *columns)]
    whole = picked[0]
    for column in picked[1:]:
        whole = whole * column
    return whole.sum(axis=-1)


def _summed(shape: Shape, of: Callable[[Half], float]) -> float:
    return float(sum(run.count * sum(of(half) for half in run.halves) for run in shape.stack))


def _idle_params(shape: Shape) -> float:
    return float(shape.params - shape.tower_params - shape.active_params)


def _lead(stack: Stack) -> Stack:
    """The layers before the first with experts; none in a dense model."""
    sparse = [any(half.experts for half in run.halves) for run in stack]
    return stack[: sparse.index(True)] if any(sparse) else ()


def _halves(shape: Shape, active: float) -> np.ndarray:
    """[kinds, HALF] of a mean layer. MLPs take what heads and tables leave of the weights that one token
    passes through, so that norms, biases and rounded counts are somewhere."""
    counts: Counter[tuple[float, ...]] = Counter()
    for run in shape.stack:
        for half in run.halves:
            row = (half.share, half.into, half.out, half.kept, half.passed, half.core, half.ring, half.mlp)
            counts[(*row, max(half.chosen, 1), half.experts)] += run.count
    rows = np.array([(count / shape.layers, *row) for row, count in counts.items()], float)
    own = dict(zip(HALF, rows.T, strict=True))
    weights = own["count"] * own["scale"] * own["chosen"] * (own["into"] + own["out"]) * shape.hidden
    used = (active - shape.vocab * shape.hidden) / shape.layers
    is_mlp = own["mlp"] > 0
    mixers, mlps = weights[~is_mlp].sum(), weights[is_mlp].sum()
    held = min(mixers, 0.9 * used) if mlps else used  # sizes that do not add up
    scale = np.where(is_mlp, (used - held) / max(mlps, 1.0), held / max(mixers, 1.0))
    rows[:, HALF.index("scale")] *= scale
    return rows


def cached_share(length: Array, window: Array, share: Array) -> Array:
    """Of a sequence's KV cache, what is kept where a share of the layers slides a window (0 = none does)."""
    beyond = np.clip(1 - np.asarray(window, float) / np.maximum(1.0, length), 0.0, 1.0)
    return 1 - np.where(np.asarray(window) > 0, share, 0.0) * beyond


def layer_params(sizes: Sizes) -> tuple[Array, Array, Array]:
    """Weights of a mean layer: mixers, MLPs that a token passes through, experts that it does not."""
    used = (mean(sizes, "scale", "chosen", "into") + mean(sizes, "scale", "chosen", "out")) * sizes.hidden
    of_mlps = mean(sizes, "mlp", "scale", "chosen", "into") + mean(sizes, "mlp", "scale", "chosen", "out")
    return used - of_mlps * sizes.hidden, of_mlps * sizes.hidden, sizes.idle / sizes.layers


def total(parts: Mapping[str, Array]) -> Array:
    """The sum of a time's parts."""
    return np.sum(np.broadcast_arrays(*parts.values()), axis=0)
