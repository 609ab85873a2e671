"""Published training rows: setup in, the row's metric out.

What a row leaves open is inferred from what fits in memory and from what was usual in its year.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from steelyard.errors import WrongUse
from steelyard.hardware import Device

from ..physics.sizes import USABLE_MEMORY, Array, Sizes, mean, total
from ..physics.training import (
    GRADIENT_BYTES,
    LOGIT_BYTES,
    RECOMPUTE,
    REDUCED_16,
    STATE_BYTES,
    TrainSetup,
    train_memory_bytes,
    train_step_s,
)
from .cells import Row, devices_of, needed, number
from .constants import FRAMEWORKS, stack

FUSED_SINCE = "2022-07"  # FlashAttention (arXiv 2205.14135) reaches the frameworks
FUSIONS_SINCE = "2022-04"  # Megatron-LM 2.7: gradients added in their product, traffic beside it
MOST_MICRO_BATCH = 4  # where a row does not tell; more rarely helps and takes memory
TORCH_FUSED_SINCE = "2023-03"  # PyTorch 2.0 brings fused attention to eager models
NOW = 2025.0  # that constants are stated for
MOST_AGE = 2.0  # years over which software's yearly gain is trusted
PARTS_SINCE = "2024"  # Megatron-Core repeats as many layers, and parts of them, as memory asks
LAYOUT_SINCE = "2025"  # Megatron-Core: stages by a layout
NEAR = 1.15  # a published run did run, and this count of bytes is no more exact
MOST_VIRTUAL = 4.0
TABLES = 2.0  # embedding and head may stand in a pipeline as a layer each
MODEL_FLOPS_SINCE = "2023"  # Megatron-LM counts no repeated forward in its FLOP/s; before, and its forks, do
INTERLEAVING = ("automodel",)  # by default, in stages of any length (NeMo AutoModel, distributed training)
# What a stack does otherwise. Around Hugging Face's models in 16 bits throughout: gradients and moments have
# no FP32, kernels come one by one; of a logit 16 bits, FP32, log-softmax and the gradient in both are kept;
# FSDP sums gradients whole (accelerate, GradientAccumulationPlugin: sync_each_batch is off).
OTHERWISE = {
    "fms-hf-tuning": {
        "gradient_bytes": 2.0,
        "state_bytes": 4.0,
        "reduced_bytes": REDUCED_16,
        "logit_bytes": 16.0,
        "whole_gradients": 1.0,
        "eager": 1.0,
    },
}
# Of the bytes that sharded training needs, what PyTorch's allocator holds where there is room: layers are
# gathered and freed on several streams, and a block that another may still read is not taken again.
RESERVED = 1.2
FORKS = ("megatron-deepspeed", "megatron deepspeed", "neox")
PER_OPERATION = ("torchtitan", "fsdp2")  # their selective recompute saves every other product
PORTABLE_ATTENTION = 0.4  # of the peak: FlashAttention-2 on Hopper (Shah et al. 2024, arXiv 2407.08608)
SHARDED = ("fsdp", "hsdp", "zero-3", "zero3", "zero stage 3", "llm-foundry", "composer", "olmo-core")
NARROW = {"fp4": ("fp4", "float4"), "fp8": ("fp8", "float8", "e4m3")}
WIDER = ("fp16", "float16", "bf16", "bfloat16", "tf32", "fp32", "float32", "f32")
MIXED = ("", "mixed", "amp", "16-bit", "16-mixed", "half")
REPEATED = {  # other words for what is repeated
    "yes": "full", "true": "full", "on": "full", "1": "full", "block": "full", "uniform": "full",
    "no": "none", "false": "none", "off": "none", "0": "none", "partial": "half",
}  # fmt: skip
WIDE_DOMAIN = 8  # devices: links that reach farther than a host do so whatever the host holds


def setup_of(row: Row, sizes: Sizes, hardware: dict[str, float]) -> dict[str, float]:
    """The fields of TrainSetup as the row tells them, the rest inferred."""
    words = " ".join((row.get("framework") or "", row.get("phase") or "")).lower()
    style = style_of(row)
    date = (row.get("date") or "9999").strip()
    devices, engine = devices_of(row), stack(row.get("framework") or "")
    given = {
        "devices": devices,
        "t": number(row, "tp"),
        "p": number(row, "pp"),
        "v": 2.0 if "interleaved" in words else None,
        "c": number(row, "cp") or 1.0,
        "e": None if sizes.experts else 1.0,
        "d": number(row, "dp"),
        "micro_batch": number(row, "micro_batch"),
        "global_batch": number(row, "global_batch"),
        "seq_len": needed(row, "seq_len"),
        "recompute": _recompute(row, words, style),
        "zero": number(row, "zero_stage"),
        "low_precision": float(precision_of(row) in NARROW),
        "lora": float("lora" in words),
        "weight_bits": _frozen_bits(row, words),
        "extra_forward": float("dpo" in words or "distil" in words),
        "fused": float(date >= (TORCH_FUSED_SINCE if "eager" in words else FUSED_SINCE)),
        "fusions": float(date >= FUSIONS_SINCE),
        "balanced": float(style == "megatron"),
        "layout": float(date >= LAYOUT_SINCE and style == "megatron"),
        "eager": float("eager" in words),
        "pruned": float(style == "xla"),
        "reduced_bytes": REDUCED_16 if "deepspeed" in words or style == "deepspeed" else GRADIENT_BYTES,
        "logit_bytes": LOGIT_BYTES,
        "gradient_bytes": GRADIENT_BYTES,
        "state_bytes": STATE_BYTES,
        "whole_gradients": 0.0,
    }
    given |= OTHERWISE.get(engine, {})
    if given["zero"] is None:
        given["zero"] = 3.0 if style == "xla" or any(w in words for w in SHARDED) else 1.0
    given["sp"] = float("sequence parallel" in words or date >= FUSED_SINCE)
    if engine in INTERLEAVING:
        given |= {"layout": 1.0, "v": given["v"] or MOST_VIRTUAL}
    return _filled(given, sizes, hardware, _repeated(style, date), style)


def style_of(row: Row) -> str:
    """How a stack splits and repeats work: megatron, deepspeed, torch or xla; untold and in-house ones that
    train large models follow Megatron."""
    name, words = stack(row.get("framework") or ""), (row.get("framework") or "").lower()
    if name in FRAMEWORKS["xla"] or "jax" in words or re.match("tpu|trainium", row["device"].lower()):
        return "xla"  # on these devices PyTorch is compiled by XLA too
    if "deepspeed" in words or name == "gaudi":
        return "deepspeed"
    return "torch" if name in FRAMEWORKS["torch"] or "fsdp" in words else "megatron"


def precision_of(row: Row) -> str:
    """The precision of the matrix products: "mixed" is 16 bits, FP8 and FP4 by any of their names."""
    written = (row.get("precision") or "").strip().lower()
    for name, words in NARROW.items():
        if any(w in written for w in words):
            return name
    if re.match("(w4|q4|nf4|int)", written):
        if "lora" not in (row.get("framework") or "").lower() + row["phase"].lower():
            raise WrongUse("results.precision", f"training in {written} is not known")
        return "bf16"  # frozen weights are unpacked first
    return next((name for name in WIDER if name in written), "bf16" if written in MIXED else written)


def scale_up(device: Device, node: float) -> float:
    """Devices that reach each other over the scale-up links, of which a row's node may be a part."""
    if device.scaleup_topology == "torus":
        return float(max(device.scaleup_devices, node))
    return float(max(device.scaleup_devices, node)) if device.scaleup_devices > WIDE_DOMAIN else node


