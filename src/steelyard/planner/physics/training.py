"""Seconds and bytes of a training step on any device, over whole arrays of candidates.

Every argument that varies may be a numpy array; arrays broadcast, and float32 arrays stay float32. Each
part of a time is returned apart, and the parts sum to the whole. A layer depends on fewer settings than a
step does, so a search evaluates `layer_s` and `head_s` on a small grid and `step_of` on all candidates.

Not here: the time of one kernel (kernels.py), which candidates there are (search.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from .kernels import all_to_all_s, attention_s, collective_s, elementwise_s, flag, gemm_s, link_rate, rounded
from .sizes import RUNTIME_BYTES, Array, Hardware, Sizes, layer_params, mean, total

RECOMPUTE = {"none": 0, "selective": 1, "half": 1.5, "full": 2}  # half: every other product of a layer
LORA_SHARE = 0.01  # of the weights that adapters of usual rank train
KERNELS = 75.0  # launches a layer, forward and backward, of an eager framework; planner.md section 2
KERNELS_AGAIN = 35.0  # more of them where the forward is repeated
KERNELS_ROUTING = 40.0  # routing, permutation and its way back
KERNELS_EXPERT = 6.0  # products of each local expert are launched one by one
IMBALANCE = 1.15  # tokens of the busiest expert over the mean
EAGER = 2.5  # passes over memory of separate elementwise kernels against fused ones
ADDED_BYTES = 6.0  # a weight: a micro-batch's 16-bit gradient added to the sum by a kernel of its own
STATE_BYTES = 12.0  # a trained weight: AdamW's master and two moments in FP32
GRADIENT_BYTES = 4.0  # a weight: summed and reduced in FP32 (Megatron-LM, torch FSDP2)
LOGIT_BYTES = 6.0  # 16 bits and FP32, in place (Megatron-LM's vocab-parallel cross entropy)
# A weight: AdamW reads and writes master, two moments and gradient and writes the weight (36 bytes); before
# it gradients are unscaled, their norm taken, clipped and afterwards cleared (28).
OPTIMISER_BYTES = 64.0
GATHERED_UNITS = 2.0  # that ZeRO 3 holds whole: the layer at work and the next one, prefetched
REDUCED_16 = 2.0  # a weight: gradients reduced in 16 bits (DeepSpeed; Megatron-LM before 2022)
NOT_HIDDEN = 0.5  # of the gathers of sharded weights, before `fusions`
HEAD_BYTES = 40.0  # a logit: written, cast, normalised, its gradient and the casts back
HIDDEN_BACKWARD = 0.3  # of the backward's all-reduces, beside weight gradients (Korthikanti 2022, table 4)
HOST_BYTES_PER_S = 25e9  # of the host's memory, a device's share, for an optimiser that is kept there
ATTENTION_BACKWARD = 2.5  # products of the backward of fused attention over those of its forward
# Physical meaning and prior of each base: (start value, log sd of the prior).
PRIORS: dict[str, tuple[float, float]] = {
    "train.efficiency": (0.75, 0.3),  # of the peak that matrix products sustain: clocks fall under load
    "train.low_precision": (0.75, 0.3),  # of that again, in FP8 and FP4
    "train.attention": (0.8, 0.3),  # of the speed of an inference engine's attention kernel
    "train.launch_s": (1.5e-5, 0.7),  # the host's seconds a kernel
    "train.communication": (1.0, 0.3),  # tensor, expert and context traffic against the ring's own time
    "train.hop": (2.0, 0.3),  # an exchange between stages against its transfer: both ends wait for it
    "train.exposed": (0.25, 0.5),  # share of the data-parallel traffic that compute could hide and does not
    "train.gather": (1.5, 0.6),  # gathers of sharded weights against the ring's own time, where not hidden
    "train.bubble": (1.0, 0.2),  # pipeline bubble against (p - 1) / v micro-batches
    "train.yearly": (0.05, 0.5),  # logarithm by which software makes the same device faster in a year
}
GROUPED: dict[str, tuple[str, ...]] = {
    "train.efficiency": ("kind", "family", "framework", "stack", "device", "source"),
    "train.low_precision": ("family", "framework", "stack"),
    "train.attention": ("framework", "stack"),
    "train.launch_s": ("framework", "stack"),
    "train.communication": ("family", "framework", "stack"),
    "train.exposed": ("framework", "stack"),
    "train.gather": ("framework", "stack"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSetup:
    """One training configuration, or arrays of them. Left at its default, a field is not used."""

    devices: Array
    t: Array = 1.0  # tensor parallel
    p: Array = 1.0  # pipeline parallel
    v: Array = 1.0  # virtual stages a device: interleaving
    c: Array = 1.0  # context parallel
    e: Array = 1.0  # expert parallel, inside d
    d: Array = 0.0  # data parallel; 0 = devices / (t p c)
    micro_batch: Array = 1.0
    global_batch: Array = 32.0
    seq_len: Array = 2048.0
    recompute: Array = 0.0  # see RECOMPUTE
    zero: Array = 1.0  # 0 to 3; 3 = FSDP
    sp: Array = 0.0  # sequence parallel: norms split by t too
    offload: Array = 0.0  # optimiser in the host's memory (Ren et al. 2021, arXiv 2101.06840)
    low_precision: Array = 0.0  # 1 for FP8 and FP4
    most_gain: Array = 1.0  # of those: at most so many times as fast as 16 bits, see `bounded_layer_s`
    lora: Array = 0.0
    weight_bits: Array = 16.0  # of frozen weights: 4 for QLoRA
    extra_forward: Array = 0.0  # forwards by a reference or teacher model: 1 for DPO and distillation
    fused: Array = 1.0  # fused attention; 0: scores in memory, as before 2022
    # Backward traffic beside weight gradients, and these added up in their product: Megatron-LM since 2022.
    fusions: Array = 1.0
    balanced: Array = 1.0  # context parallelism gives each device early and late tokens; 0: the last has most
    layout: Array = 0.0  # stages of uneven length: the one with the head has fewer layers
    eager: Array = 0.0  # elementwise kernels one by one, not compiled into few
    reduced_bytes: Array = GRADIENT_BYTES  # a weight of the gradients that are sent, REDUCED_16 or in FP32
    pruned: Array = 0.0  # a compiled graph (XLA) repeats of a layer only what its backward needs
    logit_bytes: Array = LOGIT_BYTES  # kept of one logit while the loss is taken
    gradient_bytes: Array = GRADIENT_BYTES  # a trained weight, as it is kept; 2 where all is in 16 bits
    state_bytes: Array = STATE_BYTES  # a trained weight, of the optimiser; 4 where all is in 16 bits
    # 1: sharded training sums the gradients of several micro-batches whole and sends them once (accelerate's
    # no_sync around FSDP).
    whole_gradients: Array = 0.0


def data_parallel(setup: TrainSetup) -> Array:
    """d as given, else devices / (t p c)."""
    if np.ndim(setup.d) or setup.d:
        return setup.d
    return np.maximum(1.0, setup.devices / (setup.t * setup.p * setup.c))


def micro_batches(setup: TrainSetup) -> Array:
    """Micro-batches a pipeline takes in one step."""
    return np.maximum(1.0, setup.global_batch / (data_parallel(setup) * setup.micro_batch))


def train_step_s(
    sizes: Sizes,
    setup: TrainSetup,
    hardware: Hardware,
    constant: Mapping[str, Array],
    usual: Hardware | None = None,
) -> dict[str, Array]:
    """Seconds of one optimiser step, by parts. `constant` maps the names of PRIORS to values; `usual` bounds
    a narrow format, see `bounded_layer_s`."""
    layer, free = bounded_layer_s(sizes, setup, hardware, constant, usual)
    head = head_s(sizes, setup, hardware, constant)
    step = step_of(total(layer), free, head, sizes, setup, hardware, constant)
    layers = micro_batches(setup) * stage_layers(sizes, setup)
    del step["layers"]
    return {name: layers * seconds for name, seconds in layer.items()} | step


# ------------------------------------------------------------------ one layer, one micro-batch


def layer_s(
    sizes: Sizes, setup: TrainSetup, hardware: Hardware, constant: Mapping[str, Array]
) -> tuple[dict[str, Array], Array]:
    """Seconds of one layer for one micro-batch, forward and backward: gemm, attention, elementwise, launch,
    tp, cp, ep; and of its compute the seconds that hide no traffic of its own yet. Depends on t, c, e,
    micro_batch, seq_len, recompute, sp, precision and fused alone.

    Full recompute repeats the forward with its collectives, half of it every other product; selective the
    attention core (Korthikanti et al. 2022, arXiv 2205.05198, section 5), where that is fused the norms and
    activations instead.
    """
    half = flag(np.equal(setup.recompute, 1.5), setup.recompute)
    full = flag(np.greater_equal(setup.recompute, 2), setup.recompute)
    forwards = 1.0 + full + 0.5 * half + setup.extra_forward
    once, back = products_s(sizes, setup, hardware, constant)
    core, core_back, passes = attention_parts_s(sizes, setup, hardware, constant)
    selective = flag(np.equal(setup.recompute, 1), setup.recompute)
    cores = forwards + selective * (1.0 - np.asarray(setup.fused))
    dropped = setup.pruned * (full + 0.5 * half) * last_product_share(sizes)
    gemm = (forwards - dropped) * once + back
    attention = cores * core + core_back
    again = forwards + selective * setup.fused
    elementwise = (again + 1.4) * elementwise_layer_s(sizes, setup, hardware) + cores * passes
    elementwise = elementwise + added_s(sizes, setup, hardware)
    busy = gemm + attention + elementwise
    floor = constant["train.launch_s"] * kernels_of(sizes, setup, forwards)
    computing = rounded(busy, floor)
    beside = attention + computing - busy  # the ring goes on while the device waits for launches
    traffic, free = exposed_s(traffic_s(sizes, setup, hardware, constant, forwards, beside), computing)
    parts = {"gemm": gemm, "attention": attention, "elementwise": elementwise, "launch": computing - busy}
    return parts | traffic, free


def bounded_layer_s(
    sizes: Sizes,
    setup: TrainSetup,
    hardware: Hardware,
    constant: Mapping[str, Array],
    usual: Hardware | None = None,
) -> tuple[dict[str, Array], Array]:
    """As `layer_s`; in FP8 and FP4 at most `most_gain` times as fast as in 16 bits, of which `usual` are the
    rates: no faster than published runs. What is between, casts and scales that no kernel's table has, is a
    part, `casts`."""
    layer, free = layer_s(sizes, setup, hardware, constant)
    if usual is None:
        return layer, free
    wide, _ = layer_s(sizes, replace(setup, low_precision=0.0), usual, constant)
    least = total(wide) / setup.most_gain
    return layer | {"casts": np.maximum(least - total(layer), 0.0)}, free


def traffic_s(
    sizes: Sizes,
    setup: TrainSetup,
    hardware: Hardware,
    constant: Mapping[str, Array],
    forwards: Array,
    beside_ring: Array,
) -> dict[str, tuple[Array, Array]]:
    """A layer's traffic by kind: seconds over its links, and those of them that stacks leave exposed.

    `beside_ring`: seconds that hide context parallelism. A constant below 1 says that some of the traffic
    runs beside compute, one above 1 that it is slower than the ring.
    """
    slow = constant["train.communication"]
    reduced = tensor_parallel_s(sizes, setup, hardware)
    beside = 2.0 * HIDDEN_BACKWARD * setup.fusions * (1.0 - np.asarray(setup.sp))
    ring = context_parallel_s(sizes, setup, hardware)
    sent = (2.0 + 2.0 * forwards) * expert_parallel_s(sizes, setup, hardware)
    return {
        "tp": ((2.0 * forwards + 2.0) * reduced, slow * (2.0 * forwards + 2.0 - beside) * reduced),
        "cp": (ring, np.maximum(0.0, slow * ring - beside_ring)),
        "ep": (sent, slow * sent),
    }


def exposed_s(traffic: Mapping[str, tuple[Array, Array]], computing: Array) -> tuple[dict[str, Array], Array]:
    """Exposed seconds by kind, and the compute that is left: what is hidden, is hidden behind compute, and
    there is no more of it hidden than there is compute."""
    hidden = {name: np.maximum(0.0, whole - wanted) for name, (whole, wanted) in traffic.items()}
    wanted_hidden = total(hidden)
    share = np.minimum(1.0, computing / np.maximum(wanted_hidden, 1e-30))
    parts = {name: np.maximum(*traffic[name]) - share * hidden[name] for name in traffic}
    return parts, computing - share * wanted_hidden


def kernels_of(sizes: Sizes, setup: TrainSetup, forwards: Array) -> Array:
    """Launches of a layer, forward and backward."""
    routed = sizes.routed * flag(np.greater(sizes.experts, 0), setup.micro_batch)
    local = np.maximum(sizes.experts / setup.e, 1.0)
    return KERNELS + KERNELS_AGAIN * (forwards - 1.0) + routed * (KERNELS_ROUTING + KERNELS_EXPERT * local)


def last_product_share(sizes: Sizes) -> Array:
    """Of a layer's forward products, the one whose output no backward needs: out of the MLP."""
    attention, used, _ = layer_params(sizes)
    return mean(sizes, "mlp", "scale", "chosen", "out") * sizes.hidden / (attention + used)


