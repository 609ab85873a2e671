"""The settings that train a model on one device: their axes, the sweep, and the plan of the one taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, exp, log2
from typing import Any

import numpy as np

from steelyard.hardware import Device
from steelyard.launch import platform_of, writes
from steelyard.units import Figure, show_bytes

from ..job.cost import STORAGE_USD_PER_BYTE_H, cost_figure, energy_kwh
from ..job.plans import Plan, distance, within_limits
from ..job.request import Request
from ..job.terms import Beside, Term, frozen_params, shown_terms
from ..physics.sizes import TRAINED_HIGH, Array, Hardware, Sizes
from ..published.constants import Constants, groups, values
from .offer import (
    PRECISIONS_16,
    Offer,
    computes_in,
    draws_w,
    memory_figure,
    room_bytes,
)
from .sweep import SETTINGS, Axes, Job, Swept, exact, possible, sweep
from .train_stacks import NARROW, SPLITS, TrainStack, raised, stacks_of

PATIENCE_S = 90 * 86400.0  # without a deadline: a plan that takes longer is none
RECOMPUTE = {0: "none", 1: "selective", 2: "full"}
NF4_BITS = 4.127  # a weight of QLoRA with its twice quantised scales (Dettmers et al. 2023, arXiv 2305.14314)
FINE_TUNE_TOKENS = 2**16  # a step, where the recipe says nothing
KEPT_CHECKPOINTS = 2
COARSE_LOSS = 1.25  # the coarse grid's best over the fine grid's, mostly less
TRADEOFFS = 8  # other numbers of devices that a plan names


@dataclass(frozen=True, slots=True)
class SearchResult:
    """A device's plan and the counts of its search."""

    plan: Plan
    considered: int = 0
    divide: int = 0
    fit: int = 0


def search_training(request: Request, offer: Offer, constants: Constants, fine: bool = True) -> SearchResult:
    """The cheapest settings in time; where none is within the limits, those that break them least."""
    if not offer.device.trains:
        return SearchResult(
            no_plan(offer, "is made for inference: its maker has no software that trains on it")
        )
    if not stacks_of(offer.device.family, request.job, request.finetuning_type):
        return SearchResult(no_plan(offer, "no public stack does this job on it"))
    if offer.most < request.count:
        return SearchResult(no_plan(offer, f"has {offer.most} in one network at the most"))
    precisions = precisions_of(request, offer)
    if not precisions:
        return SearchResult(no_plan(offer, _no_units(request, offer)))
    results = [_at_precision(request, offer, precisions[0], constants, fine)]
    for precision in precisions[1:]:
        if not fine and results[0].plan.fits:
            break  # the narrowest format does for a device that cannot win
        results += _other(request, offer, precision, constants, fine, results)
    best = min(results, key=lambda f: _order(f.plan))
    counts = (sum(getattr(f, name) for f in results) for name in ("considered", "divide", "fit"))
    return SearchResult(best.plan, *counts)


def _other(
    request: Request,
    offer: Offer,
    precision: str,
    constants: Constants,
    fine: bool,
    results: Sequence[SearchResult],
) -> list[SearchResult]:
    """One format more: on the coarse grid, and on the fine one where that comes near what is found."""
    best = min(results, key=lambda f: _order(f.plan))
    coarse = _at_precision(request, offer, precision, constants, False)
    if not fine or (best.plan.fits and not _near(coarse.plan, best.plan)):
        return [coarse]
    return [coarse, _at_precision(request, offer, precision, constants, True)]


def _near(p: Plan, best: Plan) -> bool:
    """Whether a plan of the coarse grid costs little enough that a finer one could be the better."""
    return p.fits and _order(p)[2] < COARSE_LOSS * _order(best)[2]


def _no_units(request: Request, offer: Offer) -> str:
    asked = request.precisions
    if any(computes_in(offer.device, p) for p in asked):
        return f"no public stack does this job in {' or '.join(asked)} on it"
    if asked:
        return f"has no units for {' or '.join(asked)}"
    return "no peak of its matrix units was ever published"


def _order(p: Plan) -> tuple[bool, tuple[int, float], float]:
    spent = p.cost_usd or p.energy_kwh or p.time_s
    return not p.fits, distance(p), spent.value if spent else float("inf")


