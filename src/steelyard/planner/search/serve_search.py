"""The settings that serve a model on one device under a load: splits, batch, bits, replicas, pools, drafts.

Requests either arrive by themselves (a rate and its burstiness), or a number of users is always answered, or
all prompts are there at once (batch scoring). Not here: the time of one step (inference.py).
Not modelled: what pipeline stages hand to each other, 2 bytes a row and unit of width, and its latency.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from itertools import product
from math import ceil, exp, inf
from typing import Any

import numpy as np

from steelyard.hardware import Device
from steelyard.units import Figure, around

from ..job.cost import energy_kwh
from ..job.plans import Plan, within_limits, within_slo
from ..job.request import Request
from ..job.terms import engine_s, engine_terms, shown_terms
from ..physics.inference import ServeSetup, decode_s, mtp_s, prefill_s, serve_memory_parts
from ..physics.load import Load, under_load
from ..physics.sizes import Array, Hardware, Sizes, next_token_layer, total
from ..published.constants import Constants, groups, values
from .arrivals import MOST_BATCH, arrivals, closed
from .offer import Offer, computes_in, memory_figure, room_bytes, surely
from .train_search import SearchResult, no_plan, power_of, priced, without_room

BITS = {"f32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "fp4": 4, "int4": 4}
# What services run where the device computes in it (vLLM's and SGLang's own FP8 and NVFP4 forms); int4 only
# where asked for, or where nothing else fits: it costs quality.
USUAL = ("bf16", "fp8", "fp4", "int8")
FINALISTS = 8
REPLICAS = 1024
BETWEEN = 8  # numbers of replicas that are tried between one that is too few and its double, at a time
SHARED = (2, 4, 8, 16, 32, 64)  # replicas that share one set of experts
MOST_SHARED = 256  # devices of such a group
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
    room = room_bytes(request, offer.device)
    evaluated = evaluate(request, offer, hardware, constants, columns)
    fits = evaluated["memory"] <= room
    if not fits.any():
        return SearchResult(_too_large(request, offer, constants, columns, evaluated), considered, divide)
    sure = surely(request, _time_of(request, offer, constants, 1.0)[0].high)
    fit = int(fits.sum())
    if request.limits:
        _, evaluated = _taken(sure, offer, evaluated, fits)
    while finer := _between(sure, offer, columns, evaluated, fits):
        columns, more = finer, finer["t"].size
        evaluated = _scaled(evaluate(request, offer, hardware, constants, columns), evaluated["ratios"])
        fits = evaluated["memory"] <= room
        considered, divide, fit = considered + more, divide + more, fit + int(fits.sum())
    at, evaluated = _taken(sure, offer, evaluated, fits)
    plan = _plan_of(request, offer, constants, columns, evaluated, at)
    return SearchResult(plan, considered, divide, fit)


def _too_large(
    request: Request,
    offer: Offer,
    constants: Constants,
    columns: Mapping[str, np.ndarray],
    evaluated: dict[str, Any],
) -> Plan:
    """An entry for a device without room: how much its smallest way lacks, and which limits it breaks too."""
    at = int(evaluated["memory"].argmin())
    smallest = _plan_of(request, offer, constants, columns, evaluated, at)
    return without_room(offer, smallest, float(evaluated["memory"][at]), room_bytes(request, offer.device))


def _between(
    request: Request,
    offer: Offer,
    columns: Mapping[str, np.ndarray],
    evaluated: Mapping[str, Any],
    fits: np.ndarray,
) -> dict[str, np.ndarray] | None:
    """Numbers of replicas between each way's cheapest and the next fewer that was tried; None where there are
    none. A way is a row but for its replicas; those that lose even with one more than too few are left out.
    """
    spent = evaluated["wall_s"] * evaluated["devices"]
    spent = np.where(_worst(request, offer, evaluated, fits) <= 1, spent, np.inf)
    kept: dict[str, list[np.ndarray]] = {name: [] for name in columns}
    new = 0
    for way in _ways(columns):
        best, counts = way[np.argmin(spent[way])], columns["replicas"][way]
        step, most = max(1.0, columns["shared"][best]), columns["replicas"][best]
        last = max(counts[counts < most], default=0.0)
        if not spent[best] * (last + step) / most <= spent.min() < np.inf and best != np.argmin(spent):
            continue
        numbers = np.unique(np.round(np.linspace(last, most, BETWEEN + 1) / step)) * step
        numbers = numbers[numbers > 0]
        new += np.sum((numbers > last) & (numbers < most))
        for name in columns:
            kept[name].append(numbers if name == "replicas" else np.repeat(columns[name][best], numbers.size))
    return {name: np.concatenate(parts) for name, parts in kept.items()} if new else None


def _ways(columns: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Places of the rows that differ in their number of replicas alone."""
    rest = np.array([columns[n] for n in ("t", "p", "form", "kv_bits", "shared", "apart", "batch", "draft")])
    _, which = np.unique(rest, axis=1, return_inverse=True)
    order = np.argsort(which.ravel(), kind="stable")
    return np.split(order, np.flatnonzero(np.diff(which.ravel()[order])) + 1)


