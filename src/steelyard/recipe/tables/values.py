"""What a value of a recipe may say: money, times, sizes, rates and shares, as text or as numbers."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ...errors import Problem
from ...units import parse_bytes, parse_s
from ..recipe import USD_PER

CURRENCIES = {"USD": "USD", "US$": "USD", "$": "USD", "CNY": "CNY", "RMB": "CNY", "¥": "CNY", "元": "CNY"}
CURRENCIES |= {"EUR": "EUR", "€": "EUR"}


RATE = re.compile(r"^(?P<money>.+?)\s*(?:@|\bat\b)\s*(?P<rate>[\d.]+)\s*(?:USD|US\$|\$)?$", re.IGNORECASE)


def money_of(value: Any) -> dict[str, Any]:
    """{"amount", "currency", "rate"} of "50 USD", "$50", "300 元", "9000 JPY at 0.0067" or bare dollars.

    The rate is US dollars for one unit; a currency that USD_PER lacks needs one. Raises ValueError.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("is not an amount of money")
    rated = RATE.match(str(value).strip())
    text, rate = (rated["money"], float(rated["rate"])) if rated else (str(value).strip(), None)
    matched = re.fullmatch(r"([^\d.\s-]*)\s*([\d,]*\.?\d+)\s*([^\d.\s]*)", text)
    units = {unit for unit in (matched[1], matched[3]) if unit} if matched else set()
    names = {_currency(unit) for unit in units} or {"USD"}
    if not matched or len(names) != 1 or None in names:
        raise ValueError(f"{value!r} is not an amount of money such as 50 USD or 300 CNY")
    amount, currency = float(matched[2].replace(",", "")), str(names.pop())
    if amount <= 0 or rate == 0:
        raise ValueError("an amount of money is above 0")
    return {"amount": amount, "currency": currency, "rate": rate}


def _currency(unit: str) -> str | None:
    """Its three letters (ISO 4217), None where it is no currency."""
    name = unit.upper()
    return CURRENCIES.get(name) or (name if re.fullmatch("[A-Z]{3}", name) else None)


def rated_money_of(value: Any) -> dict[str, Any]:
    """Money whose worth in dollars is known."""
    matched = money_of(value)
    if matched["rate"] is None and matched["currency"] not in USD_PER:
        name = matched["currency"]
        raise ValueError(f"{value!r} is in {name}, of which no rate is known; add one: `at 0.0067 USD`")
    return matched


def price_of(value: Any) -> dict[str, Any]:
    return rated_money_of(
        re.sub(r"\s*(/\s*h|per\s+h(our)?|/\s*小时)$", "", value) if isinstance(value, str) else value
    )


def energy_price_of(value: Any) -> float:
    """US dollars a kWh of "0.12 USD/kWh", "0.8 CNY/kWh" or a bare number."""
    text = re.sub(r"\s*(/|per)\s*kWh$", "", value, flags=re.IGNORECASE) if isinstance(value, str) else value
    return _usd(rated_money_of(text))


def _usd(money: dict[str, Any]) -> float:
    return money["amount"] * (money["rate"] or USD_PER[money["currency"]])


def watts_of(value: Any) -> float:
    """Watts of "20 kW", "700 W" or a bare number."""
    matched = re.fullmatch(r"\s*([\d.]+)\s*(k|M)?W?\s*", str(value))
    if isinstance(value, bool) or not matched:
        raise ValueError(f"{value!r} is not a power such as 20 kW or 700 W")
    return _above_0(float(matched[1]) * {"k": 1e3, "M": 1e6}.get(matched[2], 1.0), "a power")


def most_bytes_of(value: Any) -> int:
    """Bytes of "64GB" or "..64GB": at most so many."""
    text = str(value).removeprefix("..").strip()
    if text.endswith(".."):
        raise ValueError(f"{value!r} is a least size; memory is the most that a device may use: ..64GB")
    try:
        return int(_above_0(parse_bytes(text), "a size"))
    except (Problem, ValueError):
        raise ValueError(f"{value!r} is not a size such as 64GB or 48GiB") from None


def rate_per_s(value: Any) -> float:
    """Requests a second of "2/s", "90/min", "500/h" or a bare number of them. Raises ValueError."""
    matched = re.fullmatch(r"\s*([\d.]+)\s*(?:(?:/|per)\s*(s|min|h))?\s*", str(value))
    if isinstance(value, bool) or not matched:
        raise ValueError(f"{value!r} is not a rate such as 2/s or 90/min")
    return _above_0(float(matched[1]) / {"min": 60.0, "h": 3600.0}.get(matched[2], 1.0), "a rate")


def _above_0(value: float, what: str) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"{what} is above 0")
    return value


def seconds_of(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("is not a time")
    try:
        seconds = parse_s(value)
    except (Problem, ValueError):
        raise ValueError(f"{value!r} is not a time such as 8h, 90min, 40s or 800ms") from None
    if not 0 < seconds < math.inf:
        raise ValueError("a time is above 0")
    return seconds


def share_of(value: Any) -> float:
    """A share from 0 to 1, or "1%"."""
    number = value
    if isinstance(value, str) and (matched := re.fullmatch(r"\s*([\d.]+)\s*%\s*", value)):
        try:
            number = float(matched[1]) / 100
        except ValueError:
            number = value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValueError(f"{value!r} is not a share such as 0.9 or 90%")
    if not 0 <= number <= 1:
        raise ValueError(f"{value!r} is not between 0 and 1; write 90% or 0.9")
    return float(number)


class MoneyText(BaseModel):
    model_config = ConfigDict(extra="forbid")
    amount: float
    currency: str
    rate: float | None = None


MoneyField = Annotated[MoneyText, BeforeValidator(money_of)]
Purchase = Annotated[MoneyText, BeforeValidator(rated_money_of)]
EnergyPrice = Annotated[float, BeforeValidator(energy_price_of)]
Watts = Annotated[float, BeforeValidator(watts_of)]
MostBytes = Annotated[int, BeforeValidator(most_bytes_of)]
Rate = Annotated[float, BeforeValidator(rate_per_s)]
PriceField = Annotated[MoneyText, BeforeValidator(price_of)]
Seconds = Annotated[float, BeforeValidator(seconds_of)]
Share = Annotated[float, BeforeValidator(share_of)]
Count = Annotated[int, Field(ge=1, le=10**12)]
Amount = Annotated[int, Field(ge=0, le=10**12)]
Text = Annotated[str, Field(min_length=1)]


def names_of(value: Any) -> Any:
    """One name, or a list of them."""
    return [value] if isinstance(value, str) else value


NAMES_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