def precisions_of(request: Request, offer: Offer) -> list[str]:
    """Those asked for that the device computes in; else 16 bits, else what it has, and before it FP4 and FP8
    where published runs told what they gain. Each in which some stack does the job."""
    device = offer.device
    usual = [p for p in (*PRECISIONS_16, "tf32", "f32") if computes_in(device, p)][:1]
    gaining = [p for p in reversed(NARROW) if p in device.gains and computes_in(device, p)]
    asked = [p for p in request.precisions if computes_in(device, p)]
    wanted = asked if request.precisions else [*gaining, *usual]
    return [p for p in wanted if stacks_of(device.family, request.job, request.finetuning_type, p)]


def lower_bound_device_s(request: Request, offer: Offer, constants: Constants) -> float:
    """Device-seconds below which no setting gets: the products' FLOPs at the kernels' share of the peak.

    2 operations a weight and token forward, twice that backward, once with adapters alone (Kaplan et al.
    2020); attention, traffic, bubbles and memory only add to it.
    """
    rates = [h for p in precisions_of(request, offer) if (h := offer.hardware(p))]
    if not rates:
        return float("inf")
    constant = constants_of(request, offer, constants)
    peak = max(max(h.peak, h.peak16) * h.matrix_share for h in rates)
    passes = (3.0 if request.finetuning_type == "full" else 2.0) + _extra_forward(request)
    sizes = Sizes.of(request.shape, request.seq_len)
    return request.tokens * 2.0 * sizes.active * passes / (peak * constant["train.efficiency"])


def _at_precision(
    request: Request,
    offer: Offer,
    precision: str,
    constants: Constants,
    fine: bool,
) -> SearchResult:
    hardware = offer.hardware(precision)
    assert hardware is not None
    job = job_of(request, offer, hardware, precision, constants)
    swept = sweep(job, axes_of(request, offer, hardware, fine))
    if not fine and not swept.best:
        return _at_precision(request, offer, precision, constants, True)
    counts = (swept.considered, swept.divide, swept.fit)
    if not swept.fit:
        return SearchResult(_too_large(request, offer, job, swept, precision, constants), *counts)
    candidates, others = _finalists(request, offer, job, swept, fine)
    plan = _plan_of(request, offer, job, candidates, precision, constants)
    grid = {"grid": "fine" if fine else "coarse"}
    return SearchResult(replace(plan, settings={**plan.settings, **grid}, tradeoffs=others), *counts)


# ------------------------------------------------------------------ what is searched


def job_of(request: Request, offer: Offer, hardware: Hardware, precision: str, constants: Constants) -> Job:
    """What all candidates share on this device."""
    beside, wide = beside_of(request, offer), wide_of(constants, offer)
    narrow = precision in NARROW
    gain = most_gain(offer.device, precision, request.shape.hidden)

    def latest_s(devices: Array) -> Array:
        if not request.deadline_s:
            return np.float32(PATIENCE_S) + 0.0 * devices
        return (request.deadline_s - beside.slack_s(devices)) / wide

    return Job(
        sizes=Sizes.of(request.shape, request.seq_len),
        hardware=hardware,
        usual=offer.hardware("bf16") if narrow and gain else None,
        constant=constants_of(request, offer, constants),
        fixed={
            "seq_len": float(request.seq_len),
            "lora": float(request.finetuning_type != "full"),
            "weight_bits": NF4_BITS if request.finetuning_type == "qlora" else 16.0,
            "extra_forward": _extra_forward(request),
            "low_precision": float(narrow),
            "most_gain": gain or 1.0,
        },
        room=room_bytes(request, offer.device, TRAINED_HIGH),
        max_devices=_most_devices(request, offer),
        least_devices=max(1, request.count),
        stacks=stacks_of(offer.device.family, request.job, request.finetuning_type, precision),
        wall_s=beside.wall_s,
        latest_s=latest_s,
        high_s=lambda wall, devices: wall * wide + beside.slack_s(devices),
        frozen_params=frozen_params(request),
    )


def beside_of(request: Request, offer: Offer) -> Beside:
    """What the training takes beside its steps."""
    spot = request.spot and not offer.owned
    return Beside(request=request, device=offer.device, per_host=offer.per_host, spot=spot)


