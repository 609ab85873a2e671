"""The picture of a report: scores before and after, predicted beside measured. Plain SVG, widths in pixels.

A panel is 480 wide with 14-pixel text: readable on a phone at two thirds, and not huge on a desk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any
from unicodedata import east_asian_width

from ..units import show_error, show_number
from .words import Words, words

WIDTH, LEFT, RIGHT = 480, 50, 10
GROUPS_A_ROW = 5  # more abilities go on below: their names would no longer fit under the bars
PLOT, TOP, UNDER = 170, 34, 46  # heights: of the bars, of the title, of two lines of a name
PAIR = 62  # height of one figure: its name, the predicted bar, the measured bar

STYLE = """<style>
.panel{font:14px system-ui,"Noto Sans","Noto Sans CJK SC",sans-serif;fill:#1c2430}.panel .soft{fill:#68758a}
.panel .title{font-weight:600;font-size:15px}.panel .base{fill:#b6c0cf}.panel .served{fill:#1b9e77}
.panel .grid{stroke:#d8dee8}.panel .interval{stroke:#1c2430;stroke-width:1.5}
.panel .small{font-size:12px}.panel .middle{text-anchor:middle}.panel .end{text-anchor:end}
@media (prefers-color-scheme: dark){.panel{fill:#e4e9f1}.panel .soft{fill:#97a4b8}.panel .base{fill:#5d6a7d}
.panel .grid{stroke:#333d4d}.panel .interval{stroke:#e4e9f1}}
</style>"""


@dataclass(frozen=True, slots=True)
class Panel:
    """Drawn content and its height; the width is WIDTH."""

    body: str
    height: int

    def svg(self, label: str) -> str:
        """It alone, as an element of a page."""
        box = f'viewBox="0 0 {WIDTH} {self.height}" role="img" aria-label="{escape(label)}"'
        return f'<svg class="panel" {box}>{self.body}</svg>'


def picture(document: Mapping[str, Any], language: str = "en") -> str:
    """Both panels side by side as one SVG file, with its own colours: for a README or a slide."""
    say = words(language)
    panels = [p for p in (scores_panel(document, say), figures_panel(document, say)) if p.height]
    height = max((p.height for p in panels), default=40)
    parts = "".join(
        f'<g class="panel" transform="translate({i * (WIDTH + 20) + 10} 6)">{p.body}</g>'
        for i, p in enumerate(panels)
    )
    width = max(1, len(panels)) * (WIDTH + 20)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + 12}" role="img">'
    return f"{head}{STYLE}{parts}</svg>\n"


# ------------------------------------------------------------------ scores before and after


def scores_panel(document: Mapping[str, Any], say: Words) -> Panel:
    """Right answers before and after, per ability, with their 95 % intervals."""
    scores = document.get("scores") or {}
    after = scores.get("served") or scores.get("tuned") or {}
    before = scores.get("base") or {}
    abilities = list(after) or list(before)
    if not abilities:
        return Panel("", 0)
    details = document.get("details") or {}
    role = "served" if scores.get("served") else "tuned"
    body, at = _key(say("right answers, %"), say("before"), say("after")), TOP
    for start in range(0, len(abilities), GROUPS_A_ROW):
        row = abilities[start : start + GROUPS_A_ROW]
        bars = [
            (name, (_scored(before, details.get("base"), name), _scored(after, details.get(role), name)))
            for name in row
        ]
        body += _score_row(bars, at)
        at += PLOT + UNDER
    return Panel(body, at)


Scored = tuple[float | None, float | None, float | None]  # a share and its interval


def _scored(scores: Mapping[str, float], details: Mapping[str, Any] | None, ability: str) -> Scored:
    interval = ((details or {}).get("abilities") or {}).get(ability) or {}
    return scores.get(ability), interval.get("low"), interval.get("high")


def _score_row(bars: Sequence[tuple[str, Sequence[Scored]]], top: int) -> str:
    foot = top + PLOT
    body = "".join(_grid_line(foot - share * (PLOT - 18), f"{share * 100:.0f}") for share in (0, 0.5, 1))
    group = (WIDTH - LEFT - RIGHT) / len(bars)
    width = min(46.0, group * 0.36)
    for i, (name, pair) in enumerate(bars):
        middle = LEFT + (i + 0.5) * group
        for kind, scored, x in zip(("base", "served"), pair, (middle - width - 2, middle + 2), strict=True):
            body += _score_bar(kind, scored, x, width, foot)
        body += _name_under(name, middle, group - 6, foot)
    return body


def _grid_line(y: float, text: str) -> str:
    line = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return line + f'<text class="soft small end" x="{LEFT - 6}" y="{y + 4:.1f}">{text}</text>'


def _score_bar(kind: str, scored: Scored, x: float, width: float, foot: float) -> str:
    share, low, high = scored
    if share is None:
        return ""
    full = PLOT - 18
    y, middle = foot - share * full, x + width / 2
    body = f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{share * full:.1f}"/>'
    ends = [foot - end * full for end in (low, high) if end is not None]
    if len(ends) == 2:
        along = f'x1="{middle:.1f}" x2="{middle:.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}"'
        body += f'<line class="interval" {along}/>'
        y = min(y, *ends)
    return body + f'<text class="small middle" x="{middle:.1f}" y="{y - 4:.1f}">{share * 100:.1f}</text>'


def _name_under(name: str, middle: float, room: float, foot: float) -> str:
    """The ability's name under its bars, on two lines where one is too short; whole as a hover title."""
    lines = _wrapped(name, room)
    rows = "".join(
        f'<tspan x="{middle:.1f}" y="{foot + 18 + 16 * i:.1f}">{escape(text)}</tspan>'
        for i, text in enumerate(lines)
    )
    return f'<text class="middle"><title>{escape(name)}</title>{rows}</text>'


def _wrapped(text: str, room: float) -> list[str]:
    """At most two lines of `room` pixels; what is longer ends in an ellipsis."""
    lines = [""]
    for char in text:
        if _pixels(lines[-1] + char) > room:
            if len(lines) == 2:
                lines[-1] = lines[-1][:-1] + "…"
                break
            lines.append("")
        lines[-1] += char
    return [line.strip() for line in lines]


def _pixels(text: str) -> float:
    return sum(14 if east_asian_width(char) in "WF" else 7.8 for char in text)


def _key(title: str, first: str, second: str) -> str:
    """The panel's title, and what its two colours stand for, from the right."""
    second_at = WIDTH - RIGHT - _pixels(second)
    first_at = second_at - 26 - _pixels(first)
    words = f'<text class="title" x="0" y="15">{escape(title)}</text>'
    for kind, text, x in (("base", first, first_at), ("served", second, second_at)):
        words += f'<rect class="{kind}" x="{x - 16:.1f}" y="4" width="12" height="12" rx="2"/>'
        words += f'<text class="soft" x="{x:.1f}" y="15">{escape(text)}</text>'
    return words


# ------------------------------------------------------------------ predicted and measured


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure: predicted (with its interval, where plan.json has it) and measured."""

    name: str
    unit: str
    predicted: float
    measured: float
    low: float | None = None
    high: float | None = None


def compared(document: Mapping[str, Any]) -> list[Compared]:
    """What a manager asks for: the time of all steps, the most memory, the service's latency and speed."""
    steps = [s for s in document["steps"] if s.get("predicted") and s.get("measured")]
    rows = [
        _whole("time of all steps", "s", "wall_s", steps, document, sum),
        _whole("most memory", "bytes", "peak_rss_bytes", steps, document, max),
    ]
    serve = [s for s in steps if s["step"] == "serve"]
    names = (("first word after", "s", "ttft_s"), ("each further token", "s", "tpot_s"))
    rows += [_whole(name, unit, key, serve, document, max) for name, unit, key in names]
    rows.append(_whole("tokens a second", "tok/s", "output_tok_s", serve, document, max))
    return [c for c in rows if c is not None]


def _whole(
    name: str, unit: str, key: str, steps: Sequence[Any], document: Mapping[str, Any], join: Any
) -> Compared | None:
    both = [s for s in steps if s["predicted"].get(key) is not None and s["measured"].get(key) is not None]
    if not both:
        return None
    planned = (document.get("plan") or {}).get("steps") or {}
    ends = [
        [e for s in both if (e := ((planned.get(s["step"]) or {}).get(key) or {}).get(end)) is not None]
        for end in ("low", "high")
    ]
    low, high = (join(e) if len(e) == len(both) else None for e in ends)
    predicted, measured = (join([s[which][key] for s in both]) for which in ("predicted", "measured"))
    return Compared(name, unit, predicted, measured, low, high)


def figures_panel(document: Mapping[str, Any], say: Words) -> Panel:
    """Predicted beside measured, one pair of bars a figure, each pair on its own scale."""
    rows = compared(document)
    if not rows:
        return Panel("", 0)
    body = _key(say("predicted and measured"), say("predicted"), say("measured"))
    for i, row in enumerate(rows):
        body += _pair(row, say, TOP + 8 + i * PAIR)
    return Panel(body, TOP + 8 + len(rows) * PAIR)


def _pair(row: Compared, say: Words, top: int) -> str:
    full = 300.0
    most = max(row.predicted, row.measured, row.high or 0) or 1
    error = show_error(row.predicted, row.measured) if row.measured else ""
    body = f'<text x="0" y="{top + 8}">{escape(say(row.name))}</text>'
    body += f'<text class="soft small end" x="{WIDTH - RIGHT}" y="{top + 8}">{error}</text>'
    for kind, value, y in (("base", row.predicted, top + 16), ("served", row.measured, top + 32)):
        width = max(2.0, value / most * full)
        ends = row.high / most * full if kind == "base" and row.high else 0.0
        body += f'<rect class="{kind}" x="0" y="{y}" width="{width:.1f}" height="13" rx="2"/>'
        text = escape(show_number(value, row.unit))
        body += f'<text class="small" x="{max(width, ends) + 8:.1f}" y="{y + 11}">{text}</text>'
    if row.low is not None and row.high is not None:
        low, high = row.low / most * full, row.high / most * full
        body += f'<line class="interval" x1="{low:.1f}" x2="{high:.1f}" y1="{top + 22.5}" y2="{top + 22.5}"/>'
    return body


# ------------------------------------------------------------------ loss


def loss_panel(curve: Sequence[Mapping[str, Any]], say: Words) -> Panel:
    """Loss over steps with its axes, and that of the held-out rows where they were looked at; nothing where
    there are fewer than two points."""
    if len(curve) < 2:
        return Panel("", 0)
    steps = [float(p["step"]) for p in curve]
    most = max(float(p.get(name, 0.0)) for p in curve for name in ("loss", "eval_loss")) or 1.0
    foot, across = 10 + PLOT, WIDTH - LEFT - RIGHT
    body = "".join(_grid_line(foot - s * (PLOT - 10), f"{s * most:.2g}") for s in (0, 0.5, 1))
    for name, kind in (("loss", "line"), ("eval_loss", "line looks")):
        points = " ".join(
            f"{LEFT + (p['step'] - steps[0]) / max(steps[-1] - steps[0], 1) * across:.1f},"
            f"{foot - p[name] / most * (PLOT - 10):.1f}"
            for p in curve
            if name in p
        )
        body += f'<polyline class="{kind}" points="{points}"/>' if points else ""
    body += _step_numbers(steps[0], steps[-1], foot + 18, across)
    looked = f", {say('dashed: held-out rows')}" if any("eval_loss" in p for p in curve) else ""
    text = f"{say('step')}{looked}"
    caption = f'<text class="soft small middle" x="{LEFT + across / 2}" y="{foot + 34}">{text}</text>'
    return Panel(body + caption, foot + 40)


def _step_numbers(first: float, last: float, y: float, across: float) -> str:
    """The first step, the one amid and the last, below their places."""
    text = '<text class="soft small" text-anchor="{anchor}" x="{x:.1f}" y="{y}">{step:.0f}</text>'
    places = ((0.0, "start"), (0.5, "middle"), (1.0, "end"))
    return "".join(
        text.format(anchor=anchor, x=LEFT + share * across, y=y, step=first + share * (last - first))
        for share, anchor in places
    )