def _frozen_bits(row: Row, words: str) -> float:
    """Bits of the weights under an adapter."""
    weight_bits = number(row, "weight_bits") or 16.0
    packed = "qlora" in words or re.match("(w4|q4|nf4|int4)", (row.get("precision") or "").lower())
    return 4.0 if packed else weight_bits if "lora" in words else 16.0


def attention_share(row: Row, share: float) -> float:
    """Of the peak, in fused attention: PyTorch's own kernel is not written for each device."""
    return min(share, PORTABLE_ATTENTION) if style_of(row) == "torch" else share


def counted(row: Row) -> float:
    """1 where published FLOP/s count repeated forwards (Narayanan et al. 2021, equation 3), else 0."""
    words, date = (row.get("framework") or "").lower(), (row.get("date") or "9999").strip()
    early = "megatron" in words and date < MODEL_FLOPS_SINCE
    return float(early or any(w in words for w in FORKS))


def _recompute(row: Row, words: str, style: str) -> float | None:
    written = (row.get("recompute") or "").strip().lower()
    written = REPEATED.get(written, written)
    if written == "selective" and (style == "xla" or any(w in words for w in PER_OPERATION)):
        return RECOMPUTE["half"]
    return float(RECOMPUTE[written]) if written in RECOMPUTE else None


