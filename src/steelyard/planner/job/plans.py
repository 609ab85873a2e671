"""Plans as values: one a device, their ranking, the front that no other plan beats, and how they are told.

Not here: how a plan is found (search.py), what it costs (cost.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from steelyard.units import Figure, show_number, show_s

FIGURES = ("time_s", "cost_usd", "energy_kwh", "memory_bytes_per_device")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The best way found on one device. Without a price `cost_usd` is None.

    `parts` are seconds and sum to `time_s`, `bytes` to the memory, `costs` are dollars and sum to the cost.
    `service`: of a service its ttft_s, tpot_s and output_tok_s, at the percentile that `settings` names.
    `lost` says why the best plan was preferred, `why_not` why this one is not taken (None for the best).
    """

    device: str
    devices: int
    settings: Mapping[str, Any]
    time_s: Figure | None
    cost_usd: Figure | None
    energy_kwh: Figure | None
    memory_bytes_per_device: Figure | None
    fits: bool
    why_not: str | None
    service: Mapping[str, Figure] = field(default_factory=dict)
    parts: Mapping[str, float] = field(default_factory=dict)
    # Of a training, of the parts that are no steps: {value, low, high, unit, provenance, source} by name.
    terms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    steps: tuple[Mapping[str, Any], ...] | None = None
    shortfalls: Mapping[str, float] = field(default_factory=dict)  # limit -> needed over allowed, above 1
    bytes: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    lost: str | None = None
    provider: str | None = None
    price: Mapping[str, Any] | None = None  # of one device: {usd_per_h: figure, class, from_memory}
    compared: bool = True  # its price is of a class that was weighed against the others'
    tradeoffs: tuple[Mapping[str, float], ...] = ()  # other device counts: {devices, time_s, cost_usd}
    apart: Mapping[str, Any] | None = None  # steps that are cheaper elsewhere, with figures

    def as_json(self) -> dict[str, Any]:
        """As the contract of `plan` has it."""
        document = {
            "device": self.device,
            "devices": self.devices,
            "settings": dict(self.settings),
            **{name: f.as_json() if (f := getattr(self, name)) else None for name in FIGURES},
            "fits": self.fits,
            "why_not": self.why_not,
            "lost": self.lost,
            "provider": self.provider,
            "price": dict(self.price) if self.price else None,
            "compared": self.compared,
            "service": {name: figure.as_json() for name, figure in self.service.items()},
            "parts": dict(self.parts),
            "terms": {name: dict(term) for name, term in self.terms.items()},
            "bytes": dict(self.bytes),
            "costs": dict(self.costs),
            "tradeoffs": [dict(t) for t in self.tradeoffs],
        }
        if self.steps is None:
            return document
        return document | {"steps": [dict(s) for s in self.steps], "apart": self.apart}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plans:
    """One plan a device, best first; `best` and `frontier` are places in it. The caller sets `wall_s`.

    `pruned` devices were searched on a coarse grid only, since a bound below their cost already lost.
    """

    request: Mapping[str, Any]
    plans: tuple[Plan, ...]
    best: int | None
    frontier: tuple[int, ...]
    considered: int
    divide: int
    fit: int
    wall_s: float = 0.0
    pruned: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The document of `plan --json`."""
        limit = self.tightest()
        return {
            "request": dict(self.request),
            "plans": [p.as_json() for p in self.plans],
            "best": self.best,
            "frontier": list(self.frontier),
            "considered": self.considered,
            "divide": self.divide,
            "fit": self.fit,
            "wall_s": self.wall_s,
            "pruned": list(self.pruned),
            "tightest": {"limit": limit[0], "needed_over_allowed": limit[1]} if limit else None,
            "nearest": self.nearest(),
        }

    def shown(self) -> list[dict[str, str | int]]:
        """The table for people: what fits by cost, and why the others do not."""
        return [_shown(p) for p in self.plans]

    def nearest(self) -> int | None:
        """The place of the plan with the fewest limits to raise, and those least; None if one fits."""
        if self.best is not None:
            return None
        short = [(distance(p), i) for i, p in enumerate(self.plans) if p.shortfalls]
        return min(short)[1] if short else None

    def tightest(self) -> tuple[str, float] | None:
        """The limit whose raising by this factor gives the nearest plan (the worst, where it breaks several);
        None if one fits."""
        at = self.nearest()
        return None if at is None else worst(self.plans[at])


def distance(p: Plan) -> tuple[int, float]:
    """How far from its limits: how many it breaks, and the worst of them by which factor."""
    return len(p.shortfalls), max(p.shortfalls.values(), default=0.0)


def worst(p: Plan) -> tuple[str, float]:
    """The limit that a plan breaks by the largest factor."""
    return max(p.shortfalls.items(), key=lambda kv: kv[1])


def _shown(p: Plan) -> dict[str, str | int]:
    figures = {"time": p.time_s, "cost": p.cost_usd, "memory": p.memory_bytes_per_device}
    cells = {name: show_number(f.value, f.unit) if f else "-" for name, f in figures.items()}
    recalled = ", by a price from memory" if p.price and p.price["from_memory"] else ""
    why = p.why_not or f"cheapest that fits{recalled}"
    return {"device": p.device, "devices": p.devices, **cells, "why": why}


# ------------------------------------------------------------------ order


def ranked(plans: Sequence[Plan], objective: str = "cost") -> list[Plan]:
    """What fits by the objective, then by time; after it what has a price of another class, then what has
    none; of what does not fit the nearest first."""
    return sorted(plans, key=lambda p: _rank(p, objective))


def _rank(p: Plan, objective: str) -> tuple[bool, bool, tuple[int, float], bool, bool, float, float]:
    spent = p.energy_kwh if objective == "energy" else p.cost_usd
    return (
        not p.fits,
        not p.fits and not p.shortfalls,
        (0, 0.0) if p.fits else distance(p),
        spent is None,
        objective == "cost" and not p.compared,
        spent.value if spent else float("inf"),
        p.time_s.value if p.time_s else float("inf"),
    )


def frontier(plans: Sequence[Plan], objective: str = "cost") -> tuple[int, ...]:
    """Places of the plans that no other beats in both cost (or energy) and time (Pareto), cheapest first."""
    spent = [p.energy_kwh if objective == "energy" else p.cost_usd for p in plans]
    points = [
        (s.value, p.time_s.value, i)
        for i, (p, s) in enumerate(zip(plans, spent, strict=True))
        if p.fits and s and p.time_s and (p.compared or objective == "energy")
    ]
    front, fastest = [], float("inf")
    for _, time_s, i in sorted(points):
        if time_s < fastest:
            front.append(i)
            fastest = time_s
    return tuple(front)


def with_reasons(plans: Sequence[Plan], best: int | None, objective: str = "cost") -> tuple[Plan, ...]:
    """The plans, each with the reason why it lost against the best."""
    if best is None:
        return tuple(replace(p, lost=p.why_not) for p in plans)
    return tuple(_lost(p, plans[best], i == best, objective) for i, p in enumerate(plans))


def _lost(p: Plan, top: Plan, is_best: bool, objective: str) -> Plan:
    if is_best:
        return p
    why = p.why_not or (objective == "cost" and _unlike(p, top)) or _dearer(p, top, objective)
    return replace(p, why_not=why, lost=why)


CLASS_WORDS = {
    "on-demand": "on demand",
    "reserved": "reserved",
    "spot": "as spot",
    "vendor": "in its vendor's own cloud",
    "owned": "as owned",
}


def _unlike(p: Plan, top: Plan) -> str | None:
    """ "priced in its vendor's own cloud, unlike the best: not compared"; None where they are alike."""
    if not p.price or not top.price or (p.compared and top.compared):
        return None
    mine, best = (CLASS_WORDS[x.price["class"]] for x in (p, top) if x.price)
    return None if mine == best else f"priced {mine}, unlike the best: not compared"


def _dearer(p: Plan, top: Plan, objective: str) -> str:
    """ "costs 1.8 times as much, but is 3.0 times as fast"."""
    mine, best = (x.energy_kwh if objective == "energy" else x.cost_usd for x in (p, top))
    if mine is None or best is None:
        return "no power figure is known" if objective == "energy" else "no list price is known"
    assert p.time_s and top.time_s
    verb = "draws" if objective == "energy" else "costs"
    more = f"{verb} {mine.value / best.value:.1f} times as much" if best.value else f"{verb} more"
    faster = top.time_s.value / p.time_s.value
    why = f"{more}, but is {faster:.1f} times as fast" if faster > 1.05 else more
    recalled = objective == "cost" and any(x.price and x.price["from_memory"] for x in (p, top))
    return f"{why}; by a price from memory" if recalled else why


# ------------------------------------------------------------------ limits


def within_limits(
    p: Plan, budget_usd: float | None, deadline_s: float | None, power: tuple[float, float] | None = None
) -> Plan:
    """The plan, marked as unfit where the high end of its interval breaks a limit. `power`: watts, allowed.

    Of the cost it is the time that may run over; the price is known before it is paid (decision 118).
    """
    if budget_usd is not None and p.cost_usd is None:
        return replace(p, fits=False, why_not="no list price is known, so the budget cannot be checked")
    short = broken_limits(p.time_s, p.cost_usd, budget_usd, deadline_s)
    words: dict[str, str] = {}
    if "deadline" in short and p.time_s and deadline_s:
        words["deadline"] = _late(p.time_s, deadline_s)
    if "budget" in short and p.cost_usd and budget_usd is not None:
        words["budget"] = _dear(p.cost_usd.value, most_usd(p.time_s, p.cost_usd), budget_usd)
    if power and power[0] > power[1]:
        short["power"] = power[0] / power[1]
        words["power"] = f"draws {power[0] / 1000:,.1f} kW, {power[1] / 1000:,.1f} kW are allowed"
    if not short:
        return p
    why = "; ".join([*words.values(), *([p.why_not] if p.why_not else [])])
    return replace(p, fits=False, why_not=why, shortfalls=dict(p.shortfalls) | short)


def broken_limits(
    time_s: Figure | None, cost_usd: Figure | None, budget_usd: float | None, deadline_s: float | None
) -> dict[str, float]:
    """{limit: needed over allowed} of those that the high end of a time breaks: by itself, or by its cost."""
    short = {}
    if deadline_s and time_s and time_s.high > deadline_s:
        short["deadline"] = time_s.high / deadline_s
    if budget_usd is not None and cost_usd and (most := most_usd(time_s, cost_usd)) > budget_usd:
        short["budget"] = most / max(budget_usd, 1e-9)
    return short


def most_usd(time_s: Figure | None, cost_usd: Figure) -> float:
    """What it costs where its time is that of the interval's high end."""
    return cost_usd.value * (time_s.high / time_s.value if time_s and time_s.value else 1.0)


