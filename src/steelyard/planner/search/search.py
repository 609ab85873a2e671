"""`plan`: for each device of the catalogue the settings that do the job for the least money, or energy.

Devices are searched in the order of a lower bound on their cost; one whose bound already exceeds the best
found is searched on a coarse grid only, and named in `Plans.pruned`. Not here: how one device is searched
(train_search.py, serve_search.py), what this very machine takes (local.py), a whole recipe (whole.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

from steelyard.errors import WrongUse
from steelyard.hardware import Device, Devices

from ..job.cost import power_w
from ..job.plans import Plan, Plans, frontier, ranked, with_reasons
from ..job.request import Request
from ..published.constants import Constants
from .offer import Offer, offers_of
from .serve_search import search_serving
from .stages import with_steps
from .train_search import SearchResult, lower_bound_device_s, no_plan, search_training

CHANGES = {
    "price": "price_usd_per_h",
    "bandwidth": "memory_bytes_per_s",
    "memory": "memory_bytes",
    "scaleup": "scaleup_bytes_per_s",
    "scaleout": "scaleout_bytes_per_s",
    "tdp": "tdp_w",
}


HERE = "this-machine"  # a device of no catalogue: its plan is made elsewhere and comes as `extra`


@dataclass(slots=True)
class Searched:
    """Plans of all devices, unranked, with the counts of the search."""

    offers: list[Offer] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    considered: int = 0
    divide: int = 0
    fit: int = 0
    pruned: list[str] = field(default_factory=list)

    def add(self, offer: Offer, result: SearchResult) -> None:
        """One device more."""
        self.offers.append(offer)
        self.plans.append(result.plan)
        self.considered += result.considered
        self.divide += result.divide
        self.fit += result.fit


def plan(request: Request, devices: Devices, constants: Constants, extra: Sequence[Plan] = ()) -> Plans:
    """A plan for every device, ranked: those that fit by cost and time, the unpriced and the unfit last.

    `extra` are plans made elsewhere, such as for this machine; they are ranked with the rest, afresh.
    """
    request, devices = prepared(request, devices)
    return gathered(request, answered(request, devices, constants), extra)


def answered(request: Request, devices: Devices, constants: Constants) -> Searched:
    """All devices searched; the plans of a recipe carry its steps, each on its own hardware."""
    searched = search(request, devices, constants)
    if request.recipe:
        searched.plans = with_steps(request, searched.offers, searched.plans, constants)
    return searched


def prepared(request: Request, devices: Devices) -> tuple[Request, Devices]:
    """The request with catalogue ids for names, and the catalogue with its what-if changes in it."""
    own = tuple(replace(o, device=devices.find(o.device).id) for o in request.own)
    prices = {devices.find(name).id: price for name, price in request.prices.items()}
    changed = Devices(tuple(devices)) if not request.changes else changed_devices(devices, request.changes)
    return replace(request, own=own, prices=prices), changed


def search(request: Request, devices: Devices, constants: Constants) -> Searched:
    """The best plan of each device; devices whose bound already loses are searched coarsely."""
    named = [devices.find(name) for name in request.devices if name != HERE]
    chosen = named if request.devices else list(devices)
    offers = [offers_of(request, device) for device in chosen]
    bounds = [min(_bound(request, offer, constants) for offer in some) for some in offers]
    searched, incumbent = Searched(), inf
    for bound, _, some in sorted(zip(bounds, range(len(offers)), offers, strict=True)):
        fine = bound < incumbent or bool(request.devices)
        results = [(on_device(request, offer, constants, fine), offer) for offer in some]
        best = ranked([result.plan for result, _ in results], request.objective)[0]
        result, offer = next(pair for pair in results if pair[0].plan is best)
        searched.add(offer, result)
        if not fine:
            searched.pruned.append(offer.device.id)
        counts = offer.compared or request.objective == "energy"
        if counts and result.plan.fits and (spent := _spent(request, result.plan)) is not None:
            incumbent = min(incumbent, spent)
    return searched


def on_device(request: Request, offer: Offer, constants: Constants, fine: bool = True) -> SearchResult:
    """The plan of one device, whatever the others do."""
    if offer.refused:
        return SearchResult(no_plan(offer, offer.refused))
    how = search_serving if request.serves else search_training
    return how(request, offer, constants, fine)


def _bound(request: Request, offer: Offer, constants: Constants) -> float:
    """Dollars (or kWh) below which no setting of this device gets; 0 for a service: searched fast."""
    if request.serves:
        return 0.0 if offer.usd_per_h is not None else inf
    each = power_w(offer.device) if request.objective == "energy" else offer.usd_per_h
    if each is None or offer.refused:
        return inf
    unit = 3.6e6 * 4 if request.objective == "energy" else 3600.0  # idle draws a quarter
    return lower_bound_device_s(request, offer, constants) * each / unit


def _spent(request: Request, p: Plan) -> float | None:
    figure = p.energy_kwh if request.objective == "energy" else p.cost_usd
    return figure.value if figure else None


def gathered(request: Request, searched: Searched, extra: Sequence[Plan] = ()) -> Plans:
    """The plans ranked, with the front and the reasons."""
    fresh = [replace(p, why_not=None, lost=None) if p.fits else p for p in extra]
    order = ranked([*fresh, *searched.plans], request.objective)
    best = next((i for i, p in enumerate(order) if p.fits and p.why_not is None), None)
    return Plans(
        request=request.as_json(),
        plans=with_reasons(order, best, request.objective),
        best=best,
        frontier=frontier(order, request.objective),
        considered=searched.considered,
        divide=searched.divide,
        fit=searched.fit,
        pruned=tuple(searched.pruned),
    )


# ------------------------------------------------------------------ questions


def why_not(
    request: Request, device: str, devices: Devices, constants: Constants, extra: Sequence[Plan] = ()
) -> str:
    """Why the best plan is not on this device: "needs 14 % more memory", "costs 1.8 times as much".

    It is weighed against the devices of the request, and against `extra`, plans made elsewhere.
    """
    prepared_request, catalogue = prepared(request, devices)
    device_row = catalogue.find(device)
    catalogued = tuple(name for name in prepared_request.devices if name != HERE)
    weighed = (*catalogued, device_row.id) if prepared_request.devices else ()
    ids = tuple(dict.fromkeys(catalogue.find(name).id for name in weighed))
    searched = search(replace(prepared_request, devices=ids), catalogue, constants)
    at = next(i for i, offer in enumerate(searched.offers) if offer.device.id == device_row.id)
    searched.plans[at] = on_device(
        prepared_request, searched.offers[at], constants
    ).plan  # on the fine grid, pruned or not
    if prepared_request.recipe:
        searched.plans = with_steps(prepared_request, searched.offers, searched.plans, constants)
    plans = gathered(prepared_request, searched, extra)
    mine = next(p for p in plans.plans if p.device == device_row.id)
    if plans.best is not None and plans.plans[plans.best].device == device_row.id:
        return "it is the best plan"
    return mine.lost or mine.why_not or "no other device fits either"


def what_if(
    request: Request,
    devices: Devices,
    changes: Mapping[str, float | str],
    constants: Constants,
    extra: Sequence[Plan] = (),
) -> Plans:
    """The plans as they would be with other figures: {"price.h100-sxm": 2.1, "bandwidth.gaudi2": "x1.2"}.

    A number replaces the figure (USD an hour, bytes/s, bytes, FLOP/s, watts); "x1.2" multiplies it. `extra`
    are plans made elsewhere, which the changes leave as they are.
    """
    return plan(replace(request, changes=dict(request.changes) | dict(changes)), devices, constants, extra)


def changed_devices(devices: Devices, changes: Mapping[str, float | str]) -> Devices:
    """The catalogue with other figures. Raises WrongUse for what is no figure of a device."""
    rows = {device.id: device for device in devices}
    for key, value in changes.items():
        what, _, name = key.partition(".")
        if what != "peak" and what not in CHANGES:
            allowed = ", ".join(f"{c}.DEVICE" for c in (*CHANGES, "peak"))
            raise WrongUse("plan.what_if", f"{key!r} is no figure of a device", hint=allowed)
        device = devices.find(name)
        rows[device.id] = _changed(rows[device.id], what, value, key)
    return Devices(tuple(rows.values()))


def _changed(device: Device, what: str, value: float | str, key: str) -> Device:
    if what == "peak":
        peaks = dict(device.peaks)
        wanted = _figure(peaks.get("bf16"), value, key)
        factor = wanted / (peaks.get("bf16") or wanted)
        return replace(device, peaks={k: v * factor for k, v in peaks.items()} or {"bf16": wanted})
    now = getattr(device, CHANGES[what])
    other: dict[str, Any] = {CHANGES[what]: _figure(now, value, key)}
    if what == "price":  # the user's own word, to be weighed against the others
        other["price_class"] = "on-demand"
    return replace(device, **other)


def _figure(now: float | None, value: float | str, key: str) -> float:
    text = str(value)
    try:
        wanted = (now or 0.0) * float(text[1:]) if text.startswith("x") else float(text)
    except ValueError:
        wanted = -1.0
    if not wanted > 0:
        hint = "a number above 0, or x1.2 to multiply"
        raise WrongUse("plan.what_if", f"{key}={value} is no figure", hint=hint)
    return wanted