def tokens_of(setup: TrainSetup) -> Array:
    """Tokens of one micro-batch on one device."""
    return setup.micro_batch * setup.seq_len / setup.c


def product_s(m: Array, n: Array, k: Array, hardware: Hardware, peak: Array, sustained: Array) -> Array:
    """One matrix product of a long run: as measured alone, no faster than the sustained share of the peak.

    Kernels that reach much of the peak draw the device to its power limit, the small ones do not.
    """
    return rounded(gemm_s(m, n, k, hardware, peak), 2.0 * m * n * k / (peak * sustained), 8.0)


def products_s(
    sizes: Sizes, setup: TrainSetup, hardware: Hardware, constant: Mapping[str, Array]
) -> tuple[Array, Array]:
    """Matrix products of a layer forward, and backward: each once for the input, once for the weights.

    Adapters alone are trained with LoRA, so the products for frozen weights' gradients fall away.
    """
    narrow = flag(np.greater(setup.low_precision, 0), setup.low_precision)
    sustained = constant["train.efficiency"] * (1.0 + narrow * (constant["train.low_precision"] - 1.0))
    m, t, h = tokens_of(setup), setup.t, sizes.hidden
    each = []
    for half in np.moveaxis(sizes.halves, -2, 0):
        count, scale, into, out, *_, chosen, experts = np.moveaxis(half, -1, 0)
        local = np.maximum(experts / setup.e, 1.0)
        share, rows = count * scale * local, m * chosen / local
        each += [(share, rows, into / t, h), (share, rows, h, out / t)]
    forward: Array = 0.0
    backward: Array = 0.0
    trained = 1.0 - flag(np.greater(setup.lora, 0), setup.lora)
    for share, rows_, n, k in each:
        forward = forward + share * product_s(rows_, n, k, hardware, hardware.peak, sustained)
        backward = backward + share * product_s(rows_, k, n, hardware, hardware.peak, sustained)
        backward = backward + share * trained * product_s(n, k, rows_, hardware, hardware.peak, sustained)
    return forward, backward


