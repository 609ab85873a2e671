"""Published serving rows: what their cells mean, and the row's metric from a setup.

A published run did run: where sizes say that it could not, what is not told (offload, a higher memory
limit) is taken to have helped. Nothing here looks at a row's source.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from steelyard.errors import WrongUse
from steelyard.hardware import Device

from ..physics.inference import ServeSetup, mtp_s, prompt_s, serve_s, shared_prefill_s
from ..physics.sizes import RUNTIME_BYTES, Sizes, cached_share, total
from .cells import Row, devices_of, number
from .constants import stack

REQUESTS = 1000.0  # of a load offered at once: the default of vLLM's and SGLang's benchmarks
OFFERED = 256.0  # requests of a batch when all are offered at once: the default of vLLM and its kin
ENGINE_MEMORY = 0.9  # of a device's memory, the usual default of --gpu-memory-utilization
LEAST_ROOM = 0.05  # of the memory is left for the KV cache where the sums leave none
WEIGHT_ONLY = ("openvino", "llama.cpp")  # unpack 8-bit weights to 16 bits before the products
UNDATED = 2025.5  # the year of an engine that a row does not date
PROMPT, OUTPUT = 512.0, 128.0  # tokens, where a row does not tell

# Words of the framework cell. How many tokens a multi-token prediction drafts is seldom told: SGLang and
# TensorRT-LLM are run with 3 on DeepSeek-R1, of which half and more are taken (DeepSeek-V3, arXiv 2412.19437,
# section 5.4.3: 0.85 to 0.9 of the first).
EXPERTS = re.compile(r"\bEP (\d+)\b")
ATTENTION_APART = re.compile(r"\bDP attention\b")
MTP = re.compile(r"\bMTP\b")
DRAFTED, ACCEPTED = 3.0, 0.5
# Half width in logs that this leaves untold: a step makes 2.5 tokens so, 1.9 with one drafted and taken as in
# that paper, 3.25 with three quarters of three.
UNTOLD = 0.27
# What is measured, by the words used for it; everything in seconds, tokens/s and requests/s.
KINDS = {
    "output_tokens_per_s": "output", "tokens_per_s": "output", "throughput": "output",
    "output_throughput": "output", "output_token_throughput": "output", "generation_tokens_per_s": "output",
    "throughput_tokens_per_s": "output", "tps": "output",
    "generation_throughput": "output", "total_tokens_per_s": "total", "total_token_throughput": "total",
    "prefill_tokens_per_s": "prompt", "input_tokens_per_s": "prompt", "prompt_tokens_per_s": "prompt",
    "decode_tokens_per_s": "decode", "tokens_per_s_per_user": "user", "output_tokens_per_s_per_user": "user",
    "requests_per_s": "requests", "request_throughput": "requests", "samples_per_s": "requests",
    "queries_per_s": "requests", "qps": "requests", "token": "tpot",
    "output_token": "tpot", "tpot": "tpot", "itl": "tpot",
    "inter_token_latency": "tpot", "time_per_output_token": "tpot", "token_latency": "tpot",
    "next_token_latency": "tpot", "second_token_latency": "tpot", "ttft": "ttft",
    "time_to_first_token": "ttft", "first_token_latency": "ttft", "prefill_latency": "ttft",
    "prefill_time": "ttft", "latency": "latency", "e2e_latency": "latency", "request_latency": "latency",
    "end_to_end_latency": "latency",
}  # fmt: skip
TIME_UNITS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e3, "milliseconds": 1e3, "us": 1e6}
TIMES = ("tpot", "ttft", "latency")
RATE_UNIT = re.compile(
    r"^([tq]ps|(tok(en)?s?|req(uest)?s?|samples?|queries)(/|_per_| per )(s|sec|second))"
    r"((/|_per_| per )(device|gpu|card|chip|accelerator|socket|user))?$"
)


@dataclass(frozen=True, slots=True)
class Metric:
    """What a row states: the kind, units of it in one SI unit, and whether of one device."""

    kind: str
    factor: float = 1.0
    per_device: bool = False


def metric_of(row: Row) -> Metric:
    """The row's metric, however it is spelled. Raises WrongUse where metric or unit is not known."""
    name = re.sub(r"[^a-z0-9]+", "_", row["metric"].strip().lower()).strip("_")
    unit = (row.get("unit") or "").strip().lower()
    per_device = bool(re.search(r"(/|_per_| per )(device|gpu|card|chip|accelerator|socket)$", unit))
    name, cut = re.subn(r"_per_(device|gpu|card|chip|accelerator|socket)$", "", name)
    name = re.sub(r"^(mean|median|avg|average|p50)_", "", name).replace("_per_sec", "_per_s")
    name = name.replace("_per_second", "_per_s")
    matched = re.match(r"^(s|ms|us)_per_(.+)$", name) or re.match(r"^()(.+)$", name)
    assert matched
    ending = re.search(r"_(s|ms|us)$", matched[2]) if matched[2] not in KINDS else None
    kind = KINDS.get(matched[2][: ending.start()] if ending else matched[2])
    if kind is None:
        raise WrongUse("results.metric", f"the metric {row['metric']!r} is not known", hint=_metric_names())
    if kind in TIMES:
        unit = unit.split("/")[0] or matched[1] or (ending[1] if ending else "")
        if unit not in TIME_UNITS:
            raise WrongUse("results.unit", f"the unit {row.get('unit')!r} is not known for {row['metric']}")
        return Metric(kind, TIME_UNITS[unit])
    if unit and not RATE_UNIT.match(unit):
        raise WrongUse("results.unit", f"the unit {row.get('unit')!r} is not known for {row['metric']}")
    kind = "user" if unit.endswith("user") else kind
    if kind == "output" and row.get("phase") in ("prefill", "decode"):
        kind = {"prefill": "prompt", "decode": "decode"}[row["phase"]]
    return Metric(kind, 1.0, per_device or bool(cut))


