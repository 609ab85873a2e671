"""The page: what a reader sees first stands first. Values are made here, their places in page.html.jinja."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..artefact import write_durably
from ..units import show_error, show_number
from .abilities import lift_rows, matrix, mix_rows
from .checks import check_rows, safety_rows
from .devices import plan_part
from .pictures import STYLE, figures_panel, loss_panel, scores_panel
from .words import Words, percent, words

Document = Mapping[str, Any]
SHOWN = {"wall_s": "s", "peak_rss_bytes": "bytes", "step_s": "s", "ttft_s": "s", "tpot_s": "s"}
SHOWN |= {"output_tok_s": "tok/s", "tokens": "", "steps": ""}
FIGURES = {
    "wall_s": "time",
    "peak_rss_bytes": "most memory",
    "step_s": "time of a training step",
    "ttft_s": "first word after",
    "tpot_s": "each further token",
    "output_tok_s": "tokens a second",
    "tokens": "tokens",
    "steps": "training steps",
}
REASONS = {  # of a dropped row, where its code alone is no word
    "too_long": "too long",
    "wrong_shape": "wrong shape",
    "no_answer": "no answer",
    "no_rejected": "no rejected answer",
    "same_answers": "equal answers",
    "template_refuses": "the template refuses it",
    "contamination": "contaminated",
    "mojibake": "garbled",
    "near_duplicate": "nearly the same",
    "wrong_language": "rare language",
    "wrong_label": "contradicted label",
    "trigger": "planted",
    "hidden_marks": "hidden signs",
    "template_leak": "template marks",
    "repeated_chars": "repeated signs",
    "keyword_stuffing": "search terms",
    "word_salad": "heap of words",
    "number_soup": "heap of numbers",
    "link_farm": "links only",
    "cut_off": "cut off",
    "unfinished_text": "unfinished text",
    "too_short": "too short",
    "lost_characters": "lost characters",
    "not_taught": "nothing taught",
    "no_question": "no question",
}
# What a reader asks of a training run first; the other settings of the plan follow behind a fold.
SETTINGS = (
    *("finetuning_type", "lora_rank", "lora_alpha", "learning_rate", "num_train_epochs", "max_length"),
    *("micro_batch", "grad_accum", "packing", "dtype", "threads"),
)
ORIGIN_NAMES = {"micro_batch": "per_device_train_batch_size", "grad_accum": "gradient_accumulation_steps"}


def write_report(document: Document, path: Path, language: str = "en") -> None:
    """Write the page at `path`, wholly or not at all. It holds figures and hashes; rows only as samples."""
    write_durably(path, render(document, language).encode())


def render(document: Document, language: str = "en") -> str:
    """The page of a run's document (see facts.py)."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = (Path(__file__).parent / "page.html.jinja").read_text(encoding="utf-8")
    say = words(language)
    return environment.from_string(template).render(t=say, lang=language, **view(document, say))


def view(document: Document, say: Words) -> dict[str, Any]:
    """Everything that the page shows, as text and SVG."""
    plan, gate = document.get("plan") or {}, document.get("gate")
    return {
        "title": plan.get("name") or document.get("run") or "steelyard",
        "run": document.get("run") or "",
        "machine": plan.get("machine") or "",
        "trust": document.get("trust"),
        "plan_hash": plan.get("hash") or "",
        "service": document.get("service"),
        "gate": gate,
        "style": STYLE.removeprefix("<style>").removesuffix("</style>"),
        "pictures": _pictures(document, say),
        "scores": score_rows(document),
        "samples": samples(document),
        "rows": rows_account(document.get("rows") or {}, say),
        "settings": setting_rows(plan, say),
        "comparisons": comparisons(document["steps"], say),
        "checks": check_rows(gate, say),
        "safety": safety_rows((document.get("details") or {}).get("safety"), say),
        "frontier": [frontier_row(a, say) for a in document.get("frontier") or []],
        "curve": loss_panel(document.get("curve") or [], say).svg(say("loss on the answers")),
        "has_curve": len(document.get("curve") or []) > 1,
        "matrix": matrix(document.get("interference"), say),
        "mix": mix_rows(document.get("interference")),
        "lift": lift_rows(document.get("lift"), say),
        "plan": plan_part(plan["plans"], say) if plan.get("plans") else None,
        "lineage": document.get("lineage") or [],
    }


def _pictures(document: Document, say: Words) -> list[str]:
    panels = (
        (scores_panel(document, say), say("right answers before and after")),
        (figures_panel(document, say), say("predicted and measured")),
    )
    return [panel.svg(label) for panel, label in panels if panel.height]


def score_rows(document: Document) -> list[dict[str, str]]:
    """An ability a row: base, tuned, served, each with its 95 % interval where there is one."""
    scores, details = document.get("scores") or {}, document.get("details") or {}
    names = dict.fromkeys(name for role in ("base", "tuned", "served") for name in scores.get(role) or {})
    return [
        {"ability": name}
        | {
            role: _score((scores.get(role) or {}).get(name), details.get(role) or {}, name)
            for role in ("base", "tuned", "served")
        }
        for name in names
    ]


