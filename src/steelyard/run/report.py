"""The report of a run: one HTML file that needs no network. Charts are plain SVG.

Not here: what the figures mean; they come from the outcome and the artefacts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..artefact import Store
from ..artefact import write_durably as write
from ..units import show_bytes, show_number, show_s
from .frontier import Attempt
from .outcome import Outcome
from .plan_chart import plan_part

WIDTH, HEIGHT, LEFT, BOTTOM = 640, 220, 46, 24
SHOWN = {"wall_s": "s", "peak_rss_bytes": "bytes", "step_s": "s", "ttft_s": "s", "tpot_s": "s"}
SHOWN |= {"output_tok_s": "tok/s", "tokens": "", "steps": ""}


def write_report(outcome: Outcome, store: Store, path: Path) -> None:
    """Write the report at `path`, wholly or not at all. It holds figures and hashes, no row."""
    html = render(outcome, story(outcome, store))
    write(path, html.encode())


def story(outcome: Outcome, store: Store) -> dict[str, Any]:
    """What the artefacts of this run tell: account, loss curve, lineage."""
    hashes = {r.hash for r in outcome.steps if r.hash}
    mine = [a for a in store.all() if a.hash in hashes]
    told: dict[str, Any] = {"lineage": [lineage_row(a.manifest) for a in mine]}
    for artefact in mine:
        if artefact.kind == "dataset":
            told["account"] = json.loads(artefact.path("account.json").read_text(encoding="utf-8"))
        if artefact.kind == "checkpoint" and artefact.path("curve.jsonl").exists():
            lines = artefact.path("curve.jsonl").read_text(encoding="utf-8").splitlines()
            told["curve"] = [json.loads(line) for line in lines]
    return told


def lineage_row(manifest: dict[str, Any]) -> dict[str, Any]:
    return {
        "step": manifest["step"],
        "kind": manifest["kind"],
        "hash": manifest["hash"],
        "size": show_bytes(sum(f["bytes"] for f in manifest["files"])),
        "inputs": [f"{i['role']} {i['hash'][:12]}" for i in manifest["inputs"]],
        "sealed": bool(manifest["seal"]),
    }


def render(outcome: Outcome, told: dict[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"seconds": show_s, "size": show_bytes}
    template = (Path(__file__).parent / "report.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        outcome=outcome,
        told=told,
        comparisons=comparisons(outcome),
        plan=plan_part(outcome.plan["plans"]) if outcome.plan.get("plans") else None,
        frontier=[frontier_row(attempt) for attempt in outcome.frontier],
        curve=loss_chart(told.get("curve", [])),
        bars=score_chart(outcome.scores),
        abilities=list(outcome.scores.get("base") or outcome.scores.get("served") or {}),
    )


def comparisons(outcome: Outcome) -> list[dict[str, str]]:
    """Predicted beside measured, one row a figure."""
    rows = []
    for record in outcome.steps:
        for name, unit in SHOWN.items():
            said, seen = record.predicted.get(name), record.measured.get(name)
            if said is None and seen is None:
                continue
            rows.append(
                {
                    "step": record.step,
                    "figure": name,
                    "predicted": show_number(said, unit) if said is not None else "–",
                    "measured": show_number(seen, unit) if seen is not None else "–",
                    "error": f"{(said / seen - 1) * 100:+.0f} %" if said is not None and seen else "–",
                }
            )
    return rows


def frontier_row(attempt: Attempt) -> dict[str, Any]:
    """One form or model: measured figures where there are any, else the predicted ones."""

    def told(name: str, unit: str) -> str:
        value = attempt.measured.get(name, attempt.predicted.get(name))
        return "–" if value is None else show_number(value, unit)

    score, loss = attempt.measured.get("score"), attempt.predicted.get("quality_loss")
    return {
        "turn": attempt.turn,
        "model": Path(attempt.model).name,
        "form": attempt.form,
        "state": attempt.state,
        "size": told("size_bytes", "bytes"),
        "speed": told("output_tok_s", ""),
        "score": "–" if score is None else f"{score * 100:.1f} %",
        "loss": "–" if loss is None else f"{loss * 100:.1f} %",
        "why": attempt.why,
    }


# ------------------------------------------------------------------ charts


def loss_chart(curve: list[dict[str, Any]]) -> str:
    """Loss over steps as an SVG polyline; "" where there are fewer than two points."""
    if len(curve) < 2:
        return ""
    steps, losses = [float(p["step"]) for p in curve], [float(p["loss"]) for p in curve]
    top, first, last = max(losses), steps[0], steps[-1]
    points = " ".join(
        f"{x_of((s - first) / max(last - first, 1)):.1f},{y_of(loss / top):.1f}"
        for s, loss in zip(steps, losses, strict=True)
    )
    body = f'<polyline class="line" points="{points}"/>'
    return frame(
        body, [(0, "0"), (0.5, f"{top / 2:.2g}"), (1, f"{top:.2g}")], f"step {first:.0f} to {last:.0f}"
    )


def score_chart(scores: dict[str, dict[str, float]]) -> str:
    """Grouped bars: base, tuned and served for each ability."""
    abilities = list(scores.get("base") or scores.get("served") or {})
    roles = [r for r in ("base", "tuned", "served") if r in scores]
    if not abilities:
        return ""
    group = 1 / len(abilities)
    bar = group * 0.8 / len(roles)
    body = ""
    for i, ability in enumerate(abilities):
        for j, role in enumerate(roles):
            value = scores[role].get(ability, 0.0)
            x, width = x_of(i * group + group * 0.1 + j * bar), (WIDTH - LEFT) * bar * 0.92
            y = y_of(value)
            box = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{y_of(0) - y:.1f}"'
            body += f'<rect class="{role}" {box}/>'
            body += f'<text x="{x + width / 2:.1f}" y="{y - 3:.1f}" class="value">{value * 100:.0f}</text>'
    return frame(body, [(0, "0"), (0.5, "50 %"), (1, "100 %")], "  ·  ".join(escape(a) for a in abilities))


def x_of(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - 6)


def y_of(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - 16)


def frame(body: str, ticks: list[tuple[float, str]], caption: str) -> str:
    lines = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH}" y1="{y_of(at):.1f}" y2="{y_of(at):.1f}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{y_of(at) + 4:.1f}">{text}</text>'
        for at, text in ticks
    )
    label = f'<text class="caption" x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 6}">{caption}</text>'
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{lines}{body}{label}</svg>'


def escape(text: str) -> str:
    import html

    return html.escape(text)
