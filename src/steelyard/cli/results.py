"""validate RESULTS.csv: the planner's error on measured rows, by phase and device family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import Where, WrongUse
from .messages import say
from .options import OPTIONS
from .output import note, result, table

WORST = 10
COLUMNS = {
    "rows": "",
    "predicted": "share",
    "mape": "share",
    "median": "share",
    "within_20": "share",
    "bias": "share",
    "coverage": "share",
}


def score_results(path: Path, predictions: Path | None, calibrate: Path | None) -> None:
    """Predict every row, score those with a value; predictions see neither `value` nor `note`."""
    from ..hardware import catalogue, named_models, numbered, published_constants
    from ..planner import COLUMNS as NEEDED
    from ..planner import Constants, score_results

    _check_there(path)
    lines, rows = zip(*numbered(path, NEEDED), strict=True) if path.stat().st_size else ((), ())
    constants = Constants.from_json(published_constants())
    if calibrate:
        constants = _calibrated(constants, calibrate)
    scores = score_results(rows, catalogue(), named_models(), constants)
    if predictions:
        found = {"predictions": [prediction.as_json() for prediction in scores.predictions]}
        predictions.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
    _check_cells(path, lines, rows)
    told = scores.as_json()
    worst = worst_rows(rows, scores.predictions)
    document = {"schema": "steelyard.validate_results/1", "predictions": str(predictions or "")} | told
    result(document | {"worst": worst}, *score_lines(told, worst))


def _check_there(path: Path) -> None:
    if not path.exists():
        where, hint = Where(str(path)), say("name a CSV")
        raise WrongUse("results.missing", f"there is no file {path}", where=where, hint=hint)


def _check_cells(path: Path, lines: Any, rows: Any) -> None:
    """Raises WrongUse for the first cell that no reader may guess at; predictions are written by then."""
    from ..planner import cell_faults

    faults = cell_faults(rows)
    if not faults:
        return
    first = faults[0]
    for fault in faults[1:WORST]:
        note(f"{path}:{lines[fault.place]}, {fault.field}: {fault.message}")
    where = Where(str(path), lines[first.place], first.field)
    more = say("{n} more cells are at fault", n=len(faults) - 1) if len(faults) > 1 else None
    raise WrongUse("results.bad_cell", first.message, where=where, why=more, hint=first.hint)


def _calibrated(constants: Any, path: Path) -> Any:
    """The constants with what a few measured rows of one's own stack teach."""
    from ..hardware import catalogue, named_models, read_table
    from ..planner import COLUMNS as NEEDED
    from ..planner import with_stack

    rows = read_table(path, (*NEEDED, "value"))
    return with_stack(constants, rows, catalogue(), named_models())


def worst_rows(rows: Any, predictions: Any) -> list[dict[str, Any]]:
    """The rows farthest off, by the logarithm of predicted over measured."""
    from math import log

    pairs = [
        (r, p) for r, p in zip(rows, predictions, strict=True) if p.value and (r.get("value") or "").strip()
    ]
    told = [
        {
            "id": r["id"],
            "model": r["model"],
            "device": r["device"],
            "devices": r["devices"],
            "measured": float(r["value"]),
            "predicted": p.value,
            "ratio": p.value / float(r["value"]),
            "unit": r["unit"],
        }
        for r, p in pairs
        if float(r["value"]) > 0
    ]
    return sorted(told, key=lambda row: -abs(log(row["ratio"])))[:WORST]


def score_lines(told: dict[str, Any], worst: list[dict[str, Any]]) -> list[str]:
    """How many could be predicted, the table by phase and family, the worst rows, what was refused."""
    groups = {n: g for n, g in told["groups"].items() if OPTIONS.verbose or not n.startswith("source/")}
    lines = [
        (name, *(_cell(group.get(c), unit) for c, unit in COLUMNS.items())) for name, group in groups.items()
    ]
    headline = say("{predicted} of {rows} rows predicted", predicted=told["predicted"], rows=told["rows"])
    out = [headline, *table([say("rows of"), *COLUMNS], lines)] if groups else [headline]
    if worst:
        rows = [
            (
                w["id"],
                w["model"],
                f"{w['devices']} x {w['device']}",
                w["measured"],
                w["predicted"],
                f"{w['ratio']:.2f}",
            )
            for w in worst
        ]
        head = ("id", say("model"), say("device"), say("measured"), say("predicted"), "x")
        out += [say("farthest off:"), *table(head, rows)]
    refused = sorted(told.get("refused", {}).items(), key=lambda kv: -kv[1])
    if refused:
        out += [say("not predicted:"), *table((say("rows"), say("why")), [(n, why) for why, n in refused])]
    return out


def _cell(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return f"{value * 100:.1f} %" if unit == "share" else f"{value:.0f}"