def _late(time_s: Figure, deadline_s: float) -> str:
    if time_s.value > deadline_s:
        return f"misses the deadline by {show_s(time_s.value - deadline_s)}"
    return f"may miss the deadline by {show_s(time_s.high - deadline_s)}"


def _dear(usd: float, most: float, budget_usd: float) -> str:
    if usd > budget_usd:
        return f"over the budget by $ {usd - budget_usd:,.2f}"
    return f"may go over the budget by $ {most - budget_usd:,.2f}"


def within_slo(
    p: Plan, limits: Mapping[tuple[str, float], float], felt: Mapping[tuple[str, float], float]
) -> Plan:
    """The plan, marked as unfit where a latency is above its limit: seconds by name and percentile."""
    factors = {key: felt[key] / limit for key, limit in limits.items()}
    missed = sorted((factor, *key) for key, factor in factors.items() if factor > 1)
    if not missed:
        return p
    words = [
        f"{name.removesuffix('_s')} of {felt[name, percentile] * 1000:.0f} ms at p{percentile:.0f} is "
        f"{factor:.2f} times the limit"
        for factor, name, percentile in missed
    ]
    short = {name.removesuffix("_s"): factor for factor, name, _ in missed}  # the worst of each name
    why = "; ".join([*words, *([p.why_not] if p.why_not else [])])
    return replace(p, fits=False, why_not=why, shortfalls=dict(p.shortfalls) | short)


# ------------------------------------------------------------------ explaining


def explain_plan(p: Plan) -> list[dict[str, Any]]:
    """Where each second, byte and dollar goes: rows {of, part, value, share, unit}, largest first; of a term
    that is no step its low, high and source too."""
    groups = (
        ("time", p.parts, "s"),
        ("memory", p.bytes, "bytes"),
        ("cost", p.costs, "USD"),
    )
    rows = [row for of, parts, unit in groups for row in _rows(of, parts, unit)]
    return [row | _sure(p.terms.get(row["part"])) if row["of"] == "time" else row for row in rows]


def _sure(term: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: term[name] for name in ("low", "high", "source")} if term else {}


def _rows(of: str, parts: Mapping[str, float], unit: str) -> list[dict[str, Any]]:
    whole = sum(parts.values())
    return [
        {"of": of, "part": name, "value": value, "share": value / whole if whole else 0.0, "unit": unit}
        for name, value in sorted(parts.items(), key=lambda kv: -kv[1])
        if value
    ]
