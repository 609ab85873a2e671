"""Seconds and bytes of prefill and decode on any device, over whole arrays of candidates.

Every argument that varies may be a numpy array; arrays broadcast. Each part of a time is returned apart,
and the parts sum to the whole. Not here: arrivals and percentiles (load.py), which candidates there are
(serve_search.py), what a published row means (inference_rows.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .sizes import LONE_DEVICES, RUNTIME_BYTES, Array, Hardware, Sizes, cached_share, next_token_layer, total

# Physical meaning and prior of each base: (start value, log sd of the prior).
PRIORS: dict[str, tuple[float, float]] = {
    "serve.bandwidth": (0.78, 0.08),  # of memory bandwidth, for weights
    "serve.kv": (0.8, 0.2),  # of memory bandwidth, for the KV cache
    "serve.compute": (0.7, 0.1),  # of what the device's large matrix products reach
    "serve.rows": (0.18, 0.3),  # rows a product seems longer than it is, against FLOPs a byte of the device
    "serve.step_s": (1.5e-3, 0.35),  # host seconds an engine step: scheduler, sampling
    "serve.layer_s": (4e-5, 0.5),  # launch seconds a layer: 40 us under graph capture, 250 us eager
    "serve.sequence_s": (3e-5, 0.5),  # host seconds a sequence of a step: detokenising, streams
    "serve.hop_s": (1.2e-5, 0.6),  # one all-reduce of few rows, a doubling of devices
    "serve.link": (0.5, 0.5),  # of a link's rate, in an all-reduce
    "serve.int8": (0.9, 0.2),  # bytes a second of 8-bit weights against 16-bit ones
    "serve.int4": (0.75, 0.2),
    "serve.experts": (0.7, 0.4),  # bytes a second of experts' weights against dense ones
    "serve.grouped": (400.0, 0.5),  # rows that an expert's product seems longer than it is, in a prefill
    "serve.route_s": (5e-5, 0.6),  # launch seconds more where a layer routes: choose, permute, combine
    "serve.weight_only": (0.7, 0.25),  # FLOP/s where integer weights are unpacked to 16 bits first
    "serve.unpack4": (1.0, 0.1),  # of that, where a weight has 4 bits: shifts, masks, a scale a group
    "serve.year": (1.8, 0.15),  # host times grow by this for each year that an engine is older than 2025
    "serve.skinny": (0.9, 0.15),  # of long products' rate, in products of as few rows as a step of decode
    "serve.drain": (1.5, 0.3),  # mean answers that the last ones of an offered load take to run out
    "serve.burst": (0.06, 0.7),  # of the other requests' prefills that one waits for before its first token
}
# What a constant may deviate by, beside the run of a campaign and the source, which every one may.
GROUPED: dict[str, tuple[str, ...]] = {
    "serve.bandwidth": ("family", "stack", "port", "device"),
    "serve.kv": ("family", "stack", "port"),
    "serve.skinny": ("family", "port", "device"),
    "serve.burst": ("stack",),
    "serve.compute": ("family", "device"),
    "serve.rows": ("family", "device"),
    "serve.step_s": ("stack", "port"),
    "serve.layer_s": ("family", "stack", "port"),
    "serve.sequence_s": ("family", "stack"),
    "serve.hop_s": ("family", "port"),
    "serve.grouped": ("family", "stack"),
    "serve.route_s": ("stack",),
    "serve.weight_only": ("family",),
    "serve.unpack4": ("family",),
    "serve.int8": (),
    "serve.int4": (),
    "serve.experts": (),
    "serve.drain": (),
}
GROUPED = {name: (*kinds, "run", "source") for name, kinds in GROUPED.items()}
# Log sd of a group's deviation before any row is seen. Sources differ more than anything else: what one of
# them does differently (releases, flags, what it counts) is estimated beside the rest and dropped, since it
# says nothing about the next source. Wide sds for sources keep one large benchmark from speaking for all;
# runs of one campaign, under settings that are told, differ less.
GROUP_SDS: dict[str, dict[str, float]] = {
    "serve.bandwidth": {
        "family": 0.07, "stack": 0.07, "port": 0.07, "device": 0.04, "run": 0.15, "source": 0.6,
    },
    "serve.kv": {"family": 0.07, "stack": 0.14, "port": 0.28, "run": 0.4, "source": 1.2},
    "serve.skinny": {"family": 0.17, "port": 0.42, "device": 0.3, "run": 0.4, "source": 1.2},
    "serve.burst": {"stack": 0.5, "run": 0.7, "source": 1.2},
    "serve.compute": {"family": 0.14, "device": 0.07, "run": 0.3, "source": 1.0},
    "serve.rows": {"family": 0.2, "device": 0.08, "run": 0.5, "source": 2.0},
    "serve.step_s": {"stack": 0.35, "port": 0.35, "run": 0.5, "source": 1.8},
    "serve.layer_s": {"family": 0.2, "stack": 0.28, "port": 0.28, "run": 0.4, "source": 2.0},
    "serve.sequence_s": {"family": 0.2, "stack": 0.35, "run": 0.5, "source": 1.8},
    "serve.hop_s": {"family": 0.28, "port": 0.2, "run": 0.4, "source": 1.8},
    "serve.int8": {"run": 0.2, "source": 0.8},
    "serve.int4": {"run": 0.2, "source": 0.8},
    "serve.experts": {"run": 0.3, "source": 0.8},
    "serve.grouped": {"family": 0.14, "stack": 0.2, "run": 0.3, "source": 0.8},
    "serve.route_s": {"stack": 0.28, "run": 0.4, "source": 1.5},
    "serve.weight_only": {"family": 0.14, "run": 0.2, "source": 0.8},
    "serve.unpack4": {"family": 0.2, "run": 0.2, "source": 0.8},
    "serve.drain": {"run": 0.3, "source": 0.8},
}  # fmt: skip
SKINNY = 1024.0  # rows at which a product is halfway from that share to the full rate
CHUNK = 8192.0  # prompt tokens in one step: the usual budget of engines that fill in chunks
# What each card beyond a pair takes of a host's PCIe bridges in a ring. All-reduces of 16 MiB on RTX PRO
# 6000: 37.8, 25.0, 23.5 GB/s of bus bandwidth on 2, 4, 8 cards (facts/collectives.csv); of 1 GiB on RTX 5090:
# 35 and 28 GB/s on 4 and 8 (NVIDIA/nccl issue 1639). One host of L40S there has 1.5 on 8: no rule for others.
PCIE_SHARED = 0.2
CORNER = 2.0  # how sharp the roofline's corner is
NOW = 2025  # the year that host times are stated for


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSetup:
    """One serving configuration, or arrays: `batch` requests in flight on one replica of t * p devices."""

    t: Array = 1
    p: Array = 1
    # Devices that whole experts are spread over. e > t: e / t replicas share theirs, each with attention, KV
    # cache and requests of its own (attention data parallel).
    e: Array = 1
    batch: Array = 1
    prompt: Array = 128
    output: Array = 64
    weight_bits: Array = 16
    kv_bits: Array = 16  # against the 16 of `Sizes.kv_bytes`
    weight_only: Array = 0  # 1: integer weights, 16-bit products
    prefix_hit: Array = 0.0  # share of the prompt whose KV cache is there already
    draft: Array = 0  # tokens a speculative step proposes
    accept: Array = 0.5  # share of these that is taken, as measured
    draft_s: Array = 0.0  # to propose one
    year: Array = NOW  # of the engine's release


def serve_s(
    sizes: Sizes, setup: ServeSetup, hardware: Hardware, constant: dict[str, Array]
) -> dict[str, dict[str, Array]]:
    """Seconds of the prefill of one request and of one output token, each by parts."""
    return {
        "prefill": prefill_s(sizes, setup, hardware, constant),
        "decode": decode_s(sizes, setup, hardware, constant),
    }


def prefill_s(
    sizes: Sizes, setup: ServeSetup, hardware: Hardware, constant: dict[str, Array]
) -> dict[str, Array]:
    """Seconds of one prompt by itself: products and attention, what reading the weights adds, launches."""
    rate, edge = products_per_s(setup, hardware, constant), constant["serve.rows"] * ridge(hardware)
    prompt = np.maximum(1.0, setup.prompt * (1.0 - np.asarray(setup.prefix_hit)))
    grouped = 1 + routed_share(sizes) * constant["serve.grouped"] / expert_rows(sizes, setup)
    filled = 2.0 * sizes.active * grouped * prompt / rate
    attention = prefill_attention_s(sizes, setup, hardware)
    busy, read = filled + attention, sizes.active / weights_per_s(setup, hardware, constant)
    return {
        "compute": filled,
        "attention": attention,
        "first": corner(busy + 2.0 * sizes.active * edge / rate, read) - busy,
        "launch": launch_s(sizes, setup, constant),
        "tp": all_reduces_s(sizes, setup, hardware, constant, prompt),
    }


def decode_s(
    sizes: Sizes, setup: ServeSetup, hardware: Hardware, constant: dict[str, Array]
) -> dict[str, Array]:
    """Seconds of one token of each request of the batch.

    Host time a step plus bytes over a rate plus what the products add at the corner of a roofline (Williams
    et al. 2009; Pope et al. 2022, arXiv 2211.05102, section 2), plus two all-reduces a layer (Shoeybi et al.
    2019, arXiv 1909.08053). Pipeline stages serve one after the other, each a p-th of the batch at a time.
    A speculative step verifies `draft` more rows of each request.
    """
    batch = np.maximum(1.0, np.asarray(setup.batch, float) / setup.p)
    drafted = np.asarray(setup.draft, float)
    rows = batch * (1.0 + drafted)
    weights = weights_s(sizes, setup, hardware, constant, rows)
    rate, edge = products_per_s(setup, hardware, constant), constant["serve.rows"] * ridge(hardware)
    short = edge * (1 - 1 / rows)  # one row needs no tile: there is a matrix-vector kernel
    products = 2.0 * sizes.active * (rows / skinny_share(rows, constant) + short) / rate
    parts = {
        "weights": weights,
        "kv": kv_s(sizes, setup, hardware, constant, batch),
        "compute": corner(products, weights) - weights,
        "launch": launch_s(sizes, setup, constant),
        "sequences": batch * constant["serve.sequence_s"] * older(setup, constant),
        "tp": all_reduces_s(sizes, setup, hardware, constant, rows),
    }
    if not drafted.any():
        return parts
    tokens = tokens_a_step(setup)
    return {name: part / tokens for name, part in (parts | {"draft": drafted * setup.draft_s}).items()}


def mtp_s(sizes: Sizes, setup: ServeSetup, hardware: Hardware, constant: dict[str, Array]) -> Array:
    """Seconds in which the model's own further layer proposes one token of each request."""
    alone = replace(setup, draft=0.0, draft_s=0.0)
    parts = decode_s(next_token_layer(sizes), alone, hardware, constant)
    return total(parts) - parts["sequences"] - constant["serve.step_s"] * older(setup, constant)


