"""The settings that serve a model on one device under a load: splits, batch, bits, replicas, two pools.

Requests either arrive by themselves (a rate and its burstiness), or a number of users is always answered, or
all prompts are there at once (batch scoring). Not here: the time of one step (inference.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import product
from math import exp
from typing import Any

import numpy as np

from steelyard.units import Figure

from .constants import Constants, groups, values
from .cost import energy_kwh
from .inference import ServeSetup, serve_memory_bytes, serve_s
from .offer import Offer, computes_in, room_bytes
from .plans import Plan, within_limits
from .request import Request
from .sizes import Array, Hardware, Sizes, total
from .train_search import Found, memory_figure, needs_more, no_plan, power_of, priced

SERVE_STACK = {"gpu": "vllm", "accelerator": "vllm", "cpu": "openvino"}
BITS = {"f32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "fp4": 4, "int4": 4}
USUAL = ("bf16", "int8")  # int4 only where asked for, or where nothing else fits: it costs quality
MOST_BATCH = 1024
PREFILL_LOAD = 0.7  # of its time that a pool for prefill alone is busy
ROUNDS = 24  # of the fixed point of the batch
STABLE = 0.95  # of the engine's time that prefill may take
REPLAYED = 2000  # requests
FINALISTS = 8


def search_serving(request: Request, offer: Offer, constants: Constants, fine: bool = True) -> Found:
    """The cheapest settings that hold the SLO; where none does, those that miss it least."""
    hardware = offer.hardware("bf16")
    if hardware is None:
        return Found(no_plan(offer, "no peak of its matrix units was ever published"))
    found = _among(request, offer, hardware, constants, precisions_of(request, offer), fine)
    if found.fit or request.precisions:
        return found
    return _among(request, offer, hardware, constants, ("int4",), fine)


def precisions_of(request: Request, offer: Offer) -> tuple[str, ...]:
    """Forms of the weights: as asked, where the device computes FP8 and FP4; else 16 and 8 bits."""
    asked = [p for p in request.precisions or USUAL if p in BITS]
    return tuple(p for p in asked if p in ("int8", "int4") or computes_in(offer.device, p) or p == "bf16")


def _among(
    request: Request,
    offer: Offer,
    hardware: Hardware,
    constants: Constants,
    forms: tuple[str, ...],
    fine: bool,
) -> Found:
    columns, considered = _grid(request, offer, hardware, forms, fine)
    divide = len(columns["t"])
    if not divide:
        return Found(no_plan(offer, "its heads cannot be split over it"), considered)
    told = evaluate(request, offer, hardware, constants, columns)
    room = room_bytes(request, offer.device)
    fits = told["memory"] <= room
    if not fits.any():
        need = float(told["memory"].min())
        plan = no_plan(offer, needs_more(need, room), {"memory": need / room}, need)
        return Found(plan, considered, divide)
    at, told = _taken(request, offer, told, fits)
    plan = _plan_of(request, offer, constants, columns, told, at)
    return Found(plan, considered, divide, int(fits.sum()))


def _grid(
    request: Request, offer: Offer, hardware: Hardware, forms: tuple[str, ...], fine: bool
) -> tuple[dict[str, np.ndarray], int]:
    """All combinations as flat columns, those that do not divide left out; and how many there were."""
    most = min(offer.most, 1024)
    several = request.in_batch or request.arrival_per_s or request.users > 1
    replicas = [2**i for i in range(11) if 2**i <= (most if several else 1)]
    if not (request.in_batch or request.arrival_per_s):
        replicas = [r for r in replicas if r <= request.users]
    axes = {
        "t": [2**i for i in range(7) if 2**i <= min(hardware.node, most)],
        "p": [1, 2, 4, 8] if fine else [1, 4],
        "form": list(range(len(forms))),
        "kv_bits": [BITS[k] for k in request.kv_precisions] or [16],
        "replicas": replicas,
        "apart": [0, 1] if several and not request.in_batch and fine else [0],
        "batch": [2**i for i in range(11)] if request.in_batch else [0],
    }
    rows = np.array(list(product(*axes.values())), float)
    columns = dict(zip(axes, rows.T, strict=True))
    columns["weight_bits"] = np.array([float(BITS[f]) for f in forms])[columns["form"].astype(int)]
    columns["forms"] = np.array(forms)[columns["form"].astype(int)]
    shape = request.shape
    even = (
        (shape.heads % columns["t"] == 0)
        & (columns["p"] <= shape.layers)
        & (columns["t"] * columns["p"] * columns["replicas"] <= most)
    )
    return {k: v[even] for k, v in columns.items()}, len(rows)


# ------------------------------------------------------------------ load


def evaluate(
    request: Request,
    offer: Offer,
    hardware: Hardware,
    constants: Constants,
    columns: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """Time to first token, time per token, memory, devices and seconds of each candidate, as arrays."""
    constant = values(constants, "serve", groups(offer.device, SERVE_STACK[offer.device.kind]))
    sizes = Sizes.of(request.shape, request.prompt_tokens)
    sizes = replace(sizes, kv_bytes=sizes.kv_bytes * columns["kv_bits"] / 16)

    def one(batch: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        setup = ServeSetup(
            t=columns["t"], p=columns["p"], batch=np.maximum(1.0, batch), prompt=request.prompt_tokens,
            output=request.output_tokens, weight_bits=columns["weight_bits"],
        )  # fmt: skip
        told = serve_s(sizes, setup, hardware, constant)
        return told["prefill"], told["decode"]

    kv_per_s = hardware.scaleout * hardware.nic_share
    moved_s = request.prompt_tokens * sizes.kv_bytes / kv_per_s * columns["apart"]
    load = _arrivals if request.arrival_per_s and not request.in_batch else _closed
    told = load(request, columns, one, moved_s)
    held = np.minimum(np.maximum(1.0, np.ceil(told["batch"])), MOST_BATCH)
    setup = ServeSetup(
        t=columns["t"], p=columns["p"], batch=held, prompt=request.prompt_tokens,
        output=request.output_tokens, weight_bits=columns["weight_bits"],
    )  # fmt: skip
    memory = serve_memory_bytes(request.shape, setup, sizes.kv_bytes)
    split = columns["t"] * columns["p"]
    cache = held * (request.prompt_tokens + request.output_tokens) * sizes.kv_bytes / split
    weights = request.shape.params * columns["weight_bits"] / 8 / split
    engines = columns["replicas"] + told["prefill_replicas"]
    return told | {
        "memory": memory,
        "devices": split * engines,
        "bytes": {"weights": weights, "kv": cache, "runtime": memory - weights - cache},
        "moved_s": moved_s,
        "fits_number": split * engines <= offer.most,
    }


def _closed(request: Request, columns: Mapping[str, np.ndarray], one: Any, moved_s: Array) -> dict[str, Any]:
    """Requests always in flight: a cycle of a replica is its prefills and its steps.

    With prefill apart, as many replicas of it as the rate of answers keeps busy.
    """
    apart, output = columns["apart"], float(request.output_tokens)
    batch = columns["batch"] if request.in_batch else request.users / columns["replicas"]
    batch = np.maximum(1.0, batch)
    prefill_parts, decode_parts = one(batch)
    prefill, step = total(prefill_parts), total(decode_parts)
    shared = (1 - apart) * batch * prefill
    cycle = output * step + shared + apart * (prefill + moved_s)
    answers_per_s = columns["replicas"] * batch / cycle
    first = prefill + (batch > 1) * (1 - apart) * step + moved_s
    tpot = step + (1 - apart) * (batch - 1) * prefill / output
    rounds = request.tokens / (columns["replicas"] * batch * output)
    parts = {f"prefill_{k}": rounds * v * (1 - apart) * batch for k, v in prefill_parts.items()}
    parts |= {f"prefill_{k}": parts[f"prefill_{k}"] + rounds * apart * v for k, v in prefill_parts.items()}
    parts |= {f"decode_{k}": rounds * output * v for k, v in decode_parts.items()}
    parts["transfer"] = rounds * apart * moved_s
    return {
        "batch": batch,
        "ttft_s": first,
        "tpot_s": tpot,
        "prefill_s": prefill,
        "step_s": step,
        "wall_s": rounds * cycle,
        "parts": parts,
        "prefill_replicas": apart * np.ceil(answers_per_s * prefill / PREFILL_LOAD),
        "rate_per_replica": answers_per_s / columns["replicas"],
        "stable": np.ones(len(batch), bool),
    }


def _arrivals(
    request: Request, columns: Mapping[str, np.ndarray], one: Any, moved_s: Array
) -> dict[str, Any]:
    """Requests that arrive: the batch is the fixed point of rate x stay (Little 1961).

    Prefill chunks take their share of an engine's time from decoding, unless they stand apart. Waiting for
    prefill: Allen and Cunneen's G/G/1 (1978), which is Pollaczek-Khinchine's for Poisson arrivals.
    """
    apart, output, rate = columns["apart"], float(request.output_tokens), float(request.arrival_per_s or 0.0)
    each = rate / columns["replicas"]
    batch = np.ones(len(apart))
    for _ in range(ROUNDS):
        prefill_parts, decode_parts = one(batch)
        prefill, step = total(prefill_parts), total(decode_parts)
        pools = apart * np.ceil(rate * prefill / PREFILL_LOAD)
        into = np.where(apart > 0, rate / np.maximum(1.0, pools), each)
        service = prefill + (1 - apart) * step / 2
        busy = into * service
        wait = np.minimum(busy, STABLE) / (1 - np.minimum(busy, STABLE)) * request.burstiness / 2 * service
        tpot = step / (1 - np.minimum(each * prefill * (1 - apart), STABLE))
        stay = (1 - apart) * prefill + output * tpot
        batch = np.clip(0.5 * batch + 0.5 * each * stay, 1e-3, 2 * MOST_BATCH)
    seconds = request.tokens / (rate * output)
    share = np.minimum(1.0, each * prefill * (1 - apart))
    idle = np.maximum(0.0, 1.0 - share - each * output * step / np.maximum(batch, 1.0))
    used = 1.0 - share - idle
    parts = {f"prefill_{k}": seconds * share * v / prefill for k, v in prefill_parts.items()}
    parts |= {f"decode_{k}": seconds * used * v / step for k, v in decode_parts.items()}
    parts["waiting"] = seconds * idle
    return {
        "batch": batch,
        "ttft_s": quantile_s(wait, busy, request.slo.get("percentile", 50.0)) + service + moved_s,
        "tpot_s": tpot,
        "prefill_s": prefill,
        "step_s": step,
        "wall_s": np.full(len(apart), seconds),
        "parts": parts,
        "prefill_replicas": pools,
        "rate_per_replica": into,
        "service_s": service,
        "stable": (busy < STABLE) & (batch < MOST_BATCH) & (each * prefill * (1 - apart) < STABLE),
    }


def quantile_s(mean_wait_s: Array, busy: Array, percentile: float) -> Array:
    """A percentile of the wait: none with probability 1 - busy, else exponential (Kingman 1962)."""
    late = np.maximum(0.0, np.log(np.maximum(busy, 1e-12) / (1 - percentile / 100)))
    return late * mean_wait_s / np.maximum(busy, 1e-12)


@lru_cache(maxsize=32)
def _gaps(burstiness: float) -> np.ndarray:
    """Gaps of mean 1 with the squared coefficient of variation asked for; the same ones each time."""
    chance = np.random.default_rng(7)
    shape = 1.0 / max(burstiness, 1e-3)
    return chance.gamma(shape, 1.0 / shape, REPLAYED)


def replay_s(rate_per_s: float, burstiness: float, service_s: float, percentile: float) -> float:
    """A percentile of the wait of REPLAYED requests before one server (Lindley 1952), all at once."""
    late = np.cumsum(service_s - _gaps(burstiness) / rate_per_s)
    waits = late - np.minimum.accumulate(np.minimum(late, 0.0))
    return float(np.percentile(waits, percentile))


# ------------------------------------------------------------------ the one that is taken


def _taken(
    request: Request, offer: Offer, told: dict[str, Any], fits: np.ndarray
) -> tuple[int, dict[str, Any]]:
    """The cheapest that is stable, in the SLO and in time; the first of FINALISTS that a replay confirms."""
    worst = np.where(fits & told["fits_number"], _misses(request, offer, told), np.inf)
    worst = np.where(told["stable"], worst, np.maximum(worst, 10.0))
    if not np.isfinite(worst).any():
        worst = np.where(fits, _misses(request, offer, told), np.inf)
    spent = told["wall_s"] * told["devices"]
    if np.all(worst > 1):
        return int(np.argmin(worst)), told
    order = np.lexsort((told["wall_s"], np.where(worst <= 1, spent, np.inf)))
    if not request.arrival_per_s or request.in_batch:
        return int(order[0]), told
    ttft = told["ttft_s"].copy()
    for at in order[:FINALISTS]:
        if worst[at] > 1:
            break
        ttft[at] = _replayed(request, told, at)
        if ttft[at] <= request.slo.get("ttft_s", np.inf):
            return int(at), told | {"ttft_s": ttft}
    return int(order[0]), told | {"ttft_s": ttft}


def _replayed(request: Request, told: Mapping[str, Any], at: int) -> float:
    service = float(told["service_s"][at])
    percentile = request.slo.get("percentile", 50.0)
    wait = replay_s(float(told["rate_per_replica"][at]), request.burstiness, service, percentile)
    return wait + service + float(told["moved_s"][at])


def _misses(request: Request, offer: Offer, told: Mapping[str, Any]) -> np.ndarray:
    """By which factor the worst limit is missed."""
    worst = np.zeros(len(told["batch"]))
    for name in ("ttft_s", "tpot_s"):
        if limit := request.slo.get(name):
            worst = np.maximum(worst, told[name] / limit)
    if request.deadline_s:
        worst = np.maximum(worst, told["wall_s"] / request.deadline_s)
    spent = told["wall_s"] * told["devices"] / 3600
    if request.budget_usd is not None and offer.usd_per_h:
        worst = np.maximum(worst, spent * offer.usd_per_h / max(request.budget_usd, 1e-9))
    if power := power_of(request, offer, 1):
        worst = np.maximum(worst, told["devices"] * power[0] / power[1])
    return worst


def _plan_of(
    request: Request,
    offer: Offer,
    constants: Constants,
    columns: Mapping[str, np.ndarray],
    told: Mapping[str, Any],
    at: int,
) -> Plan:
    def of(value: Array) -> float:
        return float(np.broadcast_to(value, told["batch"].shape)[at])

    wall, devices = of(told["wall_s"]), int(of(told["devices"]))
    wide = exp(constants.spread("serve", groups(offer.device, SERVE_STACK[offer.device.kind])))
    fixed = bool(request.arrival_per_s) and not request.in_batch  # the load itself says how long it takes
    low, high = (wall, wall) if fixed else (wall / wide, wall * wide)
    time_s = Figure(wall, low, high, "s", constants.provenance)
    parts = {k: of(v) for k, v in told["parts"].items()}
    engines = {k: int(of(told[k] if k in told else columns[k])) for k in ("prefill_replicas", "replicas")}
    settings = {
        "tp": int(columns["t"][at]),
        "pp": int(columns["p"][at]),
        "dp": engines["replicas"],
        "replicas": engines["replicas"],
        "prefill_replicas": engines["prefill_replicas"],
        "weights": str(columns["forms"][at]),
        "kv_bits": int(columns["kv_bits"][at]),
        "batch": max(1, round(of(told["batch"]))),
        "prompt_tokens": request.prompt_tokens,
        "output_tokens": request.output_tokens,
        "ttft_s": of(told["ttft_s"]),
        "tpot_s": of(told["tpot_s"]),
        "percentile": request.slo.get("percentile", 50.0),
        "output_tok_s": request.tokens / wall,
    }
    made = Plan(
        device=offer.device.id,
        devices=devices,
        settings=settings,
        time_s=time_s,
        cost_usd=None,
        energy_kwh=energy_kwh(offer.device, devices, time_s, parts),
        memory_bytes_per_device=memory_figure(of(told["memory"])),
        fits=True,
        why_not=None,
        parts=parts,
        bytes={k: of(v) for k, v in told["bytes"].items()},
        provider=offer.provider or None,
    )
    made = _within_slo(request, offer, made, bool(told["stable"][at]), bool(told["fits_number"][at]))
    power = power_of(request, offer, devices)
    return within_limits(priced(made, offer), request.budget_usd, request.deadline_s, power)


def _within_slo(request: Request, offer: Offer, p: Plan, stable: bool, enough: bool) -> Plan:
    """The plan, marked as unfit where it misses the SLO or cannot keep up."""
    short = {
        name: p.settings[f"{name}_s"] / limit
        for name in ("ttft", "tpot")
        if (limit := request.slo.get(f"{name}_s")) and p.settings[f"{name}_s"] > limit
    }
    said = [
        f"{name} of {p.settings[f'{name}_s'] * 1000:.0f} ms is {factor:.2f} times the limit"
        for name, factor in short.items()
    ]
    if not stable or not enough:
        short["load"] = max(2.0, p.devices / offer.most)
        said.append(f"{offer.most} of them do not keep up with the load")
    if not short:
        return p
    return replace(p, fits=False, why_not="; ".join(said), shortfalls=short)