def attention_parts_s(
    sizes: Sizes, setup: TrainSetup, hardware: Hardware, constant: Mapping[str, Array]
) -> tuple[Array, Array, Array]:
    """The attention core forward and backward, and the passes over scores of an unfused one.

    Unfused, as before FlashAttention (Dao et al. 2022): two batched products of the whole square, and 9
    bytes forward (21 with backward) a score of softmax, mask and dropout.
    """
    heads, s = setup.micro_batch * sizes.heads / setup.t, setup.seq_len
    last = 1.0 + (1.0 - np.asarray(setup.balanced)) * (1.0 - 1.0 / setup.c)
    flops, core = sizes.attention_flops / sizes.layers, mean(sizes, "core")
    rows = setup.micro_batch / setup.t * s / setup.c
    fused = last * attention_s(rows * flops, rows * core, hardware)
    fused = fused / constant["train.attention"]
    if np.all(np.equal(setup.fused, 1)):
        return fused, ATTENTION_BACKWARD * fused, 0.0
    square = heads * (
        gemm_s(s, s, sizes.head_dim, hardware, hardware.peak16)
        + gemm_s(s, sizes.head_dim, s, hardware, hardware.peak16)
    ) / setup.c  # fmt: skip
    scores = elementwise_s(heads * s * s / setup.c, hardware) * (1.0 + (EAGER - 1.0) * setup.eager)
    apart = 1.0 - np.asarray(setup.fused)
    forward = setup.fused * fused + apart * square
    backward = setup.fused * ATTENTION_BACKWARD * fused + apart * 2.0 * square
    return forward, backward + apart * 12.0 * scores, apart * 9.0 * scores