def _grid(
    request: Request, offer: Offer, hardware: Hardware, forms: tuple[str, ...], fine: bool
) -> tuple[dict[str, np.ndarray], int]:
    """All combinations as flat columns, those that do not divide left out; and how many there were."""
    axes = _axes(request, offer, hardware, forms, fine)
    rows = np.array(list(product(*axes.values())), float)
    columns = dict(zip(axes, rows.T, strict=True))
    columns["weight_bits"] = np.array([float(BITS[f]) for f in forms])[columns["form"].astype(int)]
    columns["forms"] = np.array(forms)[columns["form"].astype(int)]
    columns["e"] = np.where(columns["shared"] > 0, columns["t"] * columns["shared"], 1.0)
    even = _divides(request, min(offer.most, REPLICAS), columns)
    return {k: v[even] for k, v in columns.items()}, len(rows)


def _axes(
    request: Request, offer: Offer, hardware: Hardware, forms: tuple[str, ...], fine: bool
) -> dict[str, list[int]]:
    """The values of each setting."""
    most = min(offer.most, REPLICAS)
    replicas = [2**i for i in range(REPLICAS.bit_length()) if 2**i <= min(most, _in_flight(request))]
    return {
        "t": [2**i for i in range(7) if 2**i <= min(hardware.node, most)],
        "p": [1, 2, 4, 8] if fine else [1, 4],
        "form": list(range(len(forms))),
        "kv_bits": [BITS[k] for k in request.kv_precisions] or [16],
        "replicas": replicas,
        # Experts split like the rest, whole on a device, or shared by so many replicas.
        "shared": [0, 1, *(SHARED if fine else ())] if request.shape.experts else [0],
        "draft": sorted({0, request.draft_tokens}),
        "apart": [0, 1] if _in_flight(request) > 1 and not request.in_batch and fine else [0],
        "batch": [2**i for i in range(11)] if request.in_batch else [0],
    }


def _in_flight(request: Request) -> float:
    """Requests that there can be at a time."""
    if request.in_batch:
        return request.requests
    return inf if request.arrival_per_s else request.users


