"""The settings that serve a model on one device under a load: splits, batch, bits, replicas, two pools.

Requests either arrive by themselves (a rate and its burstiness), or a number of users is always answered, or
all prompts are there at once (batch scoring). Not here: the time of one step (inference.py).
Not modelled: what pipeline stages hand to each other, 2 bytes a row and unit of width, and its latency.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, replace
from itertools import product
from math import exp
from typing import Any

import numpy as np

from steelyard.units import Figure, around

from ..job.cost import energy_kwh
from ..job.plans import Plan, within_limits, within_slo
from ..job.request import Request
from ..physics.inference import ServeSetup, serve_memory_parts, serve_s
from ..physics.load import Load, under_load
from ..physics.sizes import Array, Hardware, Sizes, total
from ..published.constants import Constants, groups, values
from .arrivals import MOST_BATCH, arrivals, closed
from .offer import Offer, computes_in, room_bytes
from .train_search import SearchResult, memory_figure, needs_more, no_plan, power_of, priced

BITS = {"f32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "fp4": 4, "int4": 4}
USUAL = ("bf16", "int8")  # int4 only where asked for, or where nothing else fits: it costs quality
FINALISTS = 8
WEIGHT_ONLY = ("int8", "int4")  # unpacked to 16 bits before the product


def search_serving(request: Request, offer: Offer, constants: Constants, fine: bool = True) -> SearchResult:
    """The cheapest settings that hold the SLO; where none does, those that miss it least."""
    hardware = offer.hardware("bf16")
    if hardware is None:
        return SearchResult(no_plan(offer, "no peak of its matrix units was ever published"))
    requested, forms = request.weights or request.precisions, precisions_of(request, offer)
    if not forms:
        return SearchResult(no_plan(offer, f"has no units for {' or '.join(requested)}"))
    candidates = _among(request, offer, hardware, constants, forms, fine)
    if candidates.fit or requested:
        return candidates
    return _among(request, offer, hardware, constants, ("int4",), fine)


def precisions_of(request: Request, offer: Offer) -> tuple[str, ...]:
    """Forms of the weights: as asked, where the device computes FP8 and FP4; else 16 and 8 bits."""
    requested = request.weights or request.precisions or USUAL
    return tuple(p for p in requested if p in ("int8", "int4", "bf16") or computes_in(offer.device, p))


def _among(
    request: Request,
    offer: Offer,
    hardware: Hardware,
    constants: Constants,
    forms: tuple[str, ...],
    fine: bool,
) -> SearchResult:
    columns, considered = _grid(request, offer, hardware, forms, fine)
    divide = len(columns["t"])
    if not divide:
        return SearchResult(no_plan(offer, "its heads cannot be split over it"), considered)
    evaluated = evaluate(request, offer, hardware, constants, columns)
    room = room_bytes(request, offer.device)
    fits = evaluated["memory"] <= room
    if not fits.any():
        need = float(evaluated["memory"].min())
        plan = no_plan(offer, needs_more(need, room), {"memory": need / room}, need)
        return SearchResult(plan, considered, divide)
    at, evaluated = _taken(request, offer, evaluated, fits)
    plan = _plan_of(request, offer, constants, columns, evaluated, at)
    return SearchResult(plan, considered, divide, int(fits.sum()))


def _grid(
    request: Request, offer: Offer, hardware: Hardware, forms: tuple[str, ...], fine: bool
) -> tuple[dict[str, np.ndarray], int]:
    """All combinations as flat columns, those that do not divide left out; and how many there were."""
    most = min(offer.most, 1024)
    several = request.in_batch or request.arrival_per_s or request.users > 1
    replicas = [2**i for i in range(11) if 2**i <= (most if several else 1)]
    if request.in_batch or not request.arrival_per_s:
        in_flight = request.requests if request.in_batch else request.users
        replicas = [r for r in replicas if r <= in_flight]
    axes = {
        "t": [2**i for i in range(7) if 2**i <= min(hardware.node, most)],
        "p": [1, 2, 4, 8] if fine else [1, 4],
        "form": list(range(len(forms))),
        "kv_bits": [BITS[k] for k in request.kv_precisions] or [16],
        "replicas": replicas,
        # Experts whole on a device, or split like the rest.
        "whole": [0, 1] if request.shape.experts else [0],
        "apart": [0, 1] if several and not request.in_batch and fine else [0],
        "batch": [2**i for i in range(11)] if request.in_batch else [0],
    }
    rows = np.array(list(product(*axes.values())), float)
    columns = dict(zip(axes, rows.T, strict=True))
    columns["weight_bits"] = np.array([float(BITS[f]) for f in forms])[columns["form"].astype(int)]
    columns["forms"] = np.array(forms)[columns["form"].astype(int)]
    columns["e"] = np.where(columns["whole"] > 0, columns["t"], 1.0)
    shape = request.shape
    even = (
        (shape.heads % columns["t"] == 0)
        & ((columns["whole"] == 0) | ((columns["t"] > 1) & (shape.experts % columns["t"] == 0)))
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
    constant = values(constants, "serve", groups(offer.device, offer.device.serve_stack))
    sizes = Sizes.of(request.shape, request.prompt_tokens)
    hardware = replace(hardware, peak=_peaks(offer, hardware, columns))

    def setup_of(batch: Array) -> ServeSetup:
        return ServeSetup(
            t=columns["t"], p=columns["p"], e=columns["e"], batch=np.maximum(1.0, batch),
            prompt=request.prompt_tokens,
            output=request.output_tokens, weight_bits=columns["weight_bits"], kv_bits=columns["kv_bits"],
            weight_only=np.isin(columns["forms"], WEIGHT_ONLY).astype(float),
        )  # fmt: skip

    def one(batch: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        loaded = serve_s(sizes, setup_of(batch), hardware, constant)
        return loaded["prefill"], loaded["decode"]

    kv_bytes = sizes.kv_bytes * columns["kv_bits"] / 16
    moved_s = request.prompt_tokens * kv_bytes / (hardware.scaleout * hardware.nic_share) * columns["apart"]
    load = arrivals if request.arrival_per_s and not request.in_batch else closed
    loaded = load(request, columns, one, moved_s)
    held = np.minimum(np.maximum(1.0, np.ceil(loaded["batch"])), MOST_BATCH)
    memory = serve_memory_parts(request.shape, setup_of(held), sizes.kv_bytes)
    split, engines = columns["t"] * columns["p"], columns["replicas"] + loaded["prefill_replicas"]
    return loaded | {
        "memory": total(memory),
        "devices": split * engines,
        "bytes": memory,
        "fits_number": split * engines <= offer.most,
        "replay": lambda at: _replayed(
            request, sizes, setup_of(held), hardware, constant, columns, loaded["felt"], at
        ),
    }


def _replayed(
    request: Request,
    sizes: Sizes,
    setup: ServeSetup,
    hardware: Hardware,
    constant: dict[str, Array],
    columns: Mapping[str, np.ndarray],
    limits: Collection[tuple[str, float]],
    at: int,
) -> dict[tuple[str, float], float] | None:
    """Percentiles of one candidate by a replay; None where prefill stands apart: pools differ in size."""
    if columns["apart"][at]:
        return None
    load = Load(
        arrival_per_s=float(request.arrival_per_s or 0.0) / float(columns["replicas"][at]),
        burstiness=request.burstiness,
    )
    felt = under_load(sizes, _one_of(setup, at), _one_of(hardware, at), constant, load)
    by_name = {"ttft_s": felt.ttft_s, "tpot_s": felt.tpot_s}
    return {(name, percentile): by_name[name][round(percentile)] for name, percentile in limits}


def _one_of(thing: Any, at: int) -> Any:
    """A setup or a device of one candidate: its arrays' values there."""
    columns = {f.name: getattr(thing, f.name) for f in fields(thing)}
    return replace(thing, **{k: float(v[at]) for k, v in columns.items() if np.ndim(v) == 1})


