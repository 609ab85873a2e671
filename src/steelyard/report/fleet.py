"""The page of a simulated fleet, from plain data: what if, as a table and bars; devices over time.

One HTML file with its charts as SVG, no script, nothing from outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..artefact import write_durably
from ..units import show_s, show_share
from .pictures import STYLE
from .words import Words, percent, words

WIDTH, LEFT, RIGHT, PLOT, TOP = 960, 60, 12, 220, 30
BAR, ROW = 300.0, 26
Point = tuple[
    float, int, int, int, int
]  # t_s, need of serving, training on its own, on lent devices, waiting
LINES = (
    ("need", 1, "serving's need"),
    ("own", 2, "training on its own devices"),
    ("lent", 3, "training on lent devices"),
    ("waits", 4, "jobs that wait"),
)


def write_fleet(
    document: Mapping[str, Any], series: Sequence[Sequence[Point]], path: Path, language: str = "en"
) -> None:
    """Write the page at `path`, wholly or not at all."""
    write_durably(path, render_fleet(document, series, language).encode())


def render_fleet(document: Mapping[str, Any], series: Sequence[Sequence[Point]], language: str = "en") -> str:
    """The page of `simulate`'s document; `series[0]` is of the fleet as asked, then one a question."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = (Path(__file__).parent / "fleet.html.jinja").read_text(encoding="utf-8")
    say = words(language)
    runs = [document, *document["what_if"]]
    return environment.from_string(template).render(
        t=say, lang=language, style=STYLE, rows=[_row(run) for run in runs],
        waits=bars([(_name(run), run["mean_queue_s"]) for run in runs], say("mean wait")),
        jcts=bars([(_name(run), run["mean_jct_s"]) for run in runs], say("mean time to the end")),
        charts=[(_name(run), over_time(points, say)) for run, points in zip(runs, series, strict=True)],
        facts=document,
    )  # fmt: skip


def _name(run: Mapping[str, Any]) -> str:
    return run.get("question") or run["policy"]


def _row(run: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": _name(run), "devices": f"{run['devices'] - run['serving']:,} + {run['serving']:,}",
        "wait": show_s(run["mean_queue_s"]), "worst": show_s(run["p99_queue_s"]),
        "jct": show_s(run["mean_jct_s"]), "short": show_share(run["slo_violation_share"], 2),
        "goodput": percent(run["goodput"]), "idle": percent(run["idle_recovered_share"]),
        "done": f"{run['jobs_done']:,}", "preemptions": f"{run['preemptions']:,}",
        "failures": f"{run['failures']:,}",
    }  # fmt: skip


def bars(values: Sequence[tuple[str, float]], title: str) -> str:
    """One bar a run, all on one scale, each with its time; the first is the fleet as asked."""
    most = max(value for _, value in values) or 1.0
    body = f'<text class="title" x="0" y="15">{escape(title)}</text>'
    for i, (name, value) in enumerate(values):
        y = TOP + i * ROW
        width = max(1.0, value / most * BAR)
        kind = "served" if i == 0 else "base"
        body += f'<text x="0" y="{y + 12}">{escape(name[:24])}</text>'
        body += f'<rect class="{kind}" x="200" y="{y}" width="{width:.1f}" height="15" rx="2"/>'
        body += f'<text class="small" x="{206 + width:.1f}" y="{y + 12}">{escape(show_s(value))}</text>'
    return _svg(body, 600, TOP + len(values) * ROW, title)


def over_time(points: Sequence[Point], say: Words) -> str:
    """Devices in use and jobs that wait, over the days of the run."""
    if len(points) < 2:
        return ""
    end_s = points[-1][0]
    most = max(max(point[1:4]) for point in points) or 1
    waits = max(point[4] for point in points)
    across, foot = WIDTH - LEFT - RIGHT, TOP + PLOT
    body = "".join(_grid(foot - share * PLOT, f"{share * most:.0f}") for share in (0, 0.5, 1))
    days = end_s / 86_400
    for day in range(int(days) + 1):
        x = LEFT + day / days * across
        body += f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{foot}"/>'
        body += f'<text class="soft small" x="{x + 3:.1f}" y="{foot + 16}">{say("day {n}", n=day + 1)}</text>'
    at = LEFT
    for kind, column, label in LINES:
        scale = waits or 1 if kind == "waits" else most
        line = " ".join(
            f"{LEFT + p[0] / end_s * across:.1f},{foot - p[column] / scale * PLOT:.1f}"
            for p in thinned(points)
        )
        body += f'<polyline class="{kind}" points="{line}"/>'
        text = say(label) + (f" ({say('at most {n}', n=f'{waits:,}')})" if kind == "waits" else "")
        body += f'<line class="{kind}" x1="{at}" x2="{at + 22}" y1="10" y2="10"/>'
        body += f'<text class="small" x="{at + 28}" y="14">{escape(text)}</text>'
        at += 44 + 9 * len(text)
    return _svg(body, WIDTH, foot + 22, say("devices over time"))


def thinned(points: Sequence[Point]) -> Sequence[Point]:
    """At most 1,000 of them: a page is no archive."""
    return points[:: len(points) // 1_000 + 1]


def _grid(y: float, text: str) -> str:
    line = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return line + f'<text class="soft small end" x="{LEFT - 6}" y="{y + 4:.1f}">{text}</text>'


def _svg(body: str, width: int, height: int, label: str) -> str:
    box = f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}"'
    return f'<svg class="panel" {box}>{body}</svg>'