def launch_s(sizes: Sizes, setup: ServeSetup, constant: dict[str, Array]) -> Array:
    """Host seconds of a step, whatever it holds."""
    layer_s = constant["serve.layer_s"] + sizes.routed * constant["serve.route_s"]
    return sizes.layers * layer_s + constant["serve.step_s"] * older(setup, constant)


def older(setup: ServeSetup, constant: dict[str, Array]) -> Array:
    """How much longer the host of an engine takes that was released before now."""
    return constant["serve.year"] ** np.clip(NOW - np.asarray(setup.year, float), -1.5, 2.5)


def prompt_s(prefill: dict[str, Array]) -> Array:
    """What one prompt more adds to a step that runs anyway: no launch, no reading of weights."""
    return prefill["compute"] + prefill["attention"] + prefill["tp"]


def prefill_attention_s(sizes: Sizes, setup: ServeSetup, hardware: Hardware) -> Array:
    """Causal attention of a prompt: in 16 bits whatever the weights are in, at the rate of its own kernel.

    Short sequences reach less of the peak: share * seq / (seq + attention_len) (Dao et al. 2022, arXiv
    2205.14135; kernels.attention_s). A cached prefix is not asked again, but is looked at.
    """
    seq = np.maximum(1.0, np.asarray(setup.prompt, float))
    computed = 1.0 - np.asarray(setup.prefix_hit, float) ** 2
    rate = hardware.peak16 * hardware.attention_share * seq / (seq + hardware.attention_len)
    return sizes.attention_flops * seq * computed / (rate * setup.t)


