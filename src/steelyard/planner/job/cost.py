"""What a job costs beyond its running time: failures, spot, storage, egress, energy, and owned hardware.

Every default stands here with its source, those of owned hardware in the recipe (`OwnTerms`), where each may
be changed. Not here: how long the job takes (training.py, inference.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from steelyard.hardware import Device
from steelyard.recipe import OwnTerms
from steelyard.units import Figure, around

from ..physics.sizes import Array
from .request import Owned, Request

HOUR_S, YEAR_H, MONTH_H = 3600.0, 8766.0, 730.5
# Device-hours between failures that stop a job. 419 unexpected stops in 54 days on 16,384 H100: 50,700 h
# (Dubey et al. 2024, arXiv 2407.21783, section 3.3.4). Low: some 105 restarts in 60 days on 992 A100: 13,600
# (Zhang et al. 2022, OPT, arXiv 2205.01068, section 2.5).
MTBF_H = 50_700.0
RESTART_S = (
    900.0  # found, replaced and read back within 15 min (Jiang et al. 2024, MegaScale, arXiv 2402.15627)
)
CHECKPOINT_BYTES = 14.0  # a parameter: BF16 weights, FP32 master and two moments (planner.md, section 3)
START_S = 10.0  # a Python process with its libraries
DISK_BYTES_PER_S = 2e9  # one NVMe disk a host, sustained writing
# AWS Spot Instance Advisor on 1 May 2025, as read by Thunder Compute: p4d 5 to 10 % interrupted in 30 days.
SPOT_STOPS_PER_HOST_H = 0.10 / (30 * 24)
SPOT_PRICE_SHARE = 0.35  # 60 to 80 % below the list price; modelled, since it moves by the day
STORAGE_USD_PER_BYTE_H = 0.023 / 1e9 / MONTH_H  # AWS S3 standard, us-east-1 list price a GB and month
EGRESS_USD_PER_BYTE = 0.09 / 1e9  # AWS to the internet, list price of the first 10 TB a month
WAN_BYTES_PER_S = 1.25e9  # 10 Gb/s between two providers or sites; modelled
PUE, PUE_LOW, PUE_HIGH = 1.3, 1.1, 1.58  # hyperscale reports 1.1; Uptime Institute 2023: 1.58 on average
POWER_SHARE = 0.9  # of the rated power that a device draws at work
IDLE_SHARE = 0.25  # of it while it waits for others: bubble and exposed communication; modelled
WAITING = ("bubble", "dp", "pp", "tp", "cp", "ep", "hops", "offload", "data", "waiting", "transfer")
PHASES = re.compile("^(prefill|decode)_")  # before the name of a part of a service
# What one device costs to buy. Boards of eight: Intel at Computex 2024 as reported by The Next Platform;
# Xeon: Intel's list at 1,000 units (ARK at launch).
PURCHASE_USD = {
    "gaudi2": 8125.0,
    "gaudi3": 15625.0,
    "h100-sxm": 30700.0,
    "xeon-8380": 8099.0,
    "xeon-8480plus": 10710.0,
    "xeon-8490h": 17000.0,
    "xeon-8592plus": 11600.0,
    "xeon-6980p": 17800.0,
}
HOURS_TO_BUY = 3300.0  # median over the devices above of purchase over hourly list price: 2,100 to 6,300


# ------------------------------------------------------------------ prices


def provider_of(device: Device) -> str:
    """Who asks the catalogue's price, in one word: "aws", "google", "intel"; "" without a price."""
    words = re.findall(r"[a-z]+", device.price_source.lower())
    return words[0] if words and device.price_usd_per_h else ""


def owned_of(request: Request, device: Device) -> tuple[Owned, ...]:
    """What the user has of a device; names were made catalogue ids by the caller."""
    return tuple(o for o in request.own if o.device == device.id)


def price_usd_per_h(request: Request, device: Device, own: Sequence[Owned] = ()) -> float | None:
    """Dollars one device costs an hour: the user's own price, the mean of his hardware, else the list's."""
    if device.id in request.prices:
        return request.prices[device.id]
    if own:
        prices = [(owned_usd_per_h(device, request.own_terms, o), o.devices) for o in own]
        dollars = [figure.value * count for figure, count in prices if figure]
        return sum(dollars) / sum(o.devices for o in own) if len(dollars) == len(own) else None
    if request.providers and provider_of(device) not in request.providers:
        return None
    if device.price_usd_per_h is None:
        return None
    return device.price_usd_per_h * (SPOT_PRICE_SHARE if request.spot else 1.0)


