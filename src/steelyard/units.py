"""Figures with interval and provenance; bytes, seconds, counts and money in and out. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from .errors import WrongUse

BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
BYTES |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
SECONDS = {"ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
SECONDS |= {
    "hour": 3600.0,
    "hours": 3600.0,
    "day": 86400.0,
    "days": 86400.0,
    "week": 604800.0,
    "weeks": 604800.0,
}
COUNTS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}
NUMBER = r"(?:\d+\.?\d*|\.\d+)"
# Best known first; a figure made of others has the weakest provenance among them.
PROVENANCE = ("measured", "calibrated", "fitted", "modelled", "vendor")


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with its 80 % interval, unit and origin (one of PROVENANCE)."""

    value: float
    low: float
    high: float
    unit: str
    provenance: str

    def __mul__(self, factor: float) -> Figure:
        return replace(self, value=self.value * factor, low=self.low * factor, high=self.high * factor)

    def as_json(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "unit": self.unit,
            "provenance": self.provenance,
        }


def around(value: float, share: float, unit: str, provenance: str) -> Figure:
    """A figure whose 80 % interval is log-symmetric: value / (1 + share) to value * (1 + share)."""
    return Figure(value, value / (1 + share), value * (1 + share), unit, provenance)


def weakest(*provenances: str) -> str:
    """The provenance of something made of several figures."""
    return max(provenances, key=PROVENANCE.index)


def parse_bytes(text: str | int) -> int:
    """Bytes in "24GB", "1.5 GiB" or a bare number. Raises WrongUse."""
    match = re.fullmatch(rf"\s*({NUMBER})\s*([A-Za-z]*)\s*", str(text))
    if not match or match[2].upper() not in BYTES:
        raise WrongUse("units.bytes", f"{text!r} is not a size", hint="write it like 24GB or 1.5GiB")
    return int(float(match[1]) * BYTES[match[2].upper()])


def parse_s(text: str | float) -> float:
    """Seconds in "8h", "90 min", "800ms", "1w", "2 h 10 min" or a bare number. Raises WrongUse."""
    parts = re.findall(rf"({NUMBER})\s*([a-z]*)", str(text))
    whole = re.fullmatch(rf"\s*({NUMBER}\s*[a-z]*\s*)+", str(text))
    bare = len(parts) > 1 and any(not unit for _, unit in parts)
    if not whole or bare or any(unit not in SECONDS for _, unit in parts):
        raise WrongUse("units.seconds", f"{text!r} is not a time", hint="write it like 8h, 90min or 800ms")
    return sum(float(number) * SECONDS[unit] for number, unit in parts)


def parse_count(text: str | float) -> float:
    """A number of tokens or weights: "50M", "1.5B", "1e9", "1,000,000". Raises WrongUse."""
    plain = str(text).strip().replace("_", "").replace(",", "")
    match = re.fullmatch(rf"({NUMBER}(?:[eE][+-]?\d+)?)\s*([A-Za-z]?)", plain)
    if not match or match[2].upper() not in COUNTS:
        raise WrongUse("units.count", f"{text!r} is not a number", hint="write it like 50M, 1.5B or 1e9")
    return float(match[1]) * COUNTS[match[2].upper()]


def show_s(seconds: float) -> str:
    """A time for people: "340 ms", "42 s", "6 min 12 s", "2 h 10 min", "3.1 days".

    Rounded before it is divided: no part is ever full ("56 min 60 s"), an empty one is left out ("1 h").
    """
    if round(seconds * 1000) < 1000:
        return f"{seconds * 1000:.0f} ms"
    if round(seconds, 1) < 10:
        return f"{seconds:.1f} s"
    whole, minutes = round(seconds), round(seconds / 60)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return _two(whole // 60, "min", whole % 60, "s")
    if minutes < 2 * 24 * 60:
        return _two(minutes // 60, "h", minutes % 60, "min")
    return f"{seconds / 86400:.1f} days"


def _two(large: int, unit: str, small: int, part: str) -> str:
    return f"{large} {unit} {small} {part}" if small else f"{large} {unit}"


def show_bytes(count: float) -> str:
    """A size for people, in powers of 1000: "98 MB", "1.6 GB"."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= 0.9995 * size:
            amount = count / size
            return f"{amount:.1f} {unit}" if round(amount, 1) < 10 else f"{amount:.0f} {unit}"
    return f"{count:.0f} B"


def show_share(share: float, digits: int = 1) -> str:
    """A share for people: "98.5 %"."""
    return f"{share * 100:.{digits}f} %"


def show_error(predicted: float, measured: float) -> str:
    """How far a prediction is from what was measured, which is not 0: "-6 %"."""
    return f"{(predicted / measured - 1) * 100:+.0f} %"


def show_number(value: float, unit: str) -> str:
    """One value with its unit, as a person would write it."""
    if unit == "s":
        return show_s(value)
    if unit == "bytes":
        return show_bytes(value)
    if unit == "USD":
        return f"$ {value:.4f}" if value < 0.1 else f"$ {value:,.2f}" if value < 1e4 else f"$ {value:,.0f}"
    if unit == "share":
        return show_share(value)
    return f"{value:,.0f} {unit}".strip() if value >= 1000 else f"{value:,.4g} {unit}".strip()


def show(figure: Figure) -> str:
    """2 h 10 min (1 h 50 min to 2 h 35 min, calibrated)."""
    low, high = (show_number(v, figure.unit) for v in (figure.low, figure.high))
    return f"{show_number(figure.value, figure.unit)} ({low} to {high}, {figure.provenance})"