def _metric_names() -> str:
    return "such as output_tokens_per_s, ttft_ms, ms_per_output_token or requests_per_s"


# How a precision is written -> the format of the products.
FORMATS = (
    (re.compile(r"fp8|e4m3|e5m2|f8"), "fp8"),
    (re.compile(r"fp4|e2m1"), "fp4"),
    (re.compile(r"bf16|bfloat16"), "bf16"),
    (re.compile(r"fp16|f16|float16|half"), "fp16"),
    (re.compile(r"tf32"), "tf32"),
    (re.compile(r"fp32|f32|float32"), "fp32"),
    (re.compile(r"w4|int4|u4|nf4|4-?bit|q[2-5]_|^i?q[2-5]$|awq|gptq|gguf"), "int4"),
    (re.compile(r"w8|int8|q[68]_|8-?bit|smoothquant"), "int8"),
)
# Serve one request unless told otherwise.
ONE_STREAM = ("llama.cpp", "ipex", "openvino", "transformers", "mlx")


def format_of(row: Row) -> str:
    """The row's format as the catalogue names it; as it is written where it is not known."""
    written = (row.get("precision") or "bf16").strip().lower()
    return next((name for pattern, name in FORMATS if pattern.search(written)), written)


def precision_of(row: Row, device: Device) -> str:
    """The precision of the products: 16 bits where integer weights are unpacked first."""
    return "bf16" if weight_only(row, device) else format_of(row)


def weight_only(row: Row, device: Device) -> bool:
    """Integer weights, 16-bit products: 4 bits always, 8 bits in some engines and where these are faster."""
    written, format_name = (row.get("precision") or "").strip().lower(), format_of(row)
    if format_name in ("bf16", "fp16", "tf32", "fp32"):
        return (number(row, "weight_bits") or 16.0) < 16
    slower = (device.peak_flops("int8") or 0.0) < (device.peak_flops("bf16") or 0.0)
    unpacked = stack(row.get("framework") or "") in WEIGHT_ONLY or re.search(
        r"a16|q[68]_|weight|woq", written
    )
    return format_name == "int4" or (format_name == "int8" and (slower or bool(unpacked)))


