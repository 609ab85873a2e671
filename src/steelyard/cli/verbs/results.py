"""validate RESULTS.csv: the planner's error on measured rows, by phase and device family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import Where, WrongUse
from ...units import show_share
from ..telling.messages import say
from ..telling.options import OPTIONS
from ..telling.output import note, result, table

WORST = 10
COLUMNS = {
    "rows": "",
    "in_fit": "share",
    "predicted": "share",
    "mape": "share",
    "median": "share",
    "within_20": "share",
    "bias": "share",
    "coverage": "share",
    "told_to_fit": "share",
}


def score_results(path: Path, predictions: Path | None, calibrate: Path | None) -> None:
    """Predict every row, score those with a value; predictions see neither `value` nor `note`."""
    from ...hardware import catalogue, fitted_rows, named_models, numbered, published_constants
    from ...planner import COLUMNS as NEEDED
    from ...planner import Constants, score_results

    _check_there(path, predictions)
    numbered_rows = numbered(path, NEEDED)
    lines, rows = [line for line, _ in numbered_rows], [row for _, row in numbered_rows]
    if rows and "expected" in rows[0] and not predictions and not calibrate:
        return _against_expected(path, lines, rows)
    published = Constants.from_json(published_constants())
    constants = _calibrated(published, calibrate) if calibrate else published
    scores = score_results(rows, catalogue(), named_models(), constants, fitted_rows())
    if predictions:
        written = {"predictions": [prediction.as_json() for prediction in scores.predictions]}
        predictions.write_text(json.dumps(written, ensure_ascii=False), encoding="utf-8")
    _note_repeated(path, lines, rows)
    _check_cells(path, lines, rows)
    scored = scores.as_json()
    scored["worst"] = described(scored["worst"], rows, scores.predictions)
    document = {"schema": "steelyard.validate_results/1", "predictions": str(predictions or "")} | scored
    result(document, *score_lines(scored))


def _against_expected(path: Path, lines: list[int], rows: list[dict[str, str]]) -> None:
    """An export's figures beside those that were measured: nothing is predicted anew."""
    from ...planner import compared

    for line, row in zip(lines, rows, strict=True):
        try:
            compared([row])
        except WrongUse as error:
            where = Where(str(path), line)
            raise WrongUse(error.code, error.message, where=where, hint=error.hint) from error
    scored = compared(rows)
    counts = {"n": scored["measured"], "rows": len(rows), "inside": scored["inside"]}
    head = ("id", say("expected"), say("80 % interval"), say("known by"), say("measured"), "x", "")
    table_rows = [_expected_row(row) for row in scored["rows"]]
    text = say("{n} of {rows} figures measured, {inside} of them inside their interval", **counts)
    result({"schema": "steelyard.validate_expected/1"} | scored, text, *table(head, table_rows))


def _expected_row(row: dict[str, Any]) -> tuple[str, ...]:
    inside = {True: say("inside"), False: say("outside"), None: say("not measured yet")}
    return (
        row["id"],
        row["expected"],
        f"{row['low']:.4g} .. {row['high']:.4g}",
        say(row["provenance"]),
        row["measured"],
        f"{row['ratio']:.2f}" if row["ratio"] else "-",
        inside[row["inside"]],
    )


def _check_there(path: Path, predictions: Path | None) -> None:
    if predictions and not predictions.parent.is_dir():
        where, hint = Where(field="--predictions"), say("name a file in a folder that is there")
        raise WrongUse("cli.usage", f"there is no folder {predictions.parent}", where=where, hint=hint)
    if not path.exists():
        where, hint = Where(str(path)), say("name a CSV")
        raise WrongUse("results.missing", f"there is no file {path}", where=where, hint=hint)


def _note_repeated(path: Path, lines: list[int], rows: list[dict[str, str]]) -> None:
    """Says which rows have the id of a row above; predictions stand in the order of the file all the same."""
    first: dict[str, int] = {}
    repeated = [
        (line, row["id"])
        for line, row in zip(lines, rows, strict=True)
        if row["id"] and first.setdefault(row["id"], line) != line
    ]
    for line, name in repeated[:WORST]:
        note(f"{path}:{line}, id: {name!r} is the id of line {first[name]} too")
    if len(repeated) > WORST:
        note(f"{len(repeated) - WORST} more rows have the id of a row above")


def _check_cells(path: Path, lines: list[int], rows: list[dict[str, str]]) -> None:
    """Raises WrongUse for the first cell that no reader may guess at; predictions are written by then."""
    from ...planner import cell_faults

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
    from ...hardware import catalogue, named_models, read_table
    from ...planner import COLUMNS as NEEDED
    from ...planner import with_stack

    rows = read_table(path, (*NEEDED, "value"))
    apart = [row | {"id": str(place)} for place, row in enumerate(rows)]
    return with_stack(constants, apart, catalogue(), named_models())


def described(worst: list[dict[str, Any]], rows: Any, predictions: Any) -> list[dict[str, Any]]:
    """The rows farthest off, with what they are of: {"id", "model", "measured", "predicted", "parts"}."""
    scored = []
    for entry in worst:
        row, prediction = rows[entry["place"]], predictions[entry["place"]]
        same = {name: row[name] for name in ("id", "model", "device", "devices", "metric", "unit")}
        figures = {"measured": float(row["value"]), "predicted": prediction.value}
        scored.append({"ratio": entry["ratio"], "parts": entry["parts"]} | same | figures)
    return scored


def score_lines(scored: dict[str, Any]) -> list[str]:
    """How many could be predicted, the table by phase and family, the worst rows, what was refused."""
    groups = {n: g for n, g in scored["groups"].items() if OPTIONS.verbose or not n.startswith("source/")}
    lines = [
        (name, *(_cell(group.get(c), unit) for c, unit in COLUMNS.items())) for name, group in groups.items()
    ]
    headline = say("{predicted} of {rows} rows predicted", predicted=scored["predicted"], rows=scored["rows"])
    out = [headline, *table([say("rows of"), *COLUMNS], lines)] if groups else [headline]
    if scored["in_fit"]:
        out.append(
            say(
                "{n} of the rows were in the fit: of them this tells how well it describes, not predicts",
                n=scored["in_fit"],
            )
        )
    if scored["worst"]:
        head = ("id", say("model"), say("device"), say("measured"), say("predicted"), "x", say("mostly"))
        out += [say("farthest off:"), *table(head, [_worst_row(w) for w in scored["worst"]])]
    refused = sorted(scored.get("refused", {}).items(), key=lambda kv: -kv[1])
    if refused:
        out += [say("not predicted:"), *table((say("rows"), say("why")), [(n, why) for why, n in refused])]
    return out


def _worst_row(w: dict[str, Any]) -> tuple[Any, ...]:
    part = max(w["parts"], key=w["parts"].__getitem__) if w.get("parts") else ""
    what = f"{w['devices']} x {w['device']}"
    return (w["id"], w["model"], what, w["measured"], w["predicted"], f"{w['ratio']:.2f}", part)


def _cell(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return show_share(value) if unit == "share" else f"{value:.0f}"
