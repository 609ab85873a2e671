"""The plan's part of the report: this machine and the devices that nothing beats; the others behind a fold.

Plain SVG on logarithmic axes; each point has a hover title. Not here: what the figures mean (planner).
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

from ..units import show_number
from .words import Words

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 320, 78, 16, 14, 44
MINUTE, HOUR, DAY = 60, 3600, 86400
# Times that people think in; an axis shows those that lie on it.
SECONDS: tuple[float, ...] = (
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30),
    *(n * MINUTE for n in (1, 2, 3, 4, 5, 7, 10, 15, 20, 30)),
    *(n * HOUR for n in (1, 1.5, 2, 3, 4, 6, 9, 12, 18)),
    *(n * DAY for n in (1, 2, 3, 5, 7, 14, 30, 60, 120, 365, 730)),
)
MOST_TICKS = 7
HERE = "this-machine"
SHOWN_DEVICES = 6
SHOWN_PARTS = 12
KINDS = {"parts": "time", "bytes": "memory", "costs": "cost"}
Limits = tuple[float | None, float | None]  # seconds, dollars


def plan_part(document: Mapping[str, Any], say: Words = str) -> dict[str, Any]:
    """{"chart": SVG or "", "shown", "folded": tables of devices, "parts": where its time goes}."""
    plans, best, request = document["plans"], document["best"], document["request"]
    front = set(document["frontier"])
    weighs = "energy_kwh" if request.get("objective") == "energy" else "cost_usd"
    limits = (request.get("deadline_s"), request.get("budget_usd"))
    shown = shown_devices(plans, best, front)
    rows = {i: _row(plan, i == best, i in front, say) for i, plan in enumerate(plans)}
    chosen = [plans[i] for i in shown]
    at = shown.index(best) if best in shown else None
    return {
        "chart": pareto_chart(chosen, at, weighs, limits, say),
        "shown": [rows[i] for i in shown],
        "folded": [rows[i] for i in rows if i not in shown],
        "parts": _parts(plans[best]) if best is not None else [],
        "best": plans[best]["device"] if best is not None else None,
    }


def shown_devices(plans: Sequence[Mapping[str, Any]], best: int | None, front: set[int]) -> list[int]:
    """This machine, the best plan and the front; where those are few, the next that fit, up to six."""
    here = [i for i, plan in enumerate(plans) if plan["device"] == HERE]
    order = [*here, *([best] if best is not None else []), *sorted(front)]
    order += [i for i, plan in enumerate(plans) if plan["fits"]]
    return list(dict.fromkeys(order))[: max(SHOWN_DEVICES, len(front | {*here}))]


def _row(plan: Mapping[str, Any], best: bool, front: bool, say: Words) -> dict[str, Any]:
    names = ("time_s", "cost_usd", "energy_kwh", "memory_bytes_per_device")
    figures = {name: _shown(plan.get(name)) for name in names}
    time = plan.get("time_s")
    provenance = say(time["provenance"]) if time and time["provenance"] == "modelled" else ""
    here = say("this machine") if plan["device"] == HERE else plan["device"]
    return figures | {
        "time_s_span": _span(plan.get("time_s")),
        "device": plan["device"],
        "name": _name(here, plan["devices"]),
        "why": "; ".join(part for part in (plan["why_not"] or "", _recalled(plan, say), provenance) if part),
        "mark": "best" if best else "front" if front else "",
        "fits": plan["fits"],
    }


def _recalled(plan: Mapping[str, Any], say: Words) -> str:
    """That its price was not looked up, where its reason does not say so already."""
    from_memory = bool((plan.get("price") or {}).get("from_memory"))
    return say("price from memory") if from_memory and "from memory" not in (plan["why_not"] or "") else ""


def _shown(figure: Mapping[str, Any] | None) -> str:
    return show_number(figure["value"], figure["unit"]) if figure else "–"


def _span(figure: Mapping[str, Any] | None) -> str:
    return " to ".join(show_number(figure[end], figure["unit"]) for end in ("low", "high")) if figure else ""


def _parts(plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Seconds, bytes and dollars of one plan, the largest first."""
    rows = []
    for kind, unit in (("parts", "s"), ("bytes", "bytes"), ("costs", "USD")):
        parts = plan.get(kind) or {}
        whole = sum(parts.values())
        ranked = sorted(parts.items(), key=lambda kv: -kv[1])[:SHOWN_PARTS]
        rows += [
            {"name": name, "value": show_number(value, unit), "share": value / whole, "kind": KINDS[kind]}
            for name, value in ranked
            if whole and value / whole >= 0.001
        ]
    return rows