def _peaks(offer: Offer, hardware: Hardware, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """FLOP/s of each candidate's products: those of 8-bit floats where the weights are such."""
    hardware_of_form = {
        form: offer.hardware(form) for form in set(columns["forms"].tolist()) & {"fp8", "fp4"}
    }
    peaks = {form: float(at_form.peak) for form, at_form in hardware_of_form.items() if at_form}
    return np.array([peaks.get(form, hardware.peak) for form in columns["forms"].tolist()], float)


# ------------------------------------------------------------------ the one that is taken


def _taken(
    request: Request, offer: Offer, evaluated: dict[str, Any], fits: np.ndarray
) -> tuple[int, dict[str, Any]]:
    """The cheapest that is stable, in the SLO and in time; the first of FINALISTS that a replay confirms."""
    worst = np.where(fits & evaluated["fits_number"], _misses(request, offer, evaluated), np.inf)
    worst = np.where(evaluated["stable"], worst, np.maximum(worst, 10.0))
    if not np.isfinite(worst).any():
        worst = np.where(fits, _misses(request, offer, evaluated), np.inf)
    spent = evaluated["wall_s"] * evaluated["devices"]
    if np.all(worst > 1):
        return int(np.argmin(worst)), evaluated
    order = np.lexsort((evaluated["wall_s"], np.where(worst <= 1, spent, np.inf)))
    if not request.arrival_per_s or request.in_batch:
        return int(order[0]), evaluated
    for at in order[:FINALISTS]:
        if worst[at] > 1:
            break
        if (felt := evaluated["replay"](at)) is None:
            return int(at), evaluated
        for key, seconds in felt.items():
            evaluated["felt"][key] = evaluated["felt"][key].copy()
            evaluated["felt"][key][at] = seconds
        if all(felt[key] <= limit for key, limit in request.limits.items()):
            return int(at), evaluated
    return int(order[0]), evaluated


def _misses(request: Request, offer: Offer, evaluated: Mapping[str, Any]) -> np.ndarray:
    """By which factor the worst limit is missed."""
    worst = np.zeros(len(evaluated["batch"]))
    for key, limit in request.limits.items():
        worst = np.maximum(worst, evaluated["felt"][key] / limit)
    if request.deadline_s:
        worst = np.maximum(worst, evaluated["wall_s"] / request.deadline_s)
    spent = evaluated["wall_s"] * evaluated["devices"] / 3600
    if request.budget_usd is not None and offer.usd_per_h:
        worst = np.maximum(worst, spent * offer.usd_per_h / max(request.budget_usd, 1e-9))
    if power := power_of(request, offer, 1):
        worst = np.maximum(worst, evaluated["devices"] * power[0] / power[1])
    return worst


def _plan_of(
    request: Request,
    offer: Offer,
    constants: Constants,
    columns: Mapping[str, np.ndarray],
    evaluated: Mapping[str, Any],
    at: int,
) -> Plan:
    def of(value: Array) -> float:
        return float(np.broadcast_to(value, evaluated["batch"].shape)[at])

    devices = int(of(evaluated["devices"]))
    time_s, wide = _time_of(request, offer, constants, of(evaluated["wall_s"]))
    parts = {k: of(v) for k, v in evaluated["parts"].items()}
    felt = {key: of(seconds) for key, seconds in evaluated["felt"].items()}
    plan = Plan(
        device=offer.device.id,
        devices=devices,
        settings=_settings_of(request, columns, evaluated, at, of),
        time_s=time_s,
        cost_usd=None,
        energy_kwh=energy_kwh(offer.device, devices, time_s, parts),
        memory_bytes_per_device=memory_figure(of(evaluated["memory"])),
        fits=True,
        why_not=None,
        service=_service_of(request, felt, time_s, wide),
        parts=parts,
        bytes={k: of(v) for k, v in evaluated["bytes"].items()},
        provider=offer.provider or None,
    )
    keeps_up = bool(evaluated["stable"][at]) and bool(evaluated["fits_number"][at])
    plan = _served(request, offer, plan, felt, keeps_up)
    power = power_of(request, offer, devices)
    return within_limits(priced(plan, offer), request.budget_usd, request.deadline_s, power)


def _time_of(request: Request, offer: Offer, constants: Constants, wall_s: float) -> tuple[Figure, float]:
    """The job's time, and the factor by which a figure of this device may be off at 80 %."""
    kin = groups(offer.device, offer.device.serve_stack)
    wide = exp(constants.spread("serve", kin))
    fixed = bool(request.arrival_per_s) and not request.in_batch  # the load itself says how long it takes
    low, high = (wall_s, wall_s) if fixed else (wall_s / wide, wall_s * wide)
    return Figure(wall_s, low, high, "s", constants.provenance_of("serve", kin)), wide


def _settings_of(
    request: Request,
    columns: Mapping[str, np.ndarray],
    evaluated: Mapping[str, Any],
    at: int,
    of: Callable[[Array], float],
) -> dict[str, Any]:
    engines = {
        name: int(of(evaluated[name] if name in evaluated else columns[name]))
        for name in ("replicas", "prefill_replicas")
    }
    return {
        "tp": int(columns["t"][at]),
        "pp": int(columns["p"][at]),
        "ep": int(columns["e"][at]),
        "dp": engines["replicas"],
        **engines,
        "weights": str(columns["forms"][at]),
        "kv_bits": int(columns["kv_bits"][at]),
        "batch": max(1, round(of(evaluated["batch"]))),
        "prompt_tokens": request.prompt_tokens,
        "output_tokens": request.output_tokens,
        "percentile": request.percentile,
    }


def _service_of(
    request: Request, felt: Mapping[tuple[str, float], float], time_s: Figure, wide: float
) -> dict[str, Figure]:
    """TTFT and TPOT at the percentile in question, and the rate of output tokens."""
    latencies = {name: felt[name, request.percentile] for name in ("ttft_s", "tpot_s")}
    service = {n: around(s, wide - 1, "s", time_s.provenance) for n, s in latencies.items()}
    value, low, high = (request.tokens / seconds for seconds in (time_s.value, time_s.high, time_s.low))
    service["output_tok_s"] = Figure(value, low, high, "tokens/s", time_s.provenance)
    return service


def _served(
    request: Request, offer: Offer, p: Plan, felt: Mapping[tuple[str, float], float], keeps_up: bool
) -> Plan:
    """The plan, marked as unfit where it misses the SLO or cannot keep up."""
    p = within_slo(p, request.limits, felt)
    if keeps_up:
        return p
    why = "; ".join(
        [*([p.why_not] if p.why_not else []), f"{offer.most} of them do not keep up with the load"]
    )
    short = dict(p.shortfalls) | {"load": max(2.0, p.devices / offer.most)}
    return replace(p, fits=False, why_not=why, shortfalls=short)
