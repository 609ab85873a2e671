"""The plan in the report: well-formed SVG, the front that nothing beats, hover titles, where time goes."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

from steelyard.report import render
from steelyard.report.devices import pareto_chart, plan_part
from steelyard.units import around


def plan_of(device: str, hours: float, usd: float | None, **more: Any) -> dict[str, Any]:
    made = {
        "device": device,
        "devices": 1,
        "fits": True,
        "why_not": None,
        "time_s": around(hours * 3600, 0.3, "s", "fitted").as_json(),
        "cost_usd": around(usd, 0.3, "USD", "fitted").as_json() if usd else None,
        "energy_kwh": None,
        "memory_bytes_per_device": around(8e9, 0.1, "bytes", "modelled").as_json(),
        "parts": {"gemm": hours * 3000, "launch": hours * 600},
        "bytes": {"weights": 8e9},
        "costs": {},
        "tradeoffs": [],
    }
    return made | more


PLANS = [
    plan_of("cheap", 10, 5),
    plan_of("fast", 1, 50, tradeoffs=[{"devices": 4, "time_s": 900.0, "cost_usd": 60.0}]),
    plan_of("worse <&>", 20, 60, why_not="costs 12 times as much"),
    plan_of("unpriced", 2, None),
    plan_of("unfit", 2, 1, fits=False, why_not="needs more memory"),
]


def circles(svg: str) -> dict[str, str]:
    """Name of each point's device -> its class."""
    tree = ElementTree.fromstring(svg)
    return {
        title.text.split(":")[0]: c.get("class") for c in tree.iter("circle") for title in c.iter("title")
    }


def test_the_chart_shows_what_fits_and_has_a_price() -> None:
    found = circles(pareto_chart(PLANS, 0))
    assert found == {"1 x cheap": "best", "1 x fast": "front", "4 x fast": "front", "1 x worse <&>": "other"}


def test_every_point_lies_inside_the_frame() -> None:
    tree = ElementTree.fromstring(pareto_chart(PLANS, 0))
    width, height = (float(n) for n in tree.get("viewBox").split()[2:])
    for circle in tree.iter("circle"):
        assert 0 < float(circle.get("cx")) < width and 0 < float(circle.get("cy")) < height
    assert len(re.findall("[0-9.]+,", tree.find("polyline").get("points"))) == 3


def test_other_numbers_of_a_device_keep_the_limits() -> None:
    assert "4 x fast" not in circles(pareto_chart(PLANS, 0, limits=(None, 55.0)))
    assert "4 x fast" in circles(pareto_chart(PLANS, 0, limits=(3600.0, None)))


def test_one_point_is_no_chart() -> None:
    assert pareto_chart([PLANS[0], PLANS[3]], 0) == ""


def test_the_rows_and_the_parts() -> None:
    told = plan_part({"plans": PLANS, "best": 0, "frontier": [0, 1], "request": {"objective": "cost"}})
    assert [(r["device"], r["mark"]) for r in told["shown"][:2]] == [("cheap", "best"), ("fast", "front")]
    assert told["shown"][3]["cost_usd"] == "–" and told["folded"][0]["device"] == "unfit"
    time = [p for p in told["parts"] if p["kind"] == "time"]
    assert [p["name"] for p in time] == ["gemm", "launch"] and abs(sum(p["share"] for p in time) - 1) < 1e-9
    none = plan_part({"plans": PLANS[4:], "best": None, "frontier": [], "request": {}})
    assert none["parts"] == [] and none["chart"] == ""


def test_the_report_holds_the_chart_and_needs_no_network() -> None:
    document = {"plans": PLANS, "best": 0, "frontier": [0, 1], "request": {"objective": "cost"}}
    plan = {"name": "desk", "machine": "Zen 4", "hash": "abc", "plans": document}
    page = render({"run": "r1", "workdir": "/runs/r1", "steps": [], "plan": plan})
    assert page.count("<svg") == 1 and "worse &lt;&amp;&gt;" in page
    assert "Where each second, byte and dollar" in page and "http" not in page


def test_few_devices_are_shown_and_this_machine_is_the_first() -> None:
    plans = [plan_of(f"device-{i}", 1 + i, 5 + i) for i in range(60)] + [plan_of("this-machine", 9, None)]
    part = plan_part({"plans": plans, "best": 3, "frontier": [3, 7], "request": {}})
    assert [r["device"] for r in part["shown"][:3]] == ["this-machine", "device-3", "device-7"]
    assert len(part["shown"]) == 6 and len(part["shown"]) + len(part["folded"]) == 61


def test_the_time_axis_has_ticks() -> None:
    for hours in (0.0005, 0.03, 0.5, 7, 200):
        svg = pareto_chart([plan_of("a", hours, 5), plan_of("b", hours * 3, 2)], 0)
        assert len(re.findall(r'class="caption"', svg)) >= 3  # two times and the caption