def _filled(
    given: dict[str, Any],
    sizes: Sizes,
    hardware: dict[str, float],
    recomputes: tuple[float, ...],
    style: str,
) -> dict[str, float]:
    """What is not told: of the settings that fit, the one with the fewest splits and the least repeated.

    A published run did run, so where nothing fits by this count the smallest need stands.
    """
    grid = _grid(given, sizes, hardware, recomputes)
    columns = given | dict(zip(grid, (np.array(c) for c in grid.values()), strict=True))
    columns["v"] = given["v"] or _virtual(sizes.layers, columns["p"], style)
    columns["v"] = np.where(columns["p"] > 1, columns["v"], 1.0)
    columns["sp"] = (columns["t"] > 1) * given["sp"]
    columns = {name: np.broadcast_to(np.asarray(v, float), columns["t"].shape) for name, v in columns.items()}
    setup = TrainSetup(**columns)
    need = train_memory_bytes(sizes, setup)
    fits = need <= NEAR * USABLE_MEMORY * hardware["memory"]
    at = int(np.argmax(fits)) if fits.any() else int(np.argmin(need))
    return {name: float(v[at]) for name, v in columns.items()}


def _repeated(style: str, date: str) -> tuple[float, ...]:
    """What an untold run may repeat: all of a layer or none, in Megatron the attention core first, and since
    it picks layers and parts of them (recompute_num_layers, recompute_modules), never everything."""
    if style != "megatron":
        return (RECOMPUTE["none"], RECOMPUTE["full"])
    most = RECOMPUTE["half"] if date >= PARTS_SINCE else RECOMPUTE["full"]
    return (RECOMPUTE["none"], RECOMPUTE["selective"], most)


def _virtual(layers: float, stages: np.ndarray, style: str) -> np.ndarray:
    """Virtual stages of a published, so tuned, run of Megatron: as many as divide a stage, at most 4."""
    if style != "megatron":
        return np.ones(len(stages))
    own = np.ceil(layers / stages)
    own = np.where(own * stages - layers <= TABLES, own, layers / stages)
    fitting = [v for v in np.arange(1.0, MOST_VIRTUAL + 1) if v == 1 or v < layers]
    best = np.ones(len(stages))
    for v in fitting:
        best = np.where((stages > 1) & (np.abs(own / v - np.round(own / v)) < 1e-6), v, best)
    return best


def _grid(
    given: dict[str, Any], sizes: Sizes, hardware: dict[str, float], recomputes: tuple[float, ...]
) -> dict[str, list]:
    """Candidates of what is open, the preferred first."""
    devices, node = given["devices"], hardware["node"]
    columns: dict[str, list] = {
        n: [] for n in ("t", "p", "d", "e", "micro_batch", "global_batch", "recompute")
    }
    for p, t in _splits(given, node):
        d = max(1.0, devices / (t * p * given["c"]))
        whole = given["global_batch"] or (given["micro_batch"] or 1.0) * d * max(8.0, 4 * p)
        own = max(1.0, whole / d)
        for recompute in [given["recompute"]] if given["recompute"] is not None else recomputes:
            for e in [given["e"]] if given["e"] else _experts(sizes, d * given["c"], node):
                for b in [given["micro_batch"]] if given["micro_batch"] else _micro(own, p):
                    for name, value in zip(columns, (t, p, d, e, b, whole, recompute), strict=True):
                        columns[name].append(value)
    return columns


def _splits(given: dict[str, Any], node: float) -> list[tuple[float, float]]:
    """Pipeline and tensor splits that may be, fewest first: with a told data-parallel size they fill the
    devices, and each replica has a sequence, where that can be. Sharded weights are split no further."""
    devices, sharded = given["devices"], given["zero"] == 3
    stages = [given["p"]] if given["p"] else _powers(1 if sharded else min(64, devices))
    splits = [
        (p, t) for p in stages for t in ([given["t"]] if given["t"] else _powers(min(8, node, devices / p)))
    ]
    filling = [(p, t) for p, t in splits if p * t * given["c"] * (given["d"] or 0.0) == devices]
    most = given["global_batch"] or devices
    busy = [(p, t) for p, t in filling or splits if devices / (p * t * given["c"]) <= most]
    splits = busy or filling or splits
    return splits[:1] if sharded and not given["t"] else splits


