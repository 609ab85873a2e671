"""What a job costs beyond its running time: prices, spot, storage, egress, energy, and owned hardware.

Every default stands here with its source, those of owned hardware in the recipe (`OwnTerms`), where each may
be changed. Not here: how long the job takes (training.py, inference.py, terms.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, hypot, log
from typing import Any

from steelyard.hardware import Device, Machine
from steelyard.recipe import OwnTerms
from steelyard.units import Figure, around, weakest

from .request import PRICE_CLASSES, Owned, Request, no_class

YEAR_H, MONTH_H = 8766.0, 730.5
START_S = 10.0  # a Python process with its libraries
DISK_BYTES_PER_S = 2e9  # one NVMe disk a host, sustained writing
# Of the price on demand: Nebius asks 0.42 for H100 and H200, RunPod 0.73 for A100 (SkyPilot catalogue, 2025);
# AWS 60 to 80 % less. It moves by the day.
SPOT_SHARE = 0.35
# What the same device costs elsewhere in the same class, over the price taken. On demand, by the lists of
# 2025 (SkyPilot catalogue; Oracle): H100 2.95 (Nebius) to 10.00 (Oracle) beside AWS's 6.88, H200 3.50 to
# 12.25 beside 7.91, B200 5.50 to 16.00 beside 14.24, A100 1.89 to 4.00 beside 3.43. The others: modelled.
SPREADS = {
    "on-demand": (0.43, 1.45),
    "reserved": (0.6, 1.4),
    "spot": (0.4, 2.1),
    "vendor": (0.7, 1.6),
}
ONE_PROVIDER = (0.85, 1.15)  # a provider's own list: between its regions and until the next change; modelled
FROM_MEMORY = 1.5  # a price that was not looked up may be off by so much more, either way; modelled
# A year between the price and the year asked for. AWS cut H100 by 44 % and A100 by 33 % in June 2025, two and
# four years after it first sold them.
PRICE_YEARLY = 1.25
STORAGE_USD_PER_BYTE_H = 0.023 / 1e9 / MONTH_H  # AWS S3 standard, us-east-1 list price a GB and month
EGRESS_USD_PER_BYTE = 0.09 / 1e9  # AWS to the internet, list price of the first 10 TB a month
WAN_BYTES_PER_S = 1.25e9  # 10 Gb/s between two providers or sites; modelled
POWER_SHARE, POWER_LOW, POWER_HIGH = 0.9, 0.8, 1.0  # of the rated power that a device draws at work
# Of what its data sheet allows a host beside its devices (CPUs, network cards, switches, fans, losses), what
# it draws. Eight H100 on llama2-70b LoRA: 6.95 kW in immersion, without fans (SMC, MLPerf Training 4.0:
# 12,127,904 J in 29.10 min); 8.4 kW at most in air (Newkirk et al. 2024, arXiv 2412.08602); 10.2 kW allowed.
HOST_SHARE, HOST_LOW, HOST_HIGH = 0.5, 0.35, 0.8
IDLE_SHARE = 0.25  # of it while it waits for others: bubble and exposed communication; modelled
WAITING = (
    "bubble",
    "dp",
    "pp",
    "tp",
    "cp",
    "ep",
    "hops",
    "offload",
    "data",
    "waiting",
    "transfer",
    "start",
    "compile",
    "network",
    "restarts",
)
PHASES = re.compile("^(prefill|decode)_")  # before the name of a part of a service
HOURS_TO_BUY = 3300.0  # median over the devices above of purchase over hourly list price: 2,100 to 6,300


# ------------------------------------------------------------------ prices


def provider_of(device: Device) -> str:
    """Who asks the catalogue's price, in one word: "aws", "google", "intel"; "" without a price."""
    words = re.findall(r"[a-z]+", device.price_source.lower())
    return words[0] if words and device.price_usd_per_h else ""