def year_of(row: Row) -> float:
    """The year of a row's date, its month as a fraction."""
    matched = re.match(r"^(20\d\d)(?:-(\d\d))?", (row.get("date") or "").strip())
    if not matched:
        return UNDATED
    return float(matched[1]) + (float(matched[2]) / 12 if matched[2] else 0.5)


def setup_of(
    row: Row, sizes: Sizes, hardware: dict[str, float], device: Device
) -> tuple[dict[str, float], dict[str, float]]:
    """The setup of one replica, and what else the row's value depends on."""
    engine = stack(row.get("framework") or "")
    if engine == "llama.cpp" and device.family == "intel" and devices_of(row) > 1:
        raise WrongUse("results.stack", "llama.cpp has no published way over several Intel GPUs")
    metric, bits = metric_of(row), number(row, "weight_bits") or _bits(row)
    requested = _requested(row, metric, engine)
    t, p, replicas = split_of(row, sizes, hardware, engine, requested, bits)
    e = experts_of(row, sizes)
    if ATTENTION_APART.search(row.get("framework") or "") and sizes.experts:
        t, replicas, e = 1.0, replicas * t, max(e, t)
    drafted = DRAFTED if MTP.search(row.get("framework") or "") else 0.0
    setup = {
        "t": t,
        "p": p,
        "e": e,
        "batch": max(1.0, requested / replicas) if requested else OFFERED,
        "prompt": number(row, "prompt_len", PROMPT) or PROMPT,
        "output": max(1.0, number(row, "output_len", OUTPUT) or OUTPUT),
        "weight_bits": bits,
        "kv_bits": 8.0 if not number(row, "kv_bits") and bits < 16 and engine == "tensorrt-llm" else 16.0,
        "weight_only": float(weight_only(row, device)),
        "year": year_of(row),
        "draft": drafted,
        "accept": ACCEPTED,
    }
    if metric.kind not in TIMES:  # a time a token is told of a batch that ran
        setup["batch"] = max(1.0, min(setup["batch"], _held(setup, sizes, hardware["memory"])))
    return setup, {
        "replicas": replicas,
        "devices": t * p * replicas,
        "drains": float(not requested and _unequal(setup["output"])),
        "together": float(bool(number(row, "micro_batch"))),  # a static batch: all prompts arrive at once
        "alone": float(row.get("phase") == "decode"),
        "untold": UNTOLD if drafted and metric.kind not in ("ttft", "prompt") else 0.0,
    }


def _requested(row: Row, metric: Metric, engine: str) -> float | None:
    """Requests in flight: as told; one for what is asked of one user or by an engine that serves one; None
    where all are offered at once."""
    told = number(row, "concurrency") or number(row, "micro_batch")
    one = engine in ONE_STREAM or metric.kind in (*TIMES, "user") or row["phase"] != "serve"
    return told or (1.0 if one else None)


def _held(setup: Mapping[str, float], sizes: Sizes, memory: float) -> float:
    """Requests whose KV cache, half of the answer written, has room beside the weights of a replica."""
    t, p, bits = setup["t"], setup["p"], setup["weight_bits"]
    room = (ENGINE_MEMORY * memory - RUNTIME_BYTES) * t * p - sizes.params * bits / 8
    room = max(room, LEAST_ROOM * memory * t * p)
    length = setup["prompt"] + setup["output"] / 2
    cached_tokens = length * float(cached_share(length, sizes.sliding, sizes.sliding_share))
    return float(room / (sizes.kv_bytes * setup["kv_bits"] / 16 * cached_tokens))


def _unequal(output: float) -> bool:
    """No round number is a mean over a data set: of answers offered at once the long ones end alone."""
    return output % 16 != 0 and output % 10 != 0