def elementwise_layer_s(sizes: Sizes, setup: TrainSetup, hardware: Hardware) -> Array:
    """Norms, dropout, residuals and the activation of one forward; routing copies each chosen token."""
    m, h = tokens_of(setup), sizes.hidden
    split = 1.0 + setup.sp * (setup.t - 1.0)
    copies = 8.0 * m * h * sizes.routed * sizes.experts_per_token / split
    moved = 22.0 * m * h / split + 2.0 * m * mean(sizes, "passed") / setup.t
    moved = (1.0 + (EAGER - 1.0) * setup.eager) * moved + copies + adapters_bytes(sizes, setup)
    return elementwise_s(moved, hardware)


def adapters_bytes(sizes: Sizes, setup: TrainSetup) -> Array:
    """Bytes that LoRA moves beside the frozen products: inputs read again, outputs read and added to."""
    halves = mean(sizes)
    read = halves * sizes.hidden + mean(sizes, "out")
    added = halves * sizes.hidden + mean(sizes, "into")
    on = flag(np.greater(setup.lora, 0), setup.lora)
    return on * tokens_of(setup) / setup.t * (2.0 * read + 6.0 * added)


def added_s(sizes: Sizes, setup: TrainSetup, hardware: Hardware) -> Array:
    """Gradients of one micro-batch added to those before, where the product does not do it itself.

    Each micro-batch passes over all weights of the layer, so it counts where micro-batches are small.
    """
    held = sum(layer_params(sizes)) / setup.t
    return (1.0 - np.asarray(setup.fusions)) * elementwise_s(ADDED_BYTES * held, hardware)