def constants_of(request: Request, offer: Offer, constants: Constants) -> dict[str, float]:
    """Those of a training on this device, by software of the year asked for."""
    own = values(constants, "train", groups(offer.device))
    if not request.year:
        return own
    from ..published.training_rows import age, matured

    return matured(own, age(request.year))


def most_gain(device: Device, precision: str, hidden: float) -> float | None:
    """How many times as fast as in 16 bits published trainings of such a width were; None without any."""
    if not (told := device.gains.get(precision)):
        return None
    widths, gains = zip(*told, strict=True)
    return float(np.interp(log2(hidden), np.log2(widths), gains))


def _extra_forward(request: Request) -> float:
    """Forwards of a reference (DPO) or a teacher, in forwards of the trained model."""
    if request.job == "distil" and request.teacher_params:
        return request.teacher_params / request.shape.active_params
    return 1.0 if request.job in ("prefer", "distil") else 0.0


def _most_devices(request: Request, offer: Offer) -> int:
    one = draws_w(offer.device, 1)
    if not request.power_limit_w or not one:
        return offer.most
    return max(1, min(offer.most, int(request.power_limit_w / one)))


def batches_of(request: Request) -> tuple[int, ...]:
    """Sequences an optimiser step: as asked; else 64 ki tokens to fine-tune; to pre-train what a model of
    that size took, or half of it: 0.5 M tokens at 125 M weights, 3.2 M at 175 B (Brown et al. 2020, table
    2.1).
    """
    if request.global_batch:
        return (request.global_batch,)
    odd = request.count // (request.count & -request.count) if request.count else 1
    if request.job in ("sft", "prefer", "distil"):
        return (_power(FINE_TUNE_TOKENS / request.seq_len, odd),)
    tokens = 5e5 * (request.shape.active_params / 125e6) ** 0.256
    middle = _power(tokens / request.seq_len, odd)
    return tuple(sorted({max(odd, middle // 2), middle}))


def _power(value: float, odd: int) -> int:
    """The nearest power of 2 times a factor that the number of devices has."""
    return odd * max(1, 2 ** round(log2(max(1.0, value / odd))))


def axes_of(request: Request, offer: Offer, hardware: Hardware, fine: bool) -> Axes:
    """The values of each setting; `fine=False` is a grid of an eighth for devices that cannot win."""
    shape, batches = request.shape, batches_of(request)
    most = _most_devices(request, offer)
    t = tuple(i for i in _powers(min(hardware.node, 16, most)) if shape.heads % i == 0)
    c = tuple(i for i in _powers(min(16, most)) if i == 1 or request.seq_len / i >= 2048)
    e = tuple(i for i in _powers(min(64, most)) if shape.experts and shape.experts % i == 0) or (1,)
    p = tuple(
        i for i in range(1, min(64, most, shape.layers) + 1) if shape.layers % i == 0 or i & (i - 1) == 0
    )
    micro = tuple(i for i in _powers(16) if any(b % i == 0 for b in batches))
    replicas = {i * k for i in _powers(most) for k in (1, 3)} | _divisors(request.count)
    d = sorted(i for i in replicas if any(b % i == 0 for b in batches))
    stacks = stacks_of(offer.device.family, request.job, request.finetuning_type)
    kept_apart = request.finetuning_type == "full" and not shares_memory(offer.device)
    every = Axes(
        t=t, c=c, e=e, micro_batch=micro, recompute=(0, 1, 2), sp=(0, 1), p=p, v=(1, 2, 4, 8),
        zero=(0, 1, 2, 3), offload=(0, 1) if kept_apart else (0,), d=tuple(d), global_batch=batches,
    )  # fmt: skip
    if not fine:
        every = Axes(
            t=t, c=c[:2], e=e[::3], micro_batch=micro[:4], recompute=(0, 2), sp=(1,),
            p=tuple(i for i in p if i & (i - 1) == 0 and i <= 16), v=(1,), zero=(1, 3), d=tuple(d),
            global_batch=batches[-2:],
        )  # fmt: skip
    return _with_flags(every, stacks)


def _with_flags(axes: Axes, stacks: Sequence[TrainStack]) -> Axes:
    """The axes without values that no stack has a flag for."""
    lone = {name: getattr(axes, name)[:1] for name in SPLITS if not raised(stacks, name)}
    zero = tuple(stage for stage in axes.zero if any(stage in s.zero for s in stacks)) or (0,)
    recompute = tuple(r for r in axes.recompute if any(r in s.recompute for s in stacks))
    return replace(axes, zero=zero, recompute=recompute, **lone)


def _divisors(count: int) -> set[int]:
    return {i for i in range(1, count + 1) if count % i == 0}


def shares_memory(device: Device) -> bool:
    """Whether the host's memory is the device's own, so that nothing is saved by moving data there."""
    return device.kind == "cpu" or device.family == "apple"


def _powers(most: float) -> list[int]:
    return [2**i for i in range(15) if 2**i <= most]


# ------------------------------------------------------------------ the one that is taken


def _plan_of(
    request: Request,
    offer: Offer,
    job: Job,
    candidates: Mapping[str, np.ndarray],
    precision: str,
    constants: Constants,
) -> Plan:
    evaluated = exact(job, candidates)
    at = _choose(request, offer, job, evaluated)

    def of(parts: Mapping[str, Any], times: float = 1.0) -> dict[str, float]:
        return {k: float(np.broadcast_to(v, evaluated["step_s"].shape)[at]) * times for k, v in parts.items()}

    chosen = {k: int(v[at]) for k, v in candidates.items()}
    devices, wall_s = int(evaluated["devices"][at]), float(evaluated["wall_s"][at])
    steps = request.tokens / (chosen["global_batch"] * request.seq_len)
    busy, memory = of(evaluated["parts"], steps), of(evaluated["memory_parts"])
    beside = beside_of(request, offer)
    terms = beside.terms(devices, chosen["global_batch"], sum(busy.values()))
    if request.oversubscription > 1:
        busy, terms["network"] = _slowed(request, job, offer, precision, chosen, busy, steps)
    parts = busy | {name: term.seconds.value for name, term in terms.items()}
    time_s = _time_of(offer, constants, wall_s, float(job.high_s(wall_s, devices)), terms)
    plan = Plan(
        device=offer.device.id,
        devices=devices,
        settings=_settings(request, chosen, precision, steps)
        | _stack_of(job, offer.device, chosen, precision)
        | {"checkpoint_every_s": round(beside.checkpoint_every_s(devices))},
        time_s=time_s,
        cost_usd=None,
        energy_kwh=energy_kwh(offer.device, devices, time_s, parts),
        memory_bytes_per_device=memory_figure(sum(memory.values()), TRAINED_HIGH),
        fits=True,
        why_not=None,
        parts=parts,
        terms=shown_terms(terms),
        bytes=memory,
        provider=offer.provider or None,
    )
    stored = beside.written_params * 14.0 * KEPT_CHECKPOINTS
    plan, power = priced(plan, offer, stored), power_of(request, offer, devices)
    return within_limits(plan, request.budget_usd, request.deadline_s, power)


def _slowed(
    request: Request,
    job: Job,
    offer: Offer,
    precision: str,
    chosen: Mapping[str, int],
    busy: Mapping[str, float],
    steps: float,
) -> tuple[dict[str, float], Term]:
    """The steps as on a network that is not oversubscribed, and what its being so adds to them."""
    whole = replace(offer, oversubscription=1.0).hardware(precision)
    assert whole is not None
    one = {name: np.array([value], float) for name, value in chosen.items()}
    free = {
        k: float(np.ravel(v)[0]) * steps for k, v in exact(replace(job, hardware=whole), one)["parts"].items()
    }
    added = sum(busy.values()) - sum(free.values())
    why = f"all traffic between hosts at 1/{request.oversubscription:g} of their links, or all under one leaf"
    return free, Term(seconds=Figure(added, 0.0, added, "s", "modelled"), source=why)


def _stack_of(job: Job, device: Device, chosen: Mapping[str, int], precision: str) -> dict[str, Any]:
    """The first public stack that runs these settings, one that can be exported if any can; its flags."""
    platform = platform_of(device.vendor, device.kind)
    running = [s for s in job.stacks if np.all(s.runs(chosen))]
    stack = next((s for s in running if writes(s.name, platform)), running[0])
    narrow = {"precision": stack.narrow[precision]} if precision in stack.narrow else {}
    return {"stack": stack.name, "stack_flags": stack.flags_of(chosen) | narrow}


def _time_of(
    offer: Offer, constants: Constants, wall_s: float, high_s: float, terms: Mapping[str, Term]
) -> Figure:
    """The whole job: the steps as sure as the fit, what is there once as sure as its term."""
    provenance = constants.provenance_of("train", groups(offer.device))
    early = sum(terms[n].seconds.value - terms[n].seconds.low for n in ("start", "compile"))
    low_s = (wall_s - early) / wide_of(constants, offer)
    return Figure(wall_s, low_s, high_s, "s", provenance)


def wide_of(constants: Constants, offer: Offer) -> float:
    """High end of a time's 80 % interval over its middle."""
    return exp(constants.spread("train", groups(offer.device)))


def power_of(request: Request, offer: Offer, devices: int) -> tuple[float, float] | None:
    """Watts drawn and allowed, where there is a limit."""
    drawn = draws_w(offer.device, devices)
    return (drawn, request.power_limit_w) if request.power_limit_w and drawn else None


def _finalists(
    request: Request, offer: Offer, job: Job, swept: Swept, fine: bool
) -> tuple[dict[str, np.ndarray], tuple[Mapping[str, float], ...]]:
    """Settings of the candidates worth a second look, and the trade-off of time against number of devices.

    The best KEPT where some meet the limits, else the cell that breaks the fewest and those least, with all
    its rows.
    """
    devices = np.concatenate([c[0] for c in swept.cells]).astype(float)
    wall = np.concatenate([c[1] for c in swept.cells]).astype(float)
    others = _tradeoffs(offer, devices, wall) if fine else ()
    broken, worst = _shortfall(request, offer, wall, devices, job)
    if swept.best and not broken.min():
        return swept.best, others
    where = {k: np.concatenate([c[2][k] for c in swept.cells]) for k in swept.cells[0][2]}
    at = np.lexsort((worst, broken))[:1]
    candidates = expanded({k: v[at] for k, v in where.items()}, axes_of(request, offer, job.hardware, fine))
    evaluated = exact(job, candidates)
    keep = (evaluated["memory"] <= job.room) & possible(job, candidates)
    return {k: v[keep] for k, v in candidates.items()}, others


def expanded(cells: Mapping[str, np.ndarray], axes: Axes) -> dict[str, np.ndarray]:
    """Every row and scheme of the given cells, as flat columns."""
    inner = ("micro_batch", "recompute", "sp", "zero", "offload")
    grid = np.meshgrid(*(np.array(getattr(axes, k), float) for k in inner), indexing="ij")
    count, size = len(cells["t"]), grid[0].size
    columns = {k: np.tile(g.ravel(), count) for k, g in zip(inner, grid, strict=True)}
    columns |= {k: np.repeat(v.astype(float), size) for k, v in cells.items()}
    return {k: columns[k] for k in SETTINGS}


def _shortfall(
    request: Request, offer: Offer, wall: np.ndarray, devices: np.ndarray, job: Job
) -> tuple[np.ndarray, np.ndarray]:
    """How many limits the high ends miss, and the worst of them by which factor."""
    high = job.high_s(wall, devices)
    factors = [high / request.deadline_s if request.deadline_s else wall / PATIENCE_S]
    if request.budget_usd is not None and offer.usd_per_h:
        factors.append(high * devices * offer.usd_per_h / 3600 / max(request.budget_usd, 1e-9))
    return np.sum([f > 1 for f in factors], axis=0), np.max(factors, axis=0)


def _choose(request: Request, offer: Offer, job: Job, evaluated: Mapping[str, Any]) -> int:
    """The cheapest that is in time and in its bytes; where there is none, the nearest to the limits."""
    wall, devices = evaluated["wall_s"], evaluated["devices"]
    broken, worst = _shortfall(request, offer, wall, devices, job)
    if broken.min():
        return int(np.lexsort((worst, broken))[0])
    return int(np.lexsort((wall, np.where(broken, np.inf, wall * devices)))[0])


def _tradeoffs(offer: Offer, devices: np.ndarray, wall: np.ndarray) -> tuple[Mapping[str, float], ...]:
    """For each number of devices the fastest, as far as more devices are faster: cost against time."""
    front: list[Mapping[str, float]] = []
    order = np.lexsort((wall, wall * devices))
    fastest = np.inf
    for i in order[np.concatenate([[True], np.minimum.accumulate(wall[order])[:-1] > wall[order][1:]])]:
        if wall[i] < fastest * 0.95:
            fastest = wall[i]
            front.append(_tradeoff(offer, float(devices[i]), float(wall[i])))
    return tuple(front[:TRADEOFFS])


def _tradeoff(offer: Offer, devices: float, wall: float) -> dict[str, float]:
    price = {"cost_usd": wall * devices * offer.usd_per_h / 3600} if offer.usd_per_h else {}
    return {"devices": devices, "time_s": wall} | price


def _settings(request: Request, chosen: Mapping[str, int], precision: str, steps: float) -> dict[str, Any]:
    return {
        "tp": chosen["t"],
        "pp": chosen["p"],
        "virtual_stages": chosen["v"],
        "cp": chosen["c"],
        "ep": chosen["e"],
        "dp": chosen["d"],
        "sequence_parallel": bool(chosen["sp"]) and chosen["t"] > 1,
        "micro_batch": chosen["micro_batch"],
        "global_batch": chosen["global_batch"],
        "zero": chosen["zero"] if chosen["d"] * chosen["c"] > 1 else 0,
        "offload": bool(chosen["offload"]),
        "recompute": RECOMPUTE[chosen["recompute"]],
        "precision": precision,
        "finetuning_type": request.finetuning_type,
        "seq_len": request.seq_len,
        "steps": ceil(steps),
    }


def priced(p: Plan, offer: Offer, stored_bytes: float = 0.0) -> Plan:
    """The plan with its cost: devices by the hour, and what it stores meanwhile; None without a price."""
    if offer.price is None or offer.usd_per_h is None or p.time_s is None:
        return p
    hours = p.time_s.value / 3600
    costs = {"devices": offer.usd_per_h * p.devices * hours}
    if not offer.owned:
        costs["storage"] = stored_bytes * STORAGE_USD_PER_BYTE_H * hours
    cost_usd = cost_figure(p.time_s, offer.price, sum(costs.values()))
    return replace(p, cost_usd=cost_usd, costs=costs, price=offer.price.as_json(), compared=offer.compared)


def no_plan(offer: Offer, why: str, shortfalls: Mapping[str, float] | None = None, need: float = 0.0) -> Plan:
    """An entry for a device that cannot do it."""
    return Plan(
        device=offer.device.id,
        devices=1,
        settings={},
        time_s=None,
        cost_usd=None,
        energy_kwh=None,
        memory_bytes_per_device=memory_figure(need, TRAINED_HIGH) if need else None,
        fits=False,
        why_not=why,
        shortfalls=shortfalls or {},
        provider=offer.provider or None,
    )


def _too_large(
    request: Request, offer: Offer, job: Job, swept: Swept, precision: str, constants: Constants
) -> Plan:
    """An entry for a device without room: how much it lacks, and which limits its smallest way breaks too."""
    need = swept.least_bytes
    if need == float("inf"):
        return no_plan(offer, "no split of layers, heads and batch divides on it in a way that a stack runs")
    smallest = _plan_of(request, offer, job, swept.least, precision, constants)
    return without_room(offer, smallest, need, job.room, " even when split")


def without_room(offer: Offer, smallest: Plan, need: float, room: float, how: str = "") -> Plan:
    """An entry for a device that lacks memory for its smallest way, and the other limits that this breaks."""
    why = needs_more(need, room, how)
    if not smallest.fits and not smallest.shortfalls:  # a limit that cannot be checked
        return no_plan(offer, why, need=need)
    return no_plan(offer, why, {"memory": need / room, **smallest.shortfalls}, need)


def needs_more(need: float, room: float, how: str = "") -> str:
    """ "needs 14 % more memory even when split (92 GB a device)"; never 0 %."""
    more = need / room - 1
    words = f"{max(1, ceil(more * 100))} % more memory" if more < 1 else f"{need / room:.1f} times its memory"
    return f"needs {words}{how} ({show_bytes(need)} a device)"