def purchase_usd(device: Device, owned: Owned) -> tuple[float, str] | None:
    """What one device costs to buy, and where that is from; None where nothing is known."""
    if owned.purchase_usd is not None:
        return owned.purchase_usd, "measured"
    if device.id in PURCHASE_USD:
        return PURCHASE_USD[device.id], "vendor"
    if device.price_usd_per_h:
        return HOURS_TO_BUY * device.price_usd_per_h, "modelled"
    return None


def owned_parts_usd_per_h(device: Device, terms: OwnTerms, owned: Owned) -> dict[str, float] | None:
    """Dollars one owned device costs a working hour: amortisation, maintenance, power, staff."""
    bought = purchase_usd(device, owned)
    if bought is None:
        return None
    capital = bought[0] * (1 + terms.host_share)
    watts = (device.tdp_w or 0.0) * POWER_SHARE * terms.pue
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


# ------------------------------------------------------------------ failures


def goodput(
    devices: Array, params: float, per_host: float, spot: bool = False, mtbf_h: float = MTBF_H
) -> Array:
    """Share of the time that makes progress: 1 - C/tau - tau/(2M) - R/M with tau = sqrt(2 C M).

    Young 1974 (first order approximation to the optimum checkpoint interval). C: writing CHECKPOINT_BYTES a
    parameter to the disks of the hosts taken; M: MTBF over the devices, and the interruptions of spot.
    """
    mean_s, write_s = _between_stops_s(devices, params, per_host, spot, mtbf_h)
    waste = np.sqrt(2 * write_s / mean_s) + RESTART_S / mean_s
    return 1 - np.minimum(waste, 0.9)


def checkpoint_every_s(devices: float, params: float, per_host: float, spot: bool = False) -> float:
    """Young's interval between checkpoints."""
    mean_s, write_s = _between_stops_s(devices, params, per_host, spot, MTBF_H)
    return float(np.sqrt(2 * write_s * mean_s))


def _between_stops_s(
    devices: Array, params: float, per_host: float, spot: bool, mtbf_h: float
) -> tuple[Array, Array]:
    hosts = np.ceil(np.asarray(devices) / max(1.0, per_host))
    stops_per_h = np.asarray(devices) / mtbf_h + (hosts * SPOT_STOPS_PER_HOST_H if spot else 0.0)
    return HOUR_S / stops_per_h, CHECKPOINT_BYTES * params / (DISK_BYTES_PER_S * hosts)


def lost_parts(seconds: float, devices: int, params: float, per_host: float, spot: bool) -> dict[str, float]:
    """Seconds that writing checkpoints and restarts add to a run of `seconds` without any; 0 for short runs.

    A run shorter than one interval writes its last state alone.
    """
    mean_s, write_s = _between_stops_s(devices, params, per_host, spot, MTBF_H)
    waste = 1 - float(goodput(devices, params, per_host, spot))
    tau = float(np.sqrt(2 * write_s * mean_s))
    whole = seconds / (1 - waste)
    writing = whole * float(write_s) / tau
    return {"checkpoints": writing, "restarts": whole - seconds - writing}


# ------------------------------------------------------------------ energy


def power_w(device: Device) -> float | None:
    """Mean draw of one device at work, with its share of the building."""
    return device.tdp_w * POWER_SHARE * PUE if device.tdp_w else None


def energy_kwh(device: Device, devices: int, time_s: Figure, parts: Mapping[str, float]) -> Figure | None:
    """Devices times (rated power at work, IDLE_SHARE of it while waiting) times PUE, low and high."""
    if not device.tdp_w:
        return None
    whole = sum(parts.values()) or 1.0
    waiting = sum(v for k, v in parts.items() if PHASES.sub("", k) in WAITING) / whole
    mean_w = device.tdp_w * (POWER_SHARE * (1 - waiting) + IDLE_SHARE * waiting) * devices
    per_s = mean_w / 3.6e6
    return Figure(
        time_s.value * per_s * PUE,
        time_s.low * per_s * PUE_LOW,
        time_s.high * per_s * PUE_HIGH,
        "kWh",
        "modelled",
    )