def tensor_parallel_s(sizes: Sizes, setup: TrainSetup, hardware: Hardware) -> Array:
    """One all-reduce of a micro-batch's hidden state (Shoeybi et al. 2019, arXiv 1909.08053); with sequence
    parallelism the same bytes as a gather and a scatter."""
    moved = 2.0 * tokens_of(setup) * sizes.hidden
    return collective_s(moved, setup.t, np.minimum(setup.t, hardware.node), hardware, 2.0)


def context_parallel_s(sizes: Sizes, setup: TrainSetup, hardware: Hardware) -> Array:
    """Keys and values on their way round the ring, beside attention (Liu et al. 2023, arXiv 2310.01889):
    forward once, backward with gradients twice."""
    block = 2.0 * tokens_of(setup) * mean(sizes, "ring") / setup.t
    members = np.clip(hardware.node / setup.t, 1.0, setup.c)
    return 3.0 * block * (setup.c - 1.0) / link_rate(setup.c, members, hardware)


def expert_parallel_s(sizes: Sizes, setup: TrainSetup, hardware: Hardware) -> Array:
    """One all-to-all of the tokens' copies (Lepikhin et al. 2020, arXiv 2006.16668).

    To another node a token goes once, however many experts it has there (DeepSeek-V3, arXiv 2412.19437,
    section 3.2.2): of n nodes it reaches n (1 - (1 - 1/n)^k).
    """
    token = 2.0 * tokens_of(setup) / setup.t * sizes.hidden * IMBALANCE
    chosen = sizes.experts_per_token
    members = np.clip(hardware.node / (setup.t * setup.c), 1.0, setup.e)
    nodes = setup.e / members
    reached = nodes * (1.0 - (1.0 - 1.0 / nodes) ** chosen)
    return sizes.routed * all_to_all_s(token * chosen, token * reached, setup.e, members, hardware)


def head_s(
    sizes: Sizes, setup: TrainSetup, hardware: Hardware, constant: Mapping[str, Array]
) -> Array:  # fmt: skip
    """Seconds of logits and loss of a micro-batch: three products in 16 bits, passes over FP32 logits."""
    m, vocab, h = tokens_of(setup), sizes.vocab / setup.t, sizes.hidden
    peak, sustained = hardware.peak16, constant["train.efficiency"]
    forward = product_s(m, vocab, h, hardware, peak, sustained)
    backward = product_s(m, h, vocab, hardware, peak, sustained)
    weights = product_s(vocab, h, m, hardware, peak, sustained)
    trained = 1.0 - flag(np.greater(setup.lora, 0), setup.lora)
    products = forward * (1.0 + setup.extra_forward) + backward + trained * weights
    return products + elementwise_s(HEAD_BYTES * m * vocab, hardware)


# ------------------------------------------------------------------ the whole step


def step_of(
    layer_s: Array,
    free_s: Array,
    head_s: Array,
    sizes: Sizes,
    setup: TrainSetup,
    hardware: Hardware,
    constant: Mapping[str, Array],
) -> dict[str, Array]:
    """The step from the seconds of one layer, of its compute that hides nothing yet, and of one head: layers,
    head, bubble, pp, dp, optimiser, offload.

    M max(stage) + (p - 1) / v mean(stage): Narayanan et al. 2021 (arXiv 2104.04473, section 2.2).
    """
    p = setup.p
    rounds, layers = micro_batches(setup), stage_layers(sizes, setup)
    stage = layers * layer_s
    bubble = constant["train.bubble"] * (p - 1.0) / setup.v * (stage + head_s / p)
    hops = flag(np.greater(p, 1), p) * (2.0 * rounds * setup.v + p - 1.0)
    held = held_params(sizes, setup)
    return {
        "layers": rounds * stage,
        "head": rounds * head_s * (1.0 - setup.layout * (1.0 - 1.0 / p)),
        "bubble": bubble,
        "pp": constant["train.hop"] * hops * hop_s(sizes, setup, hardware),
        "dp": data_parallel_s(held, setup, hardware, constant, layers * free_s + head_s / p),
        **optimiser_s(held, setup, hardware),
    }


