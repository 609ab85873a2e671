"""Seconds of one kernel: matrix product, attention, elementwise pass, collective.

Pure arithmetic on numbers or arrays that broadcast; a float32 array stays one. The few constants a device
has (`Hardware`: matrix_share, m0, n0, k0, ...) are fitted to measured kernels by `bench/fit_kernels.py`.
"""

from __future__ import annotations

import numpy as np

from .sizes import Array, Hardware

STREAMED = 0.87  # of the bandwidth, in passes over large tensors (STREAM on A100: 1.77 of 2.04 TB/s)


def flag(condition: Array, like: Array) -> Array:
    """1 or 0 in the dtype of `like`, so that a float32 sweep stays float32."""
    return np.asarray(condition, getattr(like, "dtype", float) if np.ndim(like) else float)


def gemm_s(
    m: Array, n: Array, k: Array, hardware: Hardware, peak: Array | None = None, width: Array = 2.0
) -> Array:
    """Seconds of (m x k) times (k x n), `width` bytes an input: `(C^q + M^q)^(1/q)`, without the launch.

    C = 2 m n k / (peak * share) * (1 + m0/m) (1 + n0/n) (1 + k0/k): tiles that are not full and pipelines
    that fill; M = bytes over the share of memory bandwidth. A roofline with a round corner (Williams et al.
    2009).
    """
    rate = (hardware.peak if peak is None else peak) * hardware.matrix_share
    compute = 2.0 * (m + hardware.m0) * (n + hardware.n0) * (k + hardware.k0) / rate
    moved = (width * (m + n) * k + 2.0 * m * n) / (hardware.bandwidth * hardware.memory_share)
    return rounded(compute, moved, hardware.corner)


def rounded(a: Array, b: Array, q: Array = 4.0) -> Array:
    """A maximum without an edge: (a^q + b^q)^(1/q), computed about the larger so that nothing underflows."""
    most = np.maximum(np.maximum(a, b), 1e-30)
    return most * ((a / most) ** q + (b / most) ** q) ** (1.0 / q)


def attention_s(flops: Array, core: Array, hardware: Hardware) -> Array:
    """Seconds of fused causal attention forward of so many operations; `core` is queries by heads by width.

    Short sequences reach less of the peak: share * seq / (seq + attention_len) with seq = flops / (2 core),
    twice the mean number of tokens looked at (Dao et al. 2022, arXiv 2205.14135).
    """
    rate = hardware.peak16 * hardware.attention_share
    return (flops + 2.0 * core * hardware.attention_len) / rate


def elementwise_s(moved: Array, hardware: Hardware) -> Array:
    """Seconds of a pass over memory that reads and writes `moved` bytes."""
    return moved / (hardware.bandwidth * STREAMED)


def collective_s(
    moved: Array, count: Array, members: Array, hardware: Hardware, rounds: Array = 1.0
) -> Array:
    """Seconds of a ring over `count` devices, `members` of them in one node; 0 for one device.

    rounds 1: gather or scatter of `moved` bytes (the whole tensor); 2: all-reduce. Each moves (n - 1) / n of
    it and waits n - 1 times for the link (Thakur et al. 2005); the tensor itself is read and written once in
    local memory. Small messages go by a protocol of half the rate, so one seems longer by up to `link_bytes`.
    """
    others = count - 1.0
    longer = moved * (1.0 + hardware.link_bytes / (moved + hardware.link_bytes))
    sent = rounds * others / count * longer / link_rate(count, members, hardware)
    at_home = hardware.link_start_s + elementwise_s(2.0 * moved, hardware)
    return sent + np.minimum(others, 1.0) * at_home + rounds * others * hardware.link_s


def all_to_all_s(moved: Array, reaching: Array, count: Array, members: Array, hardware: Hardware) -> Array:
    """Seconds of an all-to-all of `moved` bytes a device: what stays in the node over the scale-up link, and
    of the `reaching` bytes that one copy a node takes, what leaves it over the device's own network card."""
    inside = (members - 1.0) / count * moved / link_rate(members, members, hardware)
    outside = (count - members) / count * reaching / (hardware.scaleout * hardware.nic_share)
    wait = np.minimum(count - 1.0, 1.0) * (hardware.link_start_s + (count - 1.0) * hardware.link_s)
    return np.maximum(inside, outside) + wait


def link_rate(count: Array, members: Array, hardware: Hardware) -> Array:
    """Bytes/s each way that one member of a group sustains.

    Inside a node the scale-up link; on a direct mesh only the links to the members of the group, over PCIe
    a share of the host's bridges. Across nodes, all the network cards of the members in one node (each
    group has its devices' own).
    """
    near = np.maximum(members - 1.0, 1.0) / np.maximum(hardware.node - 1.0, 1.0)
    inside = hardware.scaleup * hardware.link_share * (1.0 - hardware.mesh * (1.0 - np.minimum(near, 1.0)))
    if np.any(hardware.link_shared):
        inside = inside / (1.0 + hardware.link_shared * np.maximum(members - 2.0, 0.0))
    outside = np.minimum(inside, hardware.scaleout * hardware.nic_share * members)
    across = flag(count > members, members)
    return inside + across * (outside - inside)
