"""A recipe's steps as stages of a fleet: cleaning, data preparation, training, compression, gate, service.

Each is timed on every pool that may do it, then placed (fleet.py), transfers counted. The row of a device has
all its steps there, as a plan of that device alone would. A step leaves only where the device cannot do it,
where the limits are kept elsewhere alone, or for another device of the user's own that does it for less; it
says so. What the steps would cost where each is cheapest stands beside it (`apart`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import Any

from steelyard.hardware import Device
from steelyard.units import Figure

from ..job.cost import DISK_BYTES_PER_S, START_S, cost_figure, power_w
from ..job.plans import Plan, within_limits
from ..job.request import Request
from ..job.terms import CORES_TOGETHER, HOST_CORES, TOKENISE_BYTES_PER_CORE_S, engine_s
from ..physics.inference import ServeSetup, serve_s
from ..physics.sizes import RUNTIME_BYTES, Sizes, total
from ..published.constants import Constants, groups, values
from .fleet import Option, Placement, Pool, Stage, anchored, place
from .offer import Offer, draws_w, room_bytes, surely
from .serve_search import BITS, search_serving

CLEAN_BYTES_PER_CORE_S = 4e6  # half of the 8 MB/s of `bench/clean.py` on two cores
# Compressed JPEG: 110 kB in 4 to 5 ms with libjpeg-turbo, modelled; 1080p to 224 px made 29 MB/s of files of
# 66 kB and 77 of 534 kB (bench/media.py).
DECODE_BYTES_PER_CORE_S = 25e6
# Cores of libjpeg-turbo that one media engine replaces. nvJPEG on a V100 does twice an 18-core Xeon 6140; the
# five decoders of an A100 four to eight times the V100 (NVIDIA, on the A100's JPEG decoder): 29 to 58.
ENGINE_CORES = 29.0
GATE_BATCH = 8.0
COUNTS = (1, 2, 4, 8)  # devices that a step of data may take
TRAIN = "train"
WHOLE = {"deadline", "budget", "power"}  # limits of all steps together


def with_steps(
    request: Request, offers: Sequence[Offer], plans: Sequence[Plan], constants: Constants
) -> list[Plan]:
    """Each plan with its steps on its own device as far as it can; plans that cannot be have none.

    Where no device can do a step, each plan has the nearest way to do it, and is unfit for that reason.
    """
    stages, pools, at = stages_of(request, offers, plans, constants)
    able = all(s.options for s in stages)
    sure = surely(request, max((_width(p) for p in plans), default=1.0))
    apart = anchored(stages, at, pools, sure.deadline_s, sure.budget_usd) if able else {}
    wholes = []
    for i, p in enumerate(plans):
        stays = _staying(surely(request, _width(p)), stages, pools, i) if i in apart else None
        placed = _preferred(request, stays, apart.get(i))
        whole = _whole(request, offers, i, p, placed, constants)
        if placed and whole.steps:
            whole = replace(whole, steps=_with_moves(request, whole, stages, placed, i))
        if stays and placed is stays and whole.steps:
            whole = replace(whole, apart=_apart(offers, stays, apart[i], step_names(request)))
        wholes.append(whole)
    return wholes


def _width(p: Plan) -> float:
    """By which factor a plan's time may be longer."""
    return p.time_s.high / p.time_s.value if p.time_s else 1.0


def _staying(request: Request, stages: Sequence[Stage], pools: Sequence[Pool], at: int) -> Placement | None:
    """Every step on one pool, but for those that it cannot do."""
    own = [tuple(o for o in s.options if o.pool == at) or s.options for s in stages]
    kept = [replace(s, options=options) for s, options in zip(stages, own, strict=True)]
    return place(kept, pools, request.deadline_s, request.budget_usd)


def _preferred(request: Request, stays: Placement | None, apart: Placement | None) -> Placement | None:
    """Staying, unless the limits are kept elsewhere alone, or all hardware is the user's."""
    if stays is None or apart is None or request.own or (apart.within and not stays.within):
        return apart
    return stays


def _with_moves(
    request: Request, p: Plan, stages: Sequence[Stage], placed: Placement, at: int
) -> tuple[Mapping[str, Any], ...]:
    """The steps, each with the reason why it left the row's device; None where it stays."""
    rows = zip(p.steps or (), stages, placed.options, strict=True)
    return tuple(dict(row) | {"moved": _why_moved(request, stage, o, at)} for row, stage, o in rows)