def hop_s(sizes: Sizes, setup: TrainSetup, hardware: Hardware) -> Array:
    """One micro-batch's hidden state to the next stage: 2 m h / t bytes a device, and within the tensor group
    a gather where the sequence is not split (Narayanan et al. 2021, section 4.1)."""
    whole = 2.0 * tokens_of(setup) * sizes.hidden
    far = flag(np.greater(setup.devices, hardware.node), setup.p)
    rate = hardware.scaleup + far * (hardware.scaleout - hardware.scaleup)
    sent = whole / setup.t / (rate * hardware.nic_share) + hardware.link_start_s
    gathered = collective_s(whole, setup.t, np.minimum(setup.t, hardware.node), hardware)
    return sent + (1.0 - np.asarray(setup.sp)) * gathered


def stage_layers(sizes: Sizes, setup: TrainSetup) -> Array:
    """Layers of the fullest stage: virtual stages hold whole layers, of a free layout the mean."""
    each = sizes.layers / setup.p
    whole = np.ceil(each / setup.v - 1e-3) * setup.v
    return whole + setup.layout * (each - whole)


def held_params(sizes: Sizes, setup: TrainSetup) -> tuple[Array, Array]:
    """Weights of a device of the fullest stage, dense and of experts, before any data-parallel split.

    Of a pipeline that is one of layers with experts, the table of words beside it; dense layers before them
    are in a stage that holds less.
    """
    dense, experts = layer_held(sizes)
    lead = sizes.lead_params * flag(np.equal(setup.p, 1), setup.t)
    layers = np.minimum(stage_layers(sizes, setup), sizes.layers - sizes.lead)
    tables = 1.0 + flag(np.equal(setup.p, 1), setup.t) * (1.0 - sizes.tied)
    return (
        (layers * dense + lead + tables * sizes.vocab * sizes.hidden) / setup.t,
        layers * experts / (setup.t * setup.e),
    )


def layer_held(sizes: Sizes) -> tuple[Array, Array]:
    """Weights of one layer, dense and of its routed experts: the mean behind the dense layers that lead."""
    attention, used, idle = layer_params(sizes)
    active = np.where(np.greater(sizes.experts, 0), sizes.experts_per_token, 0.0)
    experts = idle * sizes.experts / np.maximum(sizes.experts - active, 1.0)
    dense, behind = attention + used + idle - experts, sizes.layers - sizes.lead
    return (dense * sizes.layers - sizes.lead_params) / behind, experts * sizes.layers / behind


def data_parallel_s(
    held: tuple[Array, Array],
    setup: TrainSetup,
    hardware: Hardware,
    constant: Mapping[str, Array],
    compute: Array,
) -> Array:
    """Exposed seconds of gradients' and weights' traffic (Rajbhandari et al. 2020, arXiv 1910.02054, sec. 7).

    `compute`: of one micro-batch, what no other traffic hides behind. ZeRO 0 to 2: one all-reduce (or scatter
    and gather) a step; behind the last backward, as far as that is long enough, all but a share. Before
    `fusions` it came after the backward. ZeRO 3: two gathers and a scatter a micro-batch behind its compute;
    a step, where a pipeline keeps the weights.
    """
    fusions, exposed = np.asarray(setup.fusions), constant["train.exposed"]
    trained = 1.0 - (1.0 - LORA_SHARE) * flag(np.greater(setup.lora, 0), setup.lora)
    reduced = REDUCED_16 + fusions * (setup.reduced_bytes - REDUCED_16)
    sharded, inside = flag(np.equal(setup.zero, 3), setup.t), piped(setup)
    step: Array = 0.0
    each: Array = 0.0
    for weights, count in zip(held, groups_of(setup), strict=True):
        members = np.clip(hardware.node / setup.t, 1.0, count)
        step = step + collective_s(reduced * trained * weights, count, members, hardware, 2.0)
        gathers = (2.0 - inside) * setup.weight_bits / 16.0 + trained * setup.reduced_bytes / 2.0
        each = each + gathers * constant["train.gather"] * collective_s(
            2.0 * weights, count, members, hardware
        )
    beside = fusions * backward_share(setup) * last_rounds(setup) * compute
    if not np.any(sharded):
        return unhidden_s(step, beside, exposed)
    times = (micro_batches(setup) - 1.0) * (1.0 - inside) + 1.0
    gathering = unhidden_s(each, compute, exposed * fusions + NOT_HIDDEN * (1.0 - fusions))
    if np.all(sharded):
        return gathering * times
    reducing = unhidden_s(step, beside, exposed)
    return (1.0 - sharded) * reducing + gathering * (sharded * times)