def expert_rows(sizes: Sizes, setup: ServeSetup) -> Array:
    """Rows of one expert in a chunk of prompts, those of all replicas that share it."""
    return CHUNK * np.maximum(chosen_share(sizes), 1e-9) * sharing(setup)


def sharing(setup: ServeSetup) -> Array:
    """Replicas that share one set of experts."""
    return np.maximum(1.0, np.asarray(setup.e, float) / setup.t)


def corner(a: Array, b: Array) -> Array:
    """The longer of two times, rounded where they are near each other."""
    return (a**CORNER + b**CORNER) ** (1 / CORNER)


def skinny_share(rows: Array, constant: dict[str, Array]) -> Array:
    """Of the rate of long products, what products of few rows reach: libraries tune large tiles first."""
    least = np.minimum(1.0, constant["serve.skinny"])
    return least + (1 - least) * rows / (rows + SKINNY)


def ridge(hardware: Hardware) -> Array:
    """Operations a byte from which on products and not memory bound a kernel (Williams et al. 2009)."""
    return hardware.peak / hardware.bandwidth


def products_per_s(setup: ServeSetup, hardware: Hardware, constant: dict[str, Array]) -> Array:
    """FLOP/s of long products on one replica; slower where integer weights are unpacked first."""
    four = np.where(np.asarray(setup.weight_bits, float) < 6, constant["serve.unpack4"], 1.0)
    unpack = np.where(np.asarray(setup.weight_only) > 0, constant["serve.weight_only"] * four, 1.0)
    return hardware.peak * hardware.matrix_share * constant["serve.compute"] * setup.t * unpack