def _why_moved(request: Request, stage: Stage, taken: Option, at: int) -> str | None:
    if taken.pool == at:
        return None
    if not any(o.pool == at for o in stage.options):
        return "it cannot be done here"
    return "it costs less there" if request.own else "the limits are kept there"


def _apart(
    offers: Sequence[Offer], stays: Placement, apart: Placement, names: Sequence[str]
) -> Mapping[str, Any] | None:
    """The steps that would be cheaper elsewhere, the service's hours counted: {"steps", "time_s", ...}."""
    moved = {
        name: offers[b.pool].device.id
        for name, a, b in zip(names, stays.options, apart.options, strict=True)
        if a.pool != b.pool
    }
    if not moved or apart.weight >= stays.weight:
        return None
    hourly = {"usd_per_h": apart.options[-1].figures.get("usd_per_h")}
    return {"steps": moved, "time_s": apart.time_s, "cost_usd": apart.cost_usd} | hourly


def stages_of(
    request: Request, offers: Sequence[Offer], plans: Sequence[Plan], constants: Constants
) -> tuple[list[Stage], list[Pool], int]:
    """The stages with their ways on every priced offer, the offers as pools, the place of the dearest."""
    priced = [i for i, o in enumerate(offers) if o.price and o.compared and not o.refused]
    usable = [i for i in priced if request.objective == "cost" or power_w(offers[i].device)]
    names = step_names(request)
    stages = [_stage(name, request, offers, usable, plans, constants) for name in names]
    return stages, [_pool(request, offer) for offer in offers], names.index(_main(request))


def step_names(request: Request) -> tuple[str, ...]:
    """The steps of the recipe, in order."""
    if request.serves:
        return ("gate", "serve")
    return ("clean", "prepare", TRAIN, "compress", "gate", "serve")


def _main(request: Request) -> str:
    return "serve" if request.serves else TRAIN


def _pool(request: Request, offer: Offer) -> Pool:
    return Pool(
        name=offer.device.id,
        site=offer.provider or offer.device.vendor,
        usd_per_h=offer.usd_per_h or 0.0,
        weight_per_usd=float(request.objective == "cost"),
    )


def _whole(
    request: Request,
    offers: Sequence[Offer],
    at: int,
    p: Plan,
    placed: Placement | None,
    constants: Constants,
) -> Plan:
    """The plan of a device over all steps: placed, or all on itself where it has no price to compare."""
    if p.time_s is None:
        return replace(p, steps=())
    if placed is None:
        options = []
        for name in step_names(request):
            if (option := _alone(name, request, offers[at], at, p, constants)) is None:
                return replace(_without(p, name) if p.fits else p, steps=())
            options.append(option)
        transfers: tuple[tuple[float, float], ...] = ((0.0, 0.0),) * len(options)
    else:
        options, transfers = list(placed.options), placed.transfers
    return _with_all(request, offers, at, p, options, transfers)


def _alone(
    name: str, request: Request, offer: Offer, at: int, p: Plan, constants: Constants
) -> Option | None:
    options = _options(name, request, offer, at, p, constants)
    return min(options, key=lambda o: (_short(o), o.time_s), default=None)


def _short(option: Option) -> float:
    """By which factor it misses the worst of its own limits; 0 where it misses none."""
    return max(option.shortfalls.values(), default=0.0)


def _without(p: Plan, step: str, option: Option | None = None) -> Plan:
    """A plan unfit for want of a step; `option` is the nearest way to do it."""
    reasons = [f"no device can do the step {step}", *([option.why_not] if option and option.why_not else [])]
    why = "; ".join([*reasons, *([p.why_not] if p.why_not else [])])
    short = dict(p.shortfalls) | dict(option.shortfalls if option else {})
    return replace(p, fits=False, why_not=why, shortfalls=short)