def unhidden_s(traffic: Array, compute: Array, exposed: Array) -> Array:
    """max(0, traffic - compute) + exposed min(traffic, compute), with as few whole arrays as there can be."""
    late = np.asarray((1.0 - exposed) * traffic - (1.0 - exposed) * compute)
    return np.maximum(late, 0.0, out=late) + exposed * traffic


def backward_share(setup: TrainSetup) -> Array:
    """Of a micro-batch's products, those of its backward: repeated ones, gradients of inputs and weights."""
    full = flag(np.greater_equal(setup.recompute, 2), setup.recompute)
    half = flag(np.equal(setup.recompute, 1.5), setup.recompute)
    back = 1.0 + full + 0.5 * half + 1.0 - flag(np.greater(setup.lora, 0), setup.lora)
    return back / (back + 1.0 + setup.extra_forward)


def last_rounds(setup: TrainSetup) -> Array:
    """Micro-batches whose backwards the gradients' traffic hides behind: the last one; interleaved, what the
    last chunk to be touched waits for, a round of p through all chunks but one (Narayanan et al. 2021)."""
    rounds = np.minimum(setup.p, micro_batches(setup))
    return 1.0 + rounds * (1.0 - 1.0 / np.asarray(setup.v))


def piped(setup: TrainSetup) -> Array:
    """1 in a pipeline. There FSDP keeps the weights gathered and the gradients whole through a step (torch
    FSDP2's `reshard_after_forward`, off under pipeline parallelism), and DeepSpeed refuses ZeRO 2 and 3."""
    return flag(np.greater(setup.p, 1), setup.t)


def groups_of(setup: TrainSetup) -> tuple[Array, Array]:
    """Devices that share the dense weights, and that share the same experts."""
    dense = data_parallel(setup) * setup.c
    return dense, np.maximum(1.0, dense / setup.e)


def optimiser_s(held: tuple[Array, Array], setup: TrainSetup, hardware: Hardware) -> dict[str, Array]:
    """AdamW over the weights of this rank, on the device or, offloaded, over PCIe on the host."""
    trained = 1.0 - (1.0 - LORA_SHARE) * flag(np.greater(setup.lora, 0), setup.lora)
    split = flag(np.greater_equal(setup.zero, 1), setup.t)
    weights: Array = 0.0
    for part, count in zip(held, groups_of(setup), strict=True):
        weights = weights + trained * part / (1.0 + split * (count - 1.0))
    return {
        "optimiser": (1.0 - setup.offload) * elementwise_s(OPTIMISER_BYTES * weights, hardware),
        "offload": setup.offload * weights * (6.0 / hardware.pcie + OPTIMISER_BYTES / HOST_BYTES_PER_S),
    }


# ------------------------------------------------------------------ memory


def offloaded_bytes(sizes: Sizes, setup: TrainSetup) -> Array:
    """What one device's optimiser holds in its host's memory."""
    trained = 1.0 - (1.0 - LORA_SHARE) * flag(np.greater(setup.lora, 0), setup.t)
    split = flag(np.greater_equal(setup.zero, 1), setup.t)
    held = zip(held_params(sizes, setup), groups_of(setup), strict=True)
    weights = sum(part / (1.0 + split * (n - 1.0)) for part, n in held)
    return setup.offload * setup.state_bytes * trained * weights


def train_memory_bytes(sizes: Sizes, setup: TrainSetup) -> Array:
    """Bytes the fullest device holds; see `train_memory_parts`."""
    return total(train_memory_parts(sizes, setup))


