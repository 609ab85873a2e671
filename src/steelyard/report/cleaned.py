"""The page of a cleaned set, from plain data: what stayed, what was dropped and why, samples to judge by.

Rows are hostile text: everything but our own words passes `visible` and the template's escaping. One file,
with no script and nothing from outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from ..artefact import write_durably
from ..data import plain_text, visible
from .page import REASONS
from .words import Words, percent, words

CHARS = 1200  # of a row
Segments = list[tuple[bool, str]]  # (differs, text)


def write_cleaned(facts: Mapping[str, Any], path: Path, language: str = "en") -> None:
    """Write the page at `path`, wholly or not at all."""
    write_durably(path, render_cleaned(facts, language).encode("utf-8", "replace"))


def render_cleaned(facts: Mapping[str, Any], language: str = "en") -> str:
    """The page of the facts that `data.page_facts` gives."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = (Path(__file__).parent / "cleaned.html.jinja").read_text(encoding="utf-8")
    say = words(language)
    return environment.from_string(template).render(t=say, lang=language, **view(facts, say))


def view(facts: Mapping[str, Any], say: Words) -> dict[str, Any]:
    languages = facts["languages"]
    return {
        "title": visible(facts["name"]),
        "rows": facts["rows"], "kept": facts["kept"], "dropped": facts["dropped"],
        "languages": languages,
        "reasons": [reason_row(one, languages, say) for one in facts["reasons"]],
        "abilities": [ability_row(one) for one in facts["abilities"]],
        "lengths": length_rows(facts["lengths"]), "length": facts["lengths"],
        "licences": {visible(name): n for name, n in facts["licences"].items()},
        "samples": [sample_group(one, say) for one in facts["samples"]],
        "clusters": [cluster(one, say) for one in facts["clusters"]],
    }  # fmt: skip


def reason_name(reason: str, say: Words) -> str:
    return say(REASONS.get(reason, reason.replace("_", " ")))


def reason_row(one: Mapping[str, Any], languages: Sequence[str], say: Words) -> dict[str, Any]:
    counts = [one["languages"].get(language, 0) for language in languages]
    return {
        "name": reason_name(one["reason"], say),
        "code": one["reason"],
        "rows": one["rows"],
        "counts": counts,
    }


def ability_row(one: Mapping[str, Any]) -> dict[str, Any]:
    parts = ", ".join(f"{part} {n}" for part, n in one["parts"].items() if part)
    shares = {"share": percent(one["share"]), "token_share": percent(one["token_share"])}
    return {**one, **shares, "ability": visible(one["ability"]), "parts": visible(parts)}


def length_rows(lengths: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each bar, in percent of the longest; `over` where all of it is above max_length."""
    bins = lengths.get("bins") or []
    most = max((one["rows"] for one in bins), default=1) or 1
    rows, low = [], 0
    for one in bins:
        over = lengths["max_length"] is not None and low >= lengths["max_length"]
        name = f"{low:,} … {one['below'] - 1:,}" if one["below"] else f"{low:,} …"
        rows.append({"name": name, "rows": one["rows"], "width": 100 * one["rows"] / most, "over": over})
        low = one["below"] or low
    return rows


def sample_group(one: Mapping[str, Any], say: Words) -> dict[str, Any]:
    rows = [sample(row, say) for row in one["rows"]]
    return {
        "name": reason_name(one["reason"], say),
        "language": one["language"],
        "of": one["of"],
        "rows": rows,
    }


def sample(row: Mapping[str, Any], say: Words) -> dict[str, Any]:
    return {"id": visible(row["id"]), "facts": visible(met_in(row, say)), "text": shown(row)}


def shown(row: Mapping[str, Any]) -> str:
    text = visible(plain_text(row))
    return text if len(text) <= CHARS else text[:CHARS] + "…"


def met_in(row: Mapping[str, Any], say: Words) -> str:
    """Reasons, evidence and what else was met in the row, on one line."""
    parts = [reason_name(reason, say) for reason in row["reasons"]]
    parts += [f"{name}: {value}" for name, value in row["evidence"].items()]
    parts += [row["why"]] if row.get("why") else []
    if "ability" in row:
        parts += [row["ability"], row["form"], f"{row['tokens']:,} {say('tokens')}"]
        parts += [f"{kind}: {n}" for kind, n in row["personal"].items()]
        parts += [reason_name(kind, say) for kind in row["fires"] if kind not in row["reasons"]]
    return " · ".join(map(str, parts))


def cluster(one: Mapping[str, Any], say: Words) -> dict[str, Any]:
    """The row that stays, and beside it those that do not, with what differs marked."""
    kept = shown(one["kept"])
    dropped = [
        {
            "id": visible(row["id"]),
            "jaccard": row["evidence"].get("jaccard"),
            "text": marked(kept, shown(row)),
        }
        for row in one["dropped"]
    ]
    return {"rows": one["rows"], "id": visible(one["kept"]["id"]), "text": kept, "dropped": dropped}


def marked(kept: str, other: str) -> Segments:
    """`other` in pieces; those that `kept` lacks differ. Chinese is compared by its characters."""
    one, two = pieces(kept), pieces(other)
    out: Segments = []
    for tag, _, _, start, end in SequenceMatcher(None, one, two, autojunk=False).get_opcodes():
        if end > start:
            out.append((tag != "equal", "".join(two[start:end])))
    return out


def pieces(text: str) -> list[str]:
    import re

    return re.findall(r"[\u2e80-\uffff]|[^\s\u2e80-\uffff]+\s*|\s+", text)