def _with_all(
    request: Request,
    offers: Sequence[Offer],
    at: int,
    p: Plan,
    options: Sequence[Option],
    transfers: Sequence[tuple[float, float]],
) -> Plan:
    assert p.time_s is not None
    names = step_names(request)
    steps = [
        _step_row(name, offers[o.pool], o, t) for name, o, t in zip(names, options, transfers, strict=True)
    ]
    seconds = sum(s["time_s"] + s["transfer_s"] for s in steps)
    parts = dict(p.parts) if TRAIN in names else {}
    parts |= {s["step"]: s["time_s"] for s in steps if s["step"] != TRAIN}
    parts |= {"transfer": sum(s["transfer_s"] for s in steps)}
    factor = seconds / p.time_s.value
    time_s = replace(p.time_s * factor, value=seconds)
    price = offers[at].price if all(s["cost_usd"] is not None for s in steps) else None
    dollars = sum((s["cost_usd"] or 0.0) + s["transfer_usd"] for s in steps)
    costs = {s["step"]: s["cost_usd"] for s in steps} | {"transfer": sum(s["transfer_usd"] for s in steps)}
    drawn = [s["energy_kwh"] for s in steps]
    energy = None if any(e is None for e in drawn) else _energy(sum(drawn), time_s)
    plan = replace(
        p,
        time_s=time_s,
        cost_usd=cost_figure(time_s, price, dollars) if price else None,
        energy_kwh=energy,
        parts=parts,
        costs=costs if price else {},
        steps=tuple(steps),
        **_unlimited(p),
    )
    draws = [w for o in options if (w := draws_w(offers[o.pool].device, o.devices))]
    power = (max(draws), request.power_limit_w) if request.power_limit_w and draws else None
    plan = within_limits(plan, request.budget_usd, request.deadline_s, power)
    unfit = next(((name, o) for name, o in zip(names, options, strict=True) if o.shortfalls), None)
    return _without(plan, *unfit) if unfit else plan


def _unlimited(p: Plan) -> dict[str, Any]:
    """Without the marks that limits of the whole left on its training alone."""
    own = {k: v for k, v in p.shortfalls.items() if k not in WHOLE}
    if p.fits or own:
        return {}
    return {"fits": True, "why_not": None, "shortfalls": {}}


def _energy(kwh: float, time_s: Figure) -> Figure:
    return replace(time_s, unit="kWh", provenance="modelled") * (kwh / time_s.value)


def _step_row(name: str, offer: Offer, option: Option, moved: tuple[float, float]) -> dict[str, Any]:
    watts = power_w(offer.device)
    return {
        "step": name,
        "hosts": max(1, ceil(option.devices / offer.per_host)),
        "device": offer.device.id,
        "devices": option.devices,
        "time_s": option.time_s,
        "cost_usd": option.cost_usd if offer.usd_per_h is not None else None,
        "transfer_s": moved[0],
        "transfer_usd": moved[1],
        "energy_kwh": None if watts is None else option.time_s * watts * option.devices / 3.6e6,
        "provider": offer.provider or None,
        **option.figures,
    }


# ------------------------------------------------------------------ one step on one pool


def _stage(
    name: str,
    request: Request,
    offers: Sequence[Offer],
    usable: Sequence[int],
    plans: Sequence[Plan],
    constants: Constants,
) -> Stage:
    options = [o for i in usable for o in _options(name, request, offers[i], i, plans[i], constants)]
    if name == "serve" and not request.serves and all(o.shortfalls for o in options):
        options = [o for i in usable for o in _serving(request, offers[i], i, constants, fine=True)]
    able = [o for o in options if not o.shortfalls] or sorted(options, key=_short)[:1]
    weights = 2.0 * request.shape.params
    left = {"clean": request.data_bytes, "prepare": request.data_bytes, "serve": 0.0}
    return Stage(name=name, options=tuple(able), bytes_out=left.get(name, weights))


def _options(
    name: str, request: Request, offer: Offer, at: int, p: Plan, constants: Constants
) -> list[Option]:
    """The ways to do a step on a device."""
    if name == TRAIN or name == _main(request):
        return _main_options(request, offer, at, p, constants)
    if name in ("clean", "prepare"):
        return [
            _option(request, offer, at, n, _data_s(name, request, offer.device, n))
            for n in COUNTS
            if n <= offer.most
        ]
    if name == "serve":
        return _serving(request, offer, at, constants)
    copies = _gate_devices(request, offer)
    if copies is None:
        return []
    if name == "compress":
        written_s = START_S + 2.0 * 2.0 * request.shape.params / DISK_BYTES_PER_S  # read, and written again
        return [_option(request, offer, at, copies, written_s)]
    ready_s = _ready_s(request, offer, 16.0)
    token_s = _token_s(request, offer, constants, copies)
    return (
        []
        if token_s is None
        else [_option(request, offer, at, copies, ready_s + request.eval_tokens * token_s)]
    )