def weights_per_s(setup: ServeSetup, hardware: Hardware, constant: dict[str, Array]) -> Array:
    """Weights that one replica reads a second."""
    bits = np.asarray(setup.weight_bits, float)
    slower = np.where(bits < 6, constant["serve.int4"], np.where(bits < 12, constant["serve.int8"], 1.0))
    return hardware.bandwidth * constant["serve.bandwidth"] * setup.t * slower / (stored_bits(bits) / 8)


def weights_s(
    sizes: Sizes, setup: ServeSetup, hardware: Hardware, constant: dict[str, Array], rows: Array
) -> Array:
    """Seconds to read the weights that a step of so many rows touches.

    Of E experts a batch touches E (1 - (1 - k/E)^rows) (planner.md section 5); replicas that share them
    bring their rows together and read each a part.
    """
    share, together = chosen_share(sizes), sharing(setup)
    spread = np.asarray(sizes.idle) > 0
    all_experts = np.where(spread, sizes.idle / np.maximum(1e-9, 1 - share), 0.0)
    dense = np.maximum(0.0, sizes.active - all_experts * share)
    touched = all_experts * (1 - (1 - share) ** (rows * together)) / together
    return (dense + touched / constant["serve.experts"]) / weights_per_s(setup, hardware, constant)


def chosen_share(sizes: Sizes) -> Array:
    """Of the routed experts, those one token passes through; of all weights where experts are unknown."""
    has_experts = np.asarray(sizes.experts) > 0
    share = np.where(
        has_experts, sizes.experts_per_token / np.maximum(1.0, sizes.experts), sizes.active / sizes.params
    )
    return np.clip(share, 0.0, 1.0)