def train_memory_parts(sizes: Sizes, setup: TrainSetup) -> dict[str, Array]:
    """Bytes of weights 2, gradients 4 and AdamW 12 a parameter, of activations, logits and the runtime.

    Split by t and p; the optimiser by d from ZeRO 1, gradients from ZeRO 2, weights at ZeRO 3, the latter two
    outside pipelines alone. All in 16 bits, gradients take 2 and AdamW 4.
    """
    lora = flag(np.greater(setup.lora, 0), setup.t)
    trained = 1.0 - (1.0 - LORA_SHARE) * lora
    bits = 2.0 - lora * (2.0 - setup.weight_bits / 8.0)
    inside = 1.0 - piped(setup)
    stages = [flag(np.greater_equal(setup.zero, stage), setup.t) for stage in (1, 2, 3)]
    stages = [stages[0], stages[1] * inside, stages[2] * inside]
    whole = summed_whole(setup)
    weights: Array = 0.0
    gradients: Array = 0.0
    state: Array = 0.0
    for part, count in zip(held_params(sizes, setup), groups_of(setup), strict=True):
        over = [1.0 + stage * (count - 1.0) for stage in stages]
        weights = weights + bits * part / over[2]
        gradients = gradients + setup.gradient_bytes * trained * part * np.maximum(whole, 1.0 / over[1])
        state = state + setup.state_bytes * trained * part / over[0]
    rows = tokens_of(setup)
    return {
        "weights": weights + 2.0 * sizes.tower / (1.0 + stages[2] * (data_parallel(setup) - 1.0)),
        "gathered": stages[2] * gathered_bytes(sizes, setup, bits, trained),
        "gradients": gradients,
        "optimiser": (1.0 - setup.offload) * state,
        "activations": activation_bytes(sizes, setup),
        "logits": setup.logit_bytes * rows * sizes.vocab / setup.t,
        "runtime": RUNTIME_BYTES + 0.0 * rows,
    }


def summed_whole(setup: TrainSetup) -> Array:
    """1 where gradients of several micro-batches are summed whole beside a rank's own part of them."""
    if not np.any(setup.whole_gradients):
        return 0.0
    several = flag(np.greater(micro_batches(setup), 1), setup.t)
    return setup.whole_gradients * flag(np.greater_equal(setup.zero, 2), setup.t) * several


def gathered_bytes(sizes: Sizes, setup: TrainSetup, bits: Array, trained: Array) -> Array:
    """What ZeRO 3 holds whole at once, of its largest unit, a layer or the table of words: the weights, those
    of the next one that are on their way, the gradient in 16 bits and in the buffer that it is reduced from.
    """
    dense, experts = layer_held(sizes)
    grouped, within = (flag(np.greater(count, 1), setup.t) for count in groups_of(setup))
    layer = grouped * dense + within * experts / setup.e
    unit = np.maximum(layer, grouped * sizes.vocab * sizes.hidden) / setup.t
    own = (1.0 - summed_whole(setup)) * trained * (2.0 + setup.gradient_bytes)
    return unit * (GATHERED_UNITS * bits + own)


def activation_bytes(sizes: Sizes, setup: TrainSetup) -> Array:
    """What backward needs, of the first stage of a pipeline, which has most micro-batches in flight.

    A layer of a GPT: s b h (10 + 24 / t + 5 a s / (h t)); with sequence parallelism all of it over t; with
    selective recompute or fused attention without the scores; with full recompute 2 s b h (Korthikanti et al.
    2022, arXiv 2205.05198, equations 1 to 6). min(M, p) micro-batches are in flight, (1 + (p - 1) / (p v))
    times as many when interleaved.
    """
    m, h, t = tokens_of(setup), sizes.hidden, setup.t
    fused = np.asarray(setup.fused)
    selective = flag(np.equal(setup.recompute, 1), t) * fused
    # Inputs of norms and products, masks of dropout; without it, as in gated models, inputs alone.
    whole = (10.0 - 2.0 * sizes.gated - 4.0 * selective) * h
    # Queries, keys, values, output; the activation's inputs and its output, which selective recompute drops.
    inner = 2.0 * mean(sizes, "kept") - 2.0 * selective * mean(sizes, "mlp", "chosen", "out")
    scores = 5.0 * sizes.heads * setup.seq_len * (1.0 - fused)
    scores = scores * flag(np.less(setup.recompute, 1), setup.t)
    half = flag(np.equal(setup.recompute, 1.5), t)
    full = flag(np.greater_equal(setup.recompute, 2), setup.t)
    split = 1.0 + setup.sp * (t - 1.0)
    stored = (whole / split + (inner + scores) / t) * (1.0 - 0.5 * half)
    each = stored + full * (2.0 * h / split - stored)
    flight = np.minimum(micro_batches(setup), setup.p)
    interleaved = flag(np.greater(setup.v, 1), setup.t)
    flight = flight * (1.0 + interleaved * (setup.p - 1.0) / (setup.p * setup.v))
    again = full * stored  # the layer that is being repeated
    return m * (each * stage_layers(sizes, setup) * flight + again)