def _divides(request: Request, most: int, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which candidates split evenly over at most so many devices."""
    shape, t, shared = request.shape, columns["t"], columns["shared"]
    whole = (columns["e"] > 1) & (shape.experts % columns["e"] == 0)
    alone = (columns["p"] == 1) & (columns["apart"] == 0) & (columns["e"] <= MOST_SHARED)
    return np.asarray(
        (shape.heads % t == 0)
        & ((shared == 0) | whole)
        & ((shared <= 1) | (alone & (columns["replicas"] % np.maximum(1, shared) == 0)))
        & (columns["p"] <= shape.layers)
        & (t * columns["p"] * columns["replicas"] <= most)
    )


# ------------------------------------------------------------------ load


@dataclass(frozen=True, slots=True)
class _Ways:
    """Ways to serve a request on a device, as columns, and what any of them takes."""

    request: Request
    device: Device
    sizes: Sizes
    hardware: Hardware
    constant: dict[str, Array]
    columns: Mapping[str, np.ndarray]

    def setup(self, batch: Array, draft_s: Array = 0.0) -> ServeSetup:
        """With so many requests in flight on a replica."""
        request, columns = self.request, self.columns
        return ServeSetup(
            t=columns["t"], p=columns["p"], e=columns["e"], batch=np.maximum(1.0, batch),
            prompt=request.prompt_tokens,
            output=request.output_tokens, weight_bits=columns["weight_bits"], kv_bits=columns["kv_bits"],
            weight_only=np.isin(columns["forms"], WEIGHT_ONLY).astype(float), prefix_hit=request.prefix_hit,
            draft=columns["draft"], accept=request.accept or 0.0, draft_s=draft_s,
        )  # fmt: skip

    def draft_s(self, batch: Array) -> Array:
        """Seconds in which one token of each request is proposed; a look-up takes none."""
        request = self.request
        if request.mtp:
            return mtp_s(self.sizes, self.setup(batch), self.hardware, self.constant)
        if request.draft is None:
            return 0.0
        small = replace(self.setup(batch), draft=0, e=1, weight_bits=16.0, weight_only=0, kv_bits=16.0)
        sizes = Sizes.of(request.draft, request.prompt_tokens)
        parts = decode_s(sizes, small, self.hardware, self.constant)
        return total(parts) - parts["sequences"] - self.constant["serve.step_s"]

    def prefill(self) -> Mapping[str, Array]:
        """Parts of the seconds of one prompt."""
        return prefill_s(self.sizes, self.setup(1.0), self.hardware, self.constant)

    def decode(self, batch: Array) -> Mapping[str, Array]:
        """Parts of the seconds of one token of each request of a batch."""
        return decode_s(self.sizes, self.setup(batch, self.draft_s(batch)), self.hardware, self.constant)

    def moved_s(self) -> Array:
        """Seconds in which a prompt's KV cache comes from a pool for prefill."""
        kv_bytes, hardware = self.sizes.kv_bytes * self.columns["kv_bits"] / 16, self.hardware
        moved = self.request.prompt_tokens * kv_bytes / (hardware.scaleout * hardware.nic_share)
        return moved * self.columns["apart"]

    def bytes(self, setup: ServeSetup) -> dict[str, Array]:
        """What a device holds, drafts too."""
        request, memory = self.request, serve_memory_parts(self.sizes, setup)
        if request.draft:
            small = replace(setup, weight_bits=16.0, kv_bits=16.0, e=1)
            memory |= _draft_bytes(Sizes.of(request.draft, request.prompt_tokens), small)
        return memory | (_draft_bytes(next_token_layer(self.sizes), setup) if request.mtp else {})


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
    ways = _Ways(request, offer.device, sizes, hardware, constant, columns)
    loaded = _loaded(ways)
    batch = loaded["batch"]
    setup = ways.setup(np.maximum(1.0, np.ceil(batch)), ways.draft_s(batch))
    memory = ways.bytes(setup)
    devices = columns["t"] * columns["p"] * (columns["replicas"] + loaded["prefill_replicas"])
    free = room_bytes(request, offer.device) - total(memory)
    most = np.maximum(1, setup.batch + np.floor(free / (memory["kv"] / setup.batch)))
    return loaded | {
        "memory": total(memory),
        "devices": devices,
        "bytes": memory,
        "fits_number": devices <= offer.most,
        "ratios": {},
        "replayable": columns["apart"] == 0,
        "replay": lambda at: _replayed(ways, setup, loaded["felt"], int(min(most[at], MOST_BATCH)), at),
    }


def _loaded(ways: _Ways) -> dict[str, Any]:
    """Each candidate under the load, the engine's start with it where the job ends."""
    request = ways.request
    load = arrivals if request.arrival_per_s and not request.in_batch else closed
    loaded = load(request, ways.columns, ways.prefill(), ways.decode, ways.moved_s())
    if not request.in_batch:
        return loaded
    started = engine_s(ways.device, request.shape.params, ways.columns["weight_bits"])
    return loaded | {"wall_s": loaded["wall_s"] + total(started), "parts": loaded["parts"] | started}


def _draft_bytes(draft: Sizes, setup: ServeSetup) -> dict[str, Array]:
    """What a draft holds of one device beside the model: its weights and its own KV cache."""
    parts = serve_memory_parts(draft, setup)
    return {"draft": (np.asarray(setup.draft) > 0) * (parts["weights"] + parts["kv"])}


def _replayed(
    ways: _Ways, setup: ServeSetup, limits: Collection[tuple[str, float]], most: int, at: int
) -> dict[tuple[str, float], float] | None:
    """Percentiles of one candidate by a replay, with no more in its batch than its memory holds; None where
    prefill stands apart: pools differ in size."""
    request = ways.request
    if ways.columns["apart"][at]:
        return None
    replicas = float(ways.columns["replicas"][at])
    rate = float(request.arrival_per_s or 0.0) / replicas
    users = 0 if rate else ceil(request.users / replicas)
    load = Load(arrival_per_s=rate, users=users, burstiness=request.burstiness, most=max(most, 1))
    felt = under_load(ways.sizes, _one_of(setup, at), _one_of(ways.hardware, at), ways.constant, load)
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
    """The cheapest that is stable, in the SLO and in time, as a replay judges it; at most FINALISTS are.

    What a replay says of one, in times of what the formulas say, goes for all until they are replayed.
    """
    replayed = np.zeros(len(fits), bool)
    for _ in range(FINALISTS):
        at = _first(request, offer, evaluated, fits)
        if replayed[at] or (felt := _replay(request, evaluated, at)) is None:
            return at, evaluated
        ratios = {key: seconds / evaluated["felt"][key][at] for key, seconds in felt.items()}
        replayed[at] = True
        evaluated = _scaled(evaluated, ratios, ~replayed)
        for key, seconds in felt.items():
            evaluated["felt"][key][at] = seconds
    return _first(request, offer, evaluated, fits & replayed), evaluated


def _replay(request: Request, evaluated: Mapping[str, Any], at: int) -> dict[tuple[str, float], float] | None:
    """Percentiles by a replay, None where nothing waits: one user, or a batch that is there at once."""
    several = request.arrival_per_s or request.users > 1
    return evaluated["replay"](at) if several and not request.in_batch else None


def _scaled(
    evaluated: dict[str, Any], ratios: Mapping[tuple[str, float], float], which: Array = True
) -> dict[str, Any]:
    """The latencies of what can be replayed (and of `which` alone) times what a replay said of another."""
    scaled = evaluated["replayable"] & which
    felt = {k: np.where(scaled, s * ratios.get(k, 1.0), s) for k, s in evaluated["felt"].items()}
    known = {k: evaluated["ratios"].get(k, 1.0) * ratio for k, ratio in ratios.items()}
    return evaluated | {"felt": felt, "ratios": evaluated["ratios"] | known}


def _first(request: Request, offer: Offer, evaluated: Mapping[str, Any], fits: np.ndarray) -> int:
    """The cheapest that holds every limit and keeps up; where none does, the one that misses least."""
    worst = _worst(request, offer, evaluated, fits)
    if not np.isfinite(worst).any():
        worst = np.where(fits, _misses(request, offer, evaluated), np.inf)
    if np.all(worst > 1):
        return int(np.argmin(worst))
    spent = np.where(worst <= 1, evaluated["wall_s"] * evaluated["devices"], np.inf)
    return int(np.lexsort((evaluated["wall_s"], spent))[0])


def _worst(request: Request, offer: Offer, evaluated: Mapping[str, Any], fits: np.ndarray) -> np.ndarray:
    """By which factor each candidate misses its worst limit: 1 or less where it holds all and keeps up."""
    worst = np.where(fits & evaluated["fits_number"], _misses(request, offer, evaluated), np.inf)
    return np.where(evaluated["stable"], worst, np.maximum(worst, 10.0))


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
        terms=shown_terms(engine_terms(offer.device, request.shape.params, of(columns["weight_bits"])))
        if request.in_batch
        else {},
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
        **_guesses(request, columns, at),
        **engines,
        "weights": str(columns["forms"][at]),
        "kv_bits": int(columns["kv_bits"][at]),
        "batch": max(1, round(of(evaluated["batch"]))),
        "prompt_tokens": request.prompt_tokens,
        "output_tokens": request.output_tokens,
        "percentile": request.percentile,
    }


def _guesses(request: Request, columns: Mapping[str, np.ndarray], at: int) -> dict[str, Any]:
    """The prefix cache and the drafts that were asked about; a draft of 0 tokens: it does not pay."""
    asked = {"prefix_hit": request.prefix_hit} if request.prefix_hit else {}
    return asked | ({"draft_tokens": int(columns["draft"][at])} if request.draft_tokens else {})


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