def routed_share(sizes: Sizes) -> Array:
    """Of the weights that a token passes through, those of routed experts; 0 for a dense model."""
    share = chosen_share(sizes)
    spread = np.asarray(sizes.idle) > 0
    experts = np.where(spread, share * sizes.idle / np.maximum(1e-9, 1 - share), 0.0)
    return np.clip(experts / sizes.active, 0.0, 1.0)


def stored_bits(bits: Array) -> Array:
    """Bits a weight takes: 4-bit forms add a scale a group and leave some matrices in 8 bits."""
    return np.where(bits < 6, bits + 0.75, bits)


def kv_s(
    sizes: Sizes, setup: ServeSetup, hardware: Hardware, constant: dict[str, Array], batch: Array
) -> Array:
    """Seconds to read the KV cache of the batch, of a window alone where layers slide one; to read and write
    the states of recurrent layers.

    A latent cache (MLA), or more devices than KV heads, is kept whole on each (DeepSeek-V2, arXiv
    2405.04434, section 2.1).
    """
    context = setup.prompt + np.asarray(setup.output) / 2
    share = cached_share(context, sizes.sliding, sizes.sliding_share)
    held = sizes.kv_bytes * np.asarray(setup.kv_bits) / 16 / np.minimum(setup.t, sizes.kv_split)
    states = 2.0 * sizes.state_bytes / np.asarray(setup.t, float)
    return batch * (context * share * held + states) / (hardware.bandwidth * constant["serve.kv"])


def all_reduces_s(
    sizes: Sizes, setup: ServeSetup, hardware: Hardware, constant: dict[str, Array], rows: Array
) -> Array:
    """Two ring all-reduces a layer of `rows` rows (Thakur et al. 2005), one more hop a doubling of devices.

    Whole experts turn one of the two into an exchange: of the same bytes where they stay in the group, of
    every row's chosen experts where replicas share them (`exchange_s`).
    """
    t = np.asarray(setup.t, float)
    hop = constant["serve.hop_s"] * np.log2(np.maximum(t, 2.0))
    each = hop + rows * 4.0 * sizes.hidden * (t - 1) / t / ring_rate(t, hardware, constant)
    shared = sharing(setup) > 1
    reduced = np.where(t > 1, sizes.layers * (2.0 - shared * sizes.routed) * each, 0.0)
    if not shared.any():
        return reduced
    return reduced + np.where(shared, exchange_s(sizes, setup, hardware, constant, rows), 0.0)


def ring_rate(t: Array, hardware: Hardware, constant: dict[str, Array]) -> Array:
    """Bytes/s each way of one device of a group of t.

    A direct mesh gives a group only t - 1 of a device's node - 1 links; cards without links, or beyond those
    that a bridge joins, share the PCIe of their host; beyond a node there is the network.
    """
    node = np.asarray(hardware.node, float)
    links = np.clip((t - 1) / np.maximum(1.0, node - 1), 0.02, 1.0)
    beyond = np.maximum(t - 2.0, 0.0)
    near = hardware.scaleup * np.where(np.asarray(hardware.mesh) > 0, links, 1.0)
    near = near / (1.0 + np.minimum(hardware.link_shared, PCIE_SHARED) * beyond)
    bridged = (node > 1) & (node < LONE_DEVICES) & (t <= LONE_DEVICES)
    far = np.where(bridged, hardware.pcie / (1.0 + PCIE_SHARED * beyond), hardware.scaleout)
    return constant["serve.link"] * np.where(t <= node, near, far)