def _option(request: Request, offer: Offer, at: int, devices: int, seconds: float, **figures: Any) -> Option:
    usd = seconds * devices * (offer.usd_per_h or 0.0) / 3600
    kwh = seconds * devices * (power_w(offer.device) or 0.0) / 3.6e6
    weight = kwh if request.objective == "energy" else usd
    return Option(pool=at, devices=devices, time_s=seconds, cost_usd=usd, weight=weight, figures=figures)


def _main_options(request: Request, offer: Offer, at: int, p: Plan, constants: Constants) -> list[Option]:
    if p.time_s is None or (not p.fits and set(p.shortfalls) - WHOLE):
        return []
    if request.serves:
        return [_served(request, offer, at, p)]
    return [_option(request, offer, at, p.devices, p.time_s.value)]


def _data_s(name: str, request: Request, device: Device, devices: int) -> float:
    """Cleaning, or tokenising and decoding, on the host's cores and on media engines where there are any."""
    cores = devices * (device.cores or HOST_CORES) * CORES_TOGETHER
    if name == "clean":
        return START_S / 2 + request.data_bytes / (CLEAN_BYTES_PER_CORE_S * cores)
    decoding = cores + devices * media_engines(device) * ENGINE_CORES
    text = request.data_bytes / (TOKENISE_BYTES_PER_CORE_S * cores)
    return START_S / 2 + text + request.media_bytes / (DECODE_BYTES_PER_CORE_S * decoding)


def media_engines(device: Device) -> float:
    """Hardware decoders of images and video on one device."""
    return float(getattr(device, "media_engines", 0) or 0)


def _gate_devices(request: Request, offer: Offer) -> int | None:
    """Devices that hold the model in 16 bits; None where a host's do not."""
    need = 2.0 * request.shape.params * 1.1
    room = room_bytes(request, offer.device) - RUNTIME_BYTES
    if room <= 0:
        return None
    count = 2 ** max(0, ceil(need / room) - 1).bit_length()
    return count if count <= min(offer.most, max(offer.per_host, 1)) else None


def _token_s(request: Request, offer: Offer, constants: Constants, devices: int) -> float | None:
    """Seconds an answer's token takes when several are asked at once."""
    hardware = offer.hardware("bf16")
    if hardware is None:
        return None
    constant = values(constants, "serve", groups(offer.device, offer.device.serve_stack))
    setup = ServeSetup(
        t=float(devices), batch=GATE_BATCH, prompt=request.prompt_tokens, output=request.output_tokens
    )
    times = serve_s(Sizes.of(request.shape, request.prompt_tokens), setup, hardware, constant)
    return float(total(times["decode"])) / GATE_BATCH


def _serving(
    request: Request, offer: Offer, at: int, constants: Constants, fine: bool = False
) -> list[Option]:
    """The service that holds the load and its SLO, or misses them least."""
    serving_request = replace(
        request, job="serve", precisions=(), budget_usd=None, deadline_s=None, batch_scoring=False,
        objective="cost",
    )  # fmt: skip
    plan = search_serving(serving_request, offer, constants, fine).plan
    if plan.time_s is None:
        return []
    served = _served(request, offer, at, plan)
    return [served if plan.fits else replace(served, why_not=plan.why_not, shortfalls=plan.shortfalls)]


def _ready_s(request: Request, offer: Offer, weight_bits: float) -> float:
    """Seconds until an engine answers."""
    return float(sum(engine_s(offer.device, request.shape.params, weight_bits).values()))


def _served(request: Request, offer: Offer, at: int, plan: Plan) -> Option:
    """A service as a step: loading counts, its hours weigh in the choice."""
    ready_s = _ready_s(request, offer, BITS[plan.settings["weights"]])
    figures = {name: figure.value for name, figure in plan.service.items()}
    figures |= {name: plan.settings[name] for name in ("replicas", "tp")} | {"setup": dict(plan.settings)}
    hourly = plan.devices * (offer.usd_per_h or 0.0)
    option = _option(
        request, offer, at, plan.devices, ready_s, usd_per_h=hourly if offer.usd_per_h else None, **figures
    )
    watts = (power_w(offer.device) or 0.0) * plan.devices
    a_hour = watts / 1000 if request.objective == "energy" else hourly
    return replace(option, weight=option.weight + request.service_h * a_hour)