def _powers(most: float) -> list[float]:
    return [2.0**i for i in range(12) if 2**i <= max(1.0, most)]


def _experts(sizes: Sizes, group: float, node: float) -> list[float]:
    """Expert groups: as wide as the scale-up domain first, wider where memory asks."""
    sizes_possible = [e for e in _powers(min(sizes.experts, group)) if sizes.experts % e == 0]
    inside = [e for e in sizes_possible if e <= node]
    return inside[-1:] + [e for e in sizes_possible if e > node]


def _micro(own: float, p: float) -> list[float]:
    """Micro-batches that keep four of them a pipeline stage in flight, the largest first."""
    most = max(1.0, min(MOST_MICRO_BATCH, own / (4 * p if p > 1 else 1)))
    return _powers(most)[::-1]


def age_of(row: Row) -> float:
    """Years from NOW to the row's software, at most MOST_AGE either way; 0 where undated."""
    matched = re.match(r"(\d{4})(?:-(\d{1,2}))?", (row.get("date") or "").strip())
    if not matched:
        return 0.0
    return age(float(matched[1]) + (float(matched[2] or 7) - 1.0) / 12.0)


def age(year: float) -> float:
    """Years from NOW to software of that year, as far as the yearly gain is trusted."""
    return float(np.clip(year - NOW, -MOST_AGE, MOST_AGE))


def matured(constant: Mapping[str, Array], years: Array) -> dict[str, Array]:
    """The constants of software that is `years` younger: kernels, host and overlap gain alike."""
    gain = np.exp(constant["train.yearly"] * years)
    return {
        **constant,
        "train.efficiency": constant["train.efficiency"] * gain,
        "train.launch_s": constant["train.launch_s"] / gain,
        "train.communication": constant["train.communication"] / gain,
    }


def values_of(table: Any, constant: dict[str, np.ndarray]) -> np.ndarray:
    """Each row's metric. Published FLOP/s and MFU count attention's full square, windows or not; `counted`
    FLOP/s count what is repeated too."""
    setup = table.setup
    matured_constants = matured(constant, table.extra["age"])
    step = total(train_step_s(table.sizes, setup, table.hardware, matured_constants))
    tokens = setup.global_batch * setup.seq_len
    rate = tokens / step / setup.devices
    square = 4.0 * table.sizes.layers * mean(table.sizes, "core") * setup.seq_len
    forward = (2.0 * table.sizes.active + square) * rate
    model_flops = (3.0 - setup.lora) * forward  # frozen weights have no gradients
    repeated = np.maximum(0.0, setup.recompute - 1.0) * forward
    each = {
        "tokens_per_s_per_device": rate,
        "tflops_per_device": (model_flops + table.extra["counted"] * repeated) / 1e12,
        "step_time_s": step,
        "mfu": (model_flops + table.extra["counted"] * repeated) / table.peak16,
        "hfu": (model_flops + repeated) / table.peak16,
        "samples_per_s": setup.global_batch / step,
    }
    return np.select([table.metrics == name for name in each], list(each.values()))


def memory_of(table: Any) -> np.ndarray:
    """Bytes of the fullest device as its driver counts them, in each row's unit: what is needed, and what the
    allocator keeps beside it as far as there is memory."""
    kept = 1.0 + (RESERVED - 1.0) * sharded(table.setup)
    need = np.asarray(train_memory_bytes(table.sizes, table.setup))
    return np.maximum(need, np.minimum(need * kept, table.hardware.memory)) * table.extra["factor"]


def sharded(setup: TrainSetup) -> np.ndarray:
    """Whether weights are gathered layer by layer from several devices."""
    return np.asarray(np.greater_equal(setup.zero, 3) & np.greater(setup.devices, 1))


def has_room(table: Any) -> np.ndarray:
    """Whether what each run needs fits its device: an allocator gives back what it keeps beside that."""
    return np.asarray(train_memory_bytes(table.sizes, table.setup)) <= table.hardware.memory