def experts_of(row: Row, sizes: Sizes) -> float:
    """Devices that whole experts are spread over: "EP 8" of the framework cell, 1 where it tells none."""
    told = EXPERTS.search(row.get("framework") or "")
    return float(told[1]) if told and sizes.experts else 1.0


def _bits(row: Row) -> float:
    """Bits of a weight by the name of its format, or by the number within it (q6_k, w8a8)."""
    named = {"int4": 4.0, "fp4": 4.0, "int8": 8.0, "fp8": 8.0, "fp32": 32.0, "tf32": 32.0}
    matched = re.search(r"^i?q(\d)", (row.get("precision") or "").strip().lower())
    if matched:  # below 6 bits `stored_bits` adds the scales
        return float(matched[1]) + (0.5 if float(matched[1]) >= 6 else 0.0)
    return named.get(format_of(row), 16.0)


def split_of(
    row: Row,
    sizes: Sizes,
    hardware: dict[str, float],
    engine: str,
    requested: float | None,
    bits: float,
) -> tuple[float, float, float]:
    """Tensor and pipeline parallelism of one replica, and how many replicas there are.

    Untold, llama.cpp puts layers one after the other; a load that is offered at once is served by as many
    replicas as hold the weights; a stated one by all devices together.
    """
    devices = devices_of(row)
    t, p, d = number(row, "tp"), number(row, "pp"), number(row, "dp")
    if not t and engine == "llama.cpp":
        return 1.0, p or devices, 1.0
    if not t and (d or p):
        t = max(1.0, devices / ((d or 1.0) * (p or 1.0)))
    if not t:
        most = max(1.0, min(devices, hardware["node"]))
        held = 1.2 * sizes.params * bits / 8 / (ENGINE_MEMORY * hardware["memory"])
        t = most if requested else min(most, 2.0 ** np.ceil(np.log2(max(1.0, held))))
        p = 1.0 if not requested else devices / t
    p = p or 1.0
    return float(t), float(p), max(1.0, float(devices // (t * p)) or 1.0)


def drafting(table: Any, constant: dict[str, np.ndarray]) -> ServeSetup:
    """The setups with the time that a multi-token prediction takes to propose a token."""
    setup: ServeSetup = table.setup
    if not np.any(setup.draft):
        return setup
    return replace(setup, draft_s=mtp_s(table.sizes, setup, table.hardware, constant))


def values_of(table: Any, constant: dict[str, np.ndarray]) -> np.ndarray:
    """Each row's value in its own unit."""
    setup, extra = drafting(table, constant), table.extra
    parts = serve_s(table.sizes, setup, table.hardware, constant)
    prefill, step = parts["prefill"], total(parts["decode"])
    batch, output = setup.batch, setup.output
    all_prompts = total(prefill) + (batch - 1) * prompt_s(prefill)
    mixed = np.where((extra["alone"] > 0) | (extra["together"] > 0), 0.0, 1.0)
    ahead = constant["serve.burst"] / (1 + constant["serve.burst"])
    tpot = step + mixed * (1 - ahead) * shared_prefill_s(parts, batch, output)
    waiting = total(prefill) * (1 + ahead * (batch - 1)) + np.where(batch > 1, step, 0.0)
    ttft = np.where(extra["together"] > 0, all_prompts, waiting)
    waves = REQUESTS / (extra["replicas"] * batch)
    full = np.where(extra["drains"] > 0, waves / (waves + constant["serve.drain"]), 1.0)
    answers = extra["replicas"] * batch * full / (all_prompts + output * step)
    each = {
        "output": answers * output,
        "total": answers * (output + setup.prompt),
        "requests": answers,
        "prompt": extra["replicas"] * batch * setup.prompt / all_prompts,
        "decode": extra["replicas"] * batch / step,
        "user": 1 / tpot,
        "tpot": tpot,
        "ttft": ttft,
        "latency": ttft + (output - 1) * tpot,
    }
    values = np.select([table.metrics == name for name in each], list(each.values()))
    return values * extra["factor"] / np.where(extra["per_device"] > 0, extra["devices"], 1.0)