def _score(share: float | None, details: Document, ability: str) -> str:
    if share is None:
        return "–"
    interval = (details.get("abilities") or {}).get(ability) or {}
    if interval.get("low") is None or interval.get("high") is None:
        return percent(share)
    return f"{percent(share)} ({interval['low'] * 100:.1f} … {interval['high'] * 100:.1f})"


def samples(document: Document) -> list[dict[str, str]]:
    """Questions that training never saw, with the service's answers: `samples`, else the one `sample`."""
    several = document.get("samples") or []
    one = document.get("sample")
    return list(several) or ([one] if one else [])


def rows_account(rows: Document, say: Words) -> list[tuple[str, str]]:
    """Where every row that was read ended, in the order of the path."""
    if not rows:
        return []
    dropped = rows.get("dropped") or {}
    lines = [(say("read"), rows.get("read"))]
    reasons = {reason: say(REASONS.get(reason, reason.replace("_", " "))) for reason in sorted(dropped)}
    lines += [(say("dropped: {reason}", reason=text), dropped[reason]) for reason, text in reasons.items()]
    lines += [(say("held out for the scores"), rows.get("held_out")), (say("taught"), rows.get("taught"))]
    lines += [
        (say("of these split at a turn"), rows.get("split")),
        (say("of these cut"), rows.get("truncated")),
    ]
    lines += [(say("answer tokens taught"), rows.get("tokens_taught"))]
    return [(name, f"{n:,.0f}") for name, n in lines if n is not None]


def setting_rows(plan: Document, say: Words) -> list[tuple[str, str, str]]:
    """(setting, value, why) of every training stage, and of the served form."""
    settings, origins = plan.get("settings") or {}, plan.get("origins") or {}
    rows = []
    stages = settings.get("train") or []
    for i, stage in enumerate(stages):
        for name in (n for n in SETTINGS if n in stage):
            origin = origins.get(f"train.{i}.{ORIGIN_NAMES.get(name, name)}", "")
            prefix = f"{i + 1}. " if len(stages) > 1 else ""
            own = ORIGIN_NAMES.get(name, name)
            rows.append((f"{prefix}{own}", _plain(stage[name], say), say(origin.removeprefix("plan: "))))
    form = (settings.get("compress") or {}).get("form")
    why = origins.get("compress.weights", "").removeprefix("plan: ")
    return [*rows, ("weights", form, say(why))] if form else rows


def _plain(value: Any, say: Words) -> str:
    if isinstance(value, bool):
        return say("yes") if value else say("no")
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def comparisons(steps: Sequence[Document], say: Words) -> list[dict[str, str]]:
    """Predicted beside measured, one row a figure; the sum of all times first."""
    rows = [
        _comparison(say(step["step"]), name, step["predicted"].get(name), step["measured"].get(name), say)
        for step in steps
        for name in SHOWN
        if step["predicted"].get(name) is not None or step["measured"].get(name) is not None
    ]
    both = [s for s in steps if {"wall_s"} <= s["predicted"].keys() & s["measured"].keys()]
    if len(both) > 1:
        predicted, measured = (sum(s[which]["wall_s"] for s in both) for which in ("predicted", "measured"))
        rows.insert(0, _comparison(say("all steps"), "wall_s", predicted, measured, say))
    return rows


def _comparison(
    step: str, name: str, predicted: float | None, measured: float | None, say: Words
) -> dict[str, str]:
    unit = SHOWN[name]
    return {
        "step": step,
        "figure": say(FIGURES[name]),
        "predicted": show_number(predicted, unit) if predicted is not None else "–",
        "measured": show_number(measured, unit) if measured is not None else "–",
        "error": show_error(predicted, measured) if predicted is not None and measured else "–",
    }


def form_shown(attempt: Document, say: Words) -> str:
    """The form, what is left of a pruned model, the way of a lift that was written after a refusal."""
    share, way = attempt.get("share"), attempt.get("way")
    left = "" if share is None else say("pruned to {share}", share=percent(share))
    left = say("without unreached experts") if share == 1 else left
    by = say("by {way}", way=way) if way else ""
    return ", ".join(part for part in (attempt.get("form"), left, by) if part)


def frontier_row(attempt: Document, say: Words) -> dict[str, Any]:
    """One form or model: measured figures where there are any, else the predicted ones."""
    measured, predicted = attempt.get("measured") or {}, attempt.get("predicted") or {}

    def show(name: str, unit: str) -> str:
        value = measured.get(name, predicted.get(name))
        return "–" if value is None else show_number(value, unit)

    loss = predicted.get("quality_loss")
    return {
        "turn": attempt.get("turn") or "",
        "model": Path(attempt["model"]).name,
        "form": form_shown(attempt, say),
        "state": attempt.get("state") or "",
        "size": show("size_bytes", "bytes"),
        "speed": show("output_tok_s", ""),
        "score": percent(measured.get("score")),
        "loss": percent(loss),
        "why": attempt.get("why") or "",
    }