def owned_of(request: Request, device: Device) -> tuple[Owned, ...]:
    """What the user has of a device; names were made catalogue ids by the caller."""
    return tuple(o for o in request.own if o.device == device.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What one device costs an hour, and what kind of a price that is."""

    usd_per_h: Figure
    price_class: str  # one of PRICE_CLASSES
    from_memory: bool = False  # nobody looked it up

    def as_json(self) -> dict[str, Any]:
        """As a plan's document has it."""
        figure = self.usd_per_h.as_json()
        return {"usd_per_h": figure, "class": self.price_class, "from_memory": self.from_memory}


def price_of(request: Request, device: Device, own: Sequence[Owned] = ()) -> Price | None:
    """The user's own price, the mean of his hardware, else the list's; None where there is none.

    Raises WrongUse for a list price without a class.
    """
    if (told := request.prices.get(device.id)) is not None:
        return Price(usd_per_h=_exact(told.usd_per_h), price_class=told.price_class)
    if own:
        return _owned_price(request, device, own)
    if device.price_usd_per_h is None:
        return None
    if device.price_class not in PRICE_CLASSES:
        raise no_class(f"the price of {device.id}")
    if request.providers and provider_of(device) not in request.providers:
        return None
    return _list_price(request, device, device.price_usd_per_h)


def price_here(machine: Machine, own_usd_per_h: float | None) -> Price:
    """Of this machine: the user's own price, else its share of the nearest catalogued device on demand."""
    if own_usd_per_h is not None:
        return Price(usd_per_h=_exact(own_usd_per_h), price_class="owned")
    usd, (low, high) = machine.price_usd_per_h, SPREADS["on-demand"]
    return Price(usd_per_h=Figure(usd, usd * low, usd * high, "USD/h", "vendor"), price_class="on-demand")


def _exact(usd_per_h: float) -> Figure:
    return Figure(usd_per_h, usd_per_h, usd_per_h, "USD/h", "measured")


def _owned_price(request: Request, device: Device, own: Sequence[Owned]) -> Price | None:
    figures = [owned_usd_per_h(device, request.own_terms, o) for o in own]
    priced = [(f, o.devices) for f, o in zip(figures, own, strict=True) if f]
    if len(priced) < len(own):
        return None
    whole = sum(count for _, count in priced)
    low, value, high = (
        sum(getattr(f, end) * count for f, count in priced) / whole for end in ("low", "value", "high")
    )
    figure = Figure(value, low, high, "USD/h", weakest(*(f.provenance for f, _ in priced)))
    return Price(usd_per_h=figure, price_class="owned")


def _list_price(request: Request, device: Device, usd: float) -> Price:
    """The catalogue's, or what an interruptible machine costs where that is asked for."""
    interruptible = request.spot and device.price_class == "on-demand"
    price_class = "spot" if interruptible else device.price_class
    usd *= SPOT_SHARE if interruptible else 1.0
    alone = provider_of(device) == device.vendor.lower()  # TPU, Trainium: nobody else rents them out
    one = price_class != "spot" and (alone or bool(request.providers))
    low, high = ONE_PROVIDER if one else SPREADS[price_class]
    recalled = FROM_MEMORY if device.price_from_memory else 1.0
    earlier = years_before_price(request, device)
    low, high = low / PRICE_YEARLY ** max(0, -earlier), high * PRICE_YEARLY ** max(0, earlier)
    origin = "modelled" if earlier else "vendor"
    return Price(
        usd_per_h=Figure(usd, usd * low / recalled, usd * high * recalled, "USD/h", origin),
        price_class=price_class,
        from_memory=device.price_from_memory,
    )


def years_before_price(request: Request, device: Device) -> int:
    """How many years before the list's price the request is for; below 0 after it."""
    listed = re.match(r"\d{4}", device.price_date)
    return int(listed[0]) - request.year if request.year and listed else 0


def cost_figure(time_s: Figure, price: Price, usd: float) -> Figure:
    """Dollars whose interval holds that of the time and that of the price, taken as independent."""
    if not usd:
        return Figure(0.0, 0.0, 0.0, "USD", price.usd_per_h.provenance)
    parts = (time_s, price.usd_per_h)
    up = exp(hypot(*(log(f.high / f.value) for f in parts)))
    down = exp(hypot(*(log(f.value / f.low) for f in parts)))
    origin = weakest(*(f.provenance for f in parts))
    return Figure(usd, usd / down, usd * up, "USD", origin)


def purchase_usd(device: Device, owned: Owned) -> tuple[float, str] | None:
    """What one device costs to buy, and where that is from; None where nothing is known."""
    if owned.purchase_usd is not None:
        return owned.purchase_usd, "measured"
    if device.purchase_usd is not None:
        return device.purchase_usd, "vendor"
    if device.price_usd_per_h:
        return HOURS_TO_BUY * device.price_usd_per_h, "modelled"
    return None


def owned_parts_usd_per_h(device: Device, terms: OwnTerms, owned: Owned) -> dict[str, float] | None:
    """Dollars one owned device costs a working hour: amortisation, maintenance, power, staff."""
    bought = purchase_usd(device, owned)
    if bought is None:
        return None
    capital = bought[0] * (1 + terms.host_share)
    watts = (power_w(device) or 0.0) * terms.pue
    a_year = YEAR_H * terms.used_share
    return {
        "amortisation": capital / (terms.years * a_year),
        "maintenance": capital * terms.maintenance_share_per_year / a_year,
        "power": watts / 1000 * terms.electricity_usd_per_kwh,
        "staff": terms.staff_h_per_host_month * 12 * terms.staff_usd_per_h / (a_year * owned.each),
    }


def owned_usd_per_h(device: Device, terms: OwnTerms, owned: Owned) -> Figure | None:
    """What one owned device costs a working hour; the user's own figure where there is one."""
    if (own := owned.price_usd_per_h) is not None:
        return Figure(own, own, own, "USD/h", "measured")
    parts = owned_parts_usd_per_h(device, terms, owned)
    if parts is None:
        return None
    value = sum(parts.values())
    bought = purchase_usd(device, owned)
    wide = 2.0 if bought and bought[1] == "modelled" else 1.3  # the used share alone moves it by a third
    return around(value, wide - 1, "USD/h", "modelled")


# ------------------------------------------------------------------ energy


def host_w(device: Device) -> float | None:
    """What the host draws beside one device at work: its share of CPUs, network cards, fans and losses."""
    return device.host_w * HOST_SHARE if device.host_w else None


def power_w(device: Device) -> float | None:
    """Mean draw of one device at work with its share of the host, at the host's plug."""
    beside = host_w(device)
    return None if beside is None or not device.tdp_w else device.tdp_w * POWER_SHARE + beside


def energy_kwh(device: Device, devices: int, time_s: Figure, parts: Mapping[str, float]) -> Figure | None:
    """Of whole hosts at their plugs: devices at work, at IDLE_SHARE while they wait, and what is beside them.

    The building's share (PUE) is not in it; `OwnTerms.pue` is in the cost of owned hardware.
    """
    if not device.tdp_w or not device.host_w:
        return None
    whole = sum(parts.values()) or 1.0
    waiting = sum(v for k, v in parts.items() if PHASES.sub("", k) in WAITING) / whole
    shares = (
        (time_s.value, POWER_SHARE, HOST_SHARE),
        (time_s.low, POWER_LOW, HOST_LOW),
        (time_s.high, POWER_HIGH, HOST_HIGH),
    )
    value, low, high = (
        seconds
        * devices
        * (device.tdp_w * (busy * (1 - waiting) + IDLE_SHARE * waiting) + device.host_w * host)
        / 3.6e6
        for seconds, busy, host in shares
    )
    return Figure(value, low, high, "kWh", "modelled")
