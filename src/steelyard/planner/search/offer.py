"""What there is of a device: how many, at which price an hour, from whom, and why it may not be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from steelyard.hardware import Device
from steelyard.units import Figure

from ..job.cost import Price, owned_of, power_w, price_of, provider_of
from ..job.request import Owned, Request
from ..physics.sizes import LONE_DEVICES, NEEDED_LOW, USABLE_MEMORY, Hardware, hardware_of, in_host

# High end of the bytes of a service, over the middle: an engine reserves its memory once, and leaves the
# runtime the rest.
SERVED_HIGH = 1 / USABLE_MEMORY
PRECISIONS_16 = ("bf16", "fp16")  # what a model trains in unless asked otherwise, the first that there is


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One device as this request can have it."""

    device: Device
    price: Price | None  # of one device
    compared: bool = True  # its price is of a class that this request weighs against others
    provider: str
    most: int
    per_host: int
    owned: bool
    refused: str | None = None  # why it may not be used
    oversubscription: float = 1.0  # of its network: what hosts could send over what the network carries

    @property
    def usd_per_h(self) -> float | None:
        """Dollars one device costs an hour; None without a price."""
        return self.price.usd_per_h.value if self.price else None

    def hardware(self, precision: str) -> Hardware | None:
        """Its rates, in the hosts and on the network that there are."""
        on_device = hardware_of(self.device, precision)
        if on_device is None:
            return None
        node = float(min(self.per_host, int(on_device.node)))
        return replace(on_device, node=node, scaleout=on_device.scaleout / self.oversubscription)


def offers_of(request: Request, device: Device) -> list[Offer]:
    """A device as it may be had; the request's names of own devices are catalogue ids by now.

    Where the user has some at different prices: the cheapest ones, then with the next dearer ones and so on.
    """
    own = owned_of(request, device)
    own_prices = {o: price_of(request, device, (o,)) for o in own}
    price = {o: p.usd_per_h.value if p else inf for o, p in own_prices.items()}
    return [
        offer_of(request, device, [o for o in own if price[o] <= level])
        for level in sorted(set(price.values())) or [inf]
    ]


def offer_of(request: Request, device: Device, some: Sequence[Owned] | None = None) -> Offer:
    """Number, price and owner of a device; of the user's own all, or some."""
    own = owned_of(request, device) if some is None else some
    linked = device.scaleout_bytes_per_s or device.scaleup_devices > 1
    price = price_of(request, device, own)
    most = sum(o.devices for o in own) or (request.max_devices if linked else LONE_DEVICES)
    return Offer(
        device=device,
        price=price,
        compared=price is None or price.price_class in request.compared,
        provider="own" if own else provider_of(device),
        most=min(most, request.max_devices, request.count or request.max_devices),
        per_host=max((o.each for o in own), default=in_host(device)),
        owned=bool(own),
        refused=_refused(request, device, bool(own)),
        oversubscription=request.oversubscription,
    )


def _refused(request: Request, device: Device, owned: bool) -> str | None:
    if request.trust == "sealed" and device.confidential == "none":
        return "has no confidential mode, which a sealed job needs"
    if request.year and device.year > request.year and not owned:
        return f"was not sold in {request.year} yet"
    if request.own and not owned:
        return "is not among your own hardware (resources.own)"
    if request.providers and not owned and provider_of(device) not in request.providers:
        return f"no list price of {' or '.join(request.providers)} is known"
    if request.power_limit_w and not device.tdp_w:
        return "no power figure is known, so the power limit cannot be checked"
    return None


def room_bytes(request: Request, device: Device, high: float = SERVED_HIGH) -> float:
    """Bytes that a job may be predicted to take of one device, so that `high` times as many still fit."""
    return min(device.memory_bytes, request.memory_limit_bytes or device.memory_bytes) / high


def memory_figure(need: float, high: float = SERVED_HIGH) -> Figure:
    """Bytes with the interval of what allocators add."""
    return Figure(need, need * NEEDED_LOW, need * high, "bytes", "modelled")


def surely(request: Request, wide: float) -> Request:
    """The request with the limits that the middle of an interval must keep so that its high end, `wide` times
    the middle, keeps the request's own."""
    deadline_s, budget_usd = (limit and limit / wide for limit in (request.deadline_s, request.budget_usd))
    return replace(request, deadline_s=deadline_s, budget_usd=budget_usd)


def draws_w(device: Device, devices: int) -> float | None:
    """Power of so many devices at work with their hosts."""
    one = power_w(device)
    return None if one is None else one * devices


def computes_in(device: Device, precision: str) -> bool:
    """Whether a device has units for a precision of its own, rather than a wider one's."""
    if precision not in device.formats:
        return False
    wider = {"fp8": "bf16", "fp4": "fp8", "tf32": "f32", "bf16": "f32", "fp16": "f32"}.get(precision)
    return wider is None or (device.peak_flops(precision) or 0.0) > (device.peak_flops(wider) or 0.0)