# ------------------------------------------------------------------ the chart


class _Axis:
    """A logarithmic axis between two values, as pixels from `begin` to `end`."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        low, high = log10(min(values)), log10(max(values))
        room = max(0.15, 0.06 * (high - low))
        self.low, self.high, self.begin, self.end = low - room, high + room, begin, end

    def at(self, value: float) -> float:
        share = (log10(value) - self.low) / (self.high - self.low)
        return self.begin + share * (self.end - self.begin)

    def inside(self, value: float) -> bool:
        return self.low <= log10(value) <= self.high

    def decades(self) -> list[float]:
        """Powers of ten inside, with 2 and 5 between where there are few."""
        steps = (1, 2, 5) if self.high - self.low < 2 else (1,)
        powers = range(floor(self.low), ceil(self.high) + 1)
        return [v for p in powers for s in steps if self.inside(v := s * 10.0**p)]


@dataclass(frozen=True, slots=True)
class _Point:
    """One plan, or one other number of its devices."""

    name: str
    time_s: float
    spent: float
    title: str
    plan: int | None  # place of the plan, None for another number of devices


def pareto_chart(
    plans: Sequence[Mapping[str, Any]],
    best: int | None,
    weighs: str = "cost_usd",
    limits: Limits = (None, None),
    say: Words = str,
) -> str:
    """Cost (or energy) over time of what fits, other numbers of the same devices too; the front as a line."""
    points = [p for i, plan in enumerate(plans) if plan["fits"] for p in _points(plan, i, weighs, limits)]
    if len(points) < 2:
        return ""
    x = _Axis([p.time_s for p in points], LEFT, WIDTH - RIGHT)
    y = _Axis([p.spent for p in points], HEIGHT - BOTTOM, TOP)
    front = _front(points)
    line = " ".join(f"{x.at(p.time_s):.1f},{y.at(p.spent):.1f}" for p in front)
    body = _grid(x, y, "USD" if weighs == "cost_usd" else "kWh", say("time, the whole job"))
    body += f'<polyline class="line" points="{line}"/>'
    body += "".join(_whiskers(plans[p.plan], x, y, weighs) for p in front if p.plan is not None)
    for kind in ("other", "front", "best"):  # what matters most is drawn last
        drawn = [p for p in points if _kind(p, best, front) == kind]
        body += "".join(_circle(p, x.at(p.time_s), y.at(p.spent), kind) for p in drawn)
    body += _names([(p.name, x.at(p.time_s), y.at(p.spent)) for p in front])
    label = say("cost against time" if weighs == "cost_usd" else "energy against time")
    return f'<svg class="devices" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{body}</svg>'


def _points(plan: Mapping[str, Any], at: int, weighs: str, limits: Limits) -> list[_Point]:
    time, spent = plan.get("time_s"), plan.get(weighs)
    if not time or not spent or not spent["value"] > 0:
        return []
    figures = (f"{_shown(f)} ({_span(f)})" for f in (time, spent))
    text = f"{plan['devices']} x {plan['device']}: {', '.join(figures)}"
    text += f"; {plan['why_not']}" if plan["why_not"] else ""
    own = _Point(_name(plan["device"], plan["devices"]), time["value"], spent["value"], text, at)
    return [own, *_others(plan, weighs, limits)]


def _others(plan: Mapping[str, Any], weighs: str, limits: Limits) -> list[_Point]:
    """Other numbers of the device, as far as they keep the limits."""
    points = []
    for t in plan.get("tradeoffs") or ():
        if weighs not in t or t["devices"] == plan["devices"]:
            continue
        if all(
            most is None or t[name] <= most for name, most in zip(("time_s", "cost_usd"), limits, strict=True)
        ):
            unit = "USD" if weighs == "cost_usd" else "kWh"
            name = _name(plan["device"], int(t["devices"]))
            title = f"{name}: {show_number(t['time_s'], 's')}, {show_number(t[weighs], unit)}"
            points.append(_Point(name, t["time_s"], t[weighs], title, None))
    return points


def _name(device: str, devices: int) -> str:
    return f"{devices} x {device}" if devices > 1 else device


def _front(points: Sequence[_Point]) -> list[_Point]:
    """Those that no other beats in both, the fastest first."""
    front: list[_Point] = []
    for p in sorted(points, key=lambda p: (p.time_s, p.spent)):
        if not front or p.spent < front[-1].spent:
            front.append(p)
    return front


def _kind(p: _Point, best: int | None, front: Sequence[_Point]) -> str:
    return "best" if p.plan is not None and p.plan == best else "front" if p in front else "other"


def _times(x: _Axis) -> list[float]:
    """Ticks of the time axis: at most seven, spread evenly over those that lie on it."""
    inside = [s for s in SECONDS if x.inside(s)]
    step = -(-len(inside) // MOST_TICKS) or 1
    return [float(s) for s in inside[::step]]


def _grid(x: _Axis, y: _Axis, unit: str, caption: str) -> str:
    lines = ""
    for value in y.decades():
        at = y.at(value)
        lines += f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        lines += f'<text class="tick" x="{LEFT - 6}" y="{at + 4:.1f}">{_short(value, unit)}</text>'
    for value in _times(x):
        at = x.at(value)
        lines += f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        lines += f'<text class="caption" x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}">{_time(value)}</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    return lines + f'<text class="caption" x="{middle}" y="{HEIGHT - 6}">{html.escape(caption)}</text>'


def _short(value: float, unit: str) -> str:
    number = f"{value:,.0f}" if value >= 1 else f"{value:g}"
    return f"$ {number}" if unit == "USD" else f"{number} {unit}"


def _time(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def _whiskers(plan: Mapping[str, Any], x: _Axis, y: _Axis, weighs: str) -> str:
    """The 80 % interval of both figures, cut at the frame."""
    time, cost = plan["time_s"], plan[weighs]
    across = [min(max(x.at(time[end]), LEFT), WIDTH - RIGHT) for end in ("low", "high")]
    along = [min(max(y.at(cost[end]), TOP), HEIGHT - BOTTOM) for end in ("low", "high")]
    cx, cy = x.at(time["value"]), y.at(cost["value"])
    return (
        f'<line class="whisker" x1="{across[0]:.1f}" x2="{across[1]:.1f}" y1="{cy:.1f}" y2="{cy:.1f}"/>'
        f'<line class="whisker" x1="{cx:.1f}" x2="{cx:.1f}" y1="{along[0]:.1f}" y2="{along[1]:.1f}"/>'
    )


def _circle(p: _Point, cx: float, cy: float, kind: str) -> str:
    size = {"best": 6.0, "front": 4.5, "other": 3.0}[kind] * (1.0 if p.plan is not None else 0.75)
    title = f"<title>{html.escape(p.title)}</title>"
    return f'<circle class="{kind}" cx="{cx:.1f}" cy="{cy:.1f}" r="{size:g}">{title}</circle>'


def _names(places: Sequence[tuple[str, float, float]]) -> str:
    """Names beside the points of the front; one that would cover another is left to its hover title."""
    body, taken = "", list[tuple[float, float]]()
    for name, cx, cy in places:
        if any(abs(cx - a) < 90 and abs(cy - b) < 14 for a, b in taken):
            continue
        taken.append((cx, cy))
        right = cx > WIDTH - 130
        anchor = ' text-anchor="end"' if right else ""
        at = f'x="{cx + (-9 if right else 9):.1f}" y="{cy - 7:.1f}"'
        body += f'<text class="name" {at}{anchor}>{html.escape(name)}</text>'
    return body
