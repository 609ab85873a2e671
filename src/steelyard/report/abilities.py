"""Several abilities in one training: who helped or harmed whom in the probes, and ways to lift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .words import Words, percent

GENERAL = "(general)"  # as training writes what nobody trained
Document = Mapping[str, Any]


def matrix(interference: Document | None, say: Words) -> dict[str, Any]:
    """{"scored": [names], "rows": [(trained, [cells])], "sentences"}; {} where nothing was probed."""
    if not interference or not interference.get("after"):
        return {}
    after = interference["after"]
    scored = list(interference["before"])
    rows = [(trained, [_cell(row.get(name)) for name in scored]) for trained, row in after.items()]
    names = [_name(name, say) for name in scored]
    return {"scored": names, "rows": rows, "sentences": _sentences(interference, say)}


def _name(scored: str, say: Words) -> str:
    return say("general text") if scored == GENERAL else scored


def _cell(cell: Document | None) -> dict[str, str]:
    """Change of the loss; harmed or helped where the interval says so."""
    if cell is None:
        return {"text": "–", "state": ""}
    state = "failed" if cell["low"] > 0 else "passed" if cell["high"] < 0 else ""
    span = f"{cell['low'] * 100:+.0f} … {cell['high'] * 100:+.0f}"
    return {"text": f"{cell['change'] * 100:+.1f} % ({span})", "state": state}


def _sentences(interference: Document, say: Words) -> list[str]:
    proposal = interference.get("proposal") or {}
    groups = proposal.get("together") or []
    if len(groups) > 1:
        together = " | ".join(", ".join(group) for group in groups)
        return [say("better trained apart, as far as the probes show: {groups}", groups=together)]
    return [say("the probes show no harm: these abilities can be trained together")] if groups else []


def mix_rows(interference: Document | None) -> list[tuple[str, str, str, str]]:
    """(ability, reference, loss at the end, share of the draws that would come next)."""
    if not interference or not interference.get("aims"):
        return []
    end, rows = interference.get("end") or {}, []
    for ability, aim in interference["aims"].items():
        loss, share = (end.get(name, {}).get(ability) for name in ("ability_loss", "mix"))
        rows.append((ability, _nats(aim.get("reference")), _nats(loss), percent(share)))
    return rows


def _nats(loss: float | None) -> str:
    return "–" if loss is None else f"{loss:.3f}"


def lift_rows(lift: Document | None, say: Words) -> dict[str, Any]:
    """{"heads": [abilities], "rows": [one a way]}, the base first; {} where nothing was lifted."""
    if not lift:
        return {}
    names = list(lift["before"])
    base = {"way": say("before"), "cells": [percent(lift["before"][n]["right"]) for n in names]}
    rows = [base | {"state": "", "tokens": "–", "best": False}]
    rows += [_way(name, found, names, lift, say) for name, found in lift["routes"].items()]
    return {"ability": lift["ability"], "heads": [_name(name, say) for name in names], "rows": rows}


def _way(route: str, found: Document, names: list[str], lift: Document, say: Words) -> dict[str, Any]:
    weight = f" × {found['weight']:g}" if "weight" in found else ""
    cells = [percent(found["after"][name]["right"]) if name in found["after"] else "–" for name in names]
    state = "passed" if found["kept"] and route not in lift.get("refused", ()) else "failed"
    tokens = f"{found['tokens']:,}" if found.get("tokens") else "–"
    return {
        "way": f"{route}{weight}",
        "cells": cells,
        "state": state,
        "tokens": tokens,
        "best": route == lift["best"],
    }