def exchange_s(
    sizes: Sizes, setup: ServeSetup, hardware: Hardware, constant: dict[str, Array], rows: Array
) -> Array:
    """All-to-alls of a step: each device sends its rows to their experts in 8 bits, and has them back in 16.

    DeepSeek-V3 (arXiv 2412.19437, section 3.4). What leaves the node goes over the network, one copy for
    each node that holds one of a row's experts.
    """
    e, node = np.maximum(np.asarray(setup.e, float), 2.0), np.maximum(np.asarray(hardware.node, float), 1.0)
    chosen = np.maximum(1.0, np.asarray(sizes.experts_per_token, float))
    nodes = np.ceil(e / node)
    own = rows / setup.t * 3.0 * sizes.hidden
    inside = chosen * own / hardware.scaleup
    reached = (nodes - 1) * (1 - (1 - 1 / nodes) ** chosen)
    outside = reached * own / (hardware.scaleout * hardware.nic_share)
    hops = 2.0 * constant["serve.hop_s"] * np.log2(e)
    return sizes.layers * sizes.routed * (hops + np.maximum(inside / constant["serve.link"], outside))


def tokens_a_step(setup: ServeSetup) -> Array:
    """Tokens that one step makes of each request: 1, and those of its draft that are taken.

    The share taken is counted with the rest of a draft lost at its first wrong token, as vLLM's metrics do:
    it is not the chance that one is right (Leviathan et al. 2023, arXiv 2211.17192, equation 1).
    """
    return 1.0 + np.asarray(setup.draft, float) * np.clip(setup.accept, 0.0, 1.0)


def shared_prefill_s(parts: dict[str, dict[str, Array]], batch: Array, output: Array) -> Array:
    """What the prefills of the others add to each of one request's tokens, when all steps are mixed."""
    return (np.asarray(batch) - 1) * prompt_s(parts["prefill"]) / output


# ------------------------------------------------------------------ memory


def serve_memory_parts(sizes: Sizes, setup: ServeSetup) -> dict[str, Array]:
    """Bytes one device holds: weights, KV cache at full length, activations of a prefill chunk, runtime.

    Layers that slide a window keep no more tokens than it holds, recurrent ones a state; replicas that share
    experts hold each a part of them.
    """
    split = np.asarray(setup.t, float) * np.asarray(setup.p, float)
    length = setup.prompt + np.asarray(setup.output)
    cached_tokens = length * cached_share(length, sizes.sliding, sizes.sliding_share)
    held = (
        cached_tokens * sizes.kv_bytes * np.asarray(setup.kv_bits) / 16 / np.minimum(setup.t, sizes.kv_split)
    )
    held = (held + sizes.state_bytes / np.asarray(setup.t, float)) / np.asarray(setup.p, float)
    chunk = np.minimum(np.asarray(setup.prompt, float), 2048.0)
    experts = routed_params(sizes)
    bytes_each = stored_bits(np.asarray(setup.weight_bits, float)) / 8
    return {
        "weights": (sizes.params - experts + experts / sharing(setup)) * bytes_each / split,
        "kv": np.asarray(setup.batch) * held,
        "activations": chunk * (4.0 * sizes.hidden + 6.0 * sizes.ffn / np.asarray(setup.t)),
        "runtime": RUNTIME_BYTES + 0.0 * split,
    }


def routed_params(sizes: Sizes) -> Array:
    """Weights of the routed experts, by those that a token does not pass through; 0 for a dense model."""
    return sizes.idle / (1 - chosen_share(sizes)) if sizes.experts else 0.0


def serve_memory_bytes(sizes: Sizes, setup: ServeSetup) -> Array:
    """The sum of `serve_memory_parts`."""
    return sum(serve_memory_parts(sizes, setup).values())
