"""Time per output token of serving stacks: how far off an unseen stack is, and one with three rows given.

    python bench/silicon.py [--json] [SERVING.csv]    # by default serving-silicon.csv of STEELYARD_SHARED

A stack is (system, model, engine, precision). Unseen: every row of it is predicted from a fit without it.
Three rows: the most typical in batch, lengths and devices are given, the rest is predicted. Dense models.
AIConfigurator's own figures stand beside as quoted; they are not run here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.hardware import catalogue, model_names, named_models, read_table, resolve
from steelyard.planner import Constants, fit_logs, predict_results, serving_rows, typical_rows, with_stack

SHARED = Path(os.environ.get("STEELYARD_SHARED") or Path(__file__).resolve().parents[2] / "shared")
QUOTED = {  # of AIConfigurator, from the same rows, by its makers' data and settings
    "tpot_mape_own_rows": 0.225,
    "ttft_mape_own_rows": 0.58,
    "tpot_mape_three_rows_given": 0.083,
}
GIVEN = 3
Rows = Sequence[Mapping[str, str]]


def catalogued(path: str) -> str | None:
    """The catalogue's name of a model path, without what says how it was stored."""
    return resolve(model_names(named_models()), path)


def serving(path: Path) -> list[dict[str, str]]:
    """The table's rows of models whose sizes are known, each once."""
    table = list({tuple(r.values()): r for r in read_table(path)}.values())
    return serving_rows(table, named_models(), catalogued)


def errors(rows: Rows, constants: Constants) -> np.ndarray:
    """Predicted over measured, minus one; with it whether the interval held."""
    found = predict_results(rows, catalogue(), named_models(), constants)
    truth = np.array([float(r["value"]) for r in rows])
    low, value, high = (np.array([getattr(p, n) for p in found], float) for n in ("low", "value", "high"))
    return np.stack([value / truth - 1, (low <= truth) & (truth <= high)])


def measure(rows: list[dict[str, str]]) -> dict[str, Any]:
    """Errors of each stack, unseen and with three rows of it given."""
    dense = [r for r in rows if float(named_models()[r["model"]].get("experts") or 0) == 0]
    tpot = [r for r in dense if r["metric"] == "ms_per_output_token"]
    stacks: dict[str, list[dict[str, str]]] = {}
    for row in tpot:
        stacks.setdefault(row["stack"], []).append(row)
    told, blind, given = [], [], []
    for name, kin in stacks.items():
        rest = [r for r in tpot if r["stack"] != name]
        known = Constants(logs=fit_logs(rest, catalogue(), named_models()))
        unseen = errors(kin, known)
        blind.append(unseen)
        entry = {"stack": name, "rows": len(kin), "unseen_mape": float(np.abs(unseen[0]).mean())}
        if len(kin) >= 2 * GIVEN:
            places = typical_rows(kin, GIVEN)
            seen = [kin[i] for i in places]
            left = [r for i, r in enumerate(kin) if i not in places]
            after = errors(left, with_stack(known, seen, catalogue(), named_models()))
            given.append(after)
            entry["given_mape"] = float(np.abs(after[0]).mean())
        told.append(entry)
    return {"stacks": told, "unseen": summed(blind), "three_rows_given": summed(given)}


def summed(parts: list[np.ndarray]) -> dict[str, float]:
    """Over all rows, and with each stack counting equally."""
    off = np.abs(np.concatenate([p[0] for p in parts]))
    return {
        "rows": len(off),
        "mape": float(off.mean()),
        "median": float(np.median(off)),
        "mape_stacks_equal": float(np.mean([np.abs(p[0]).mean() for p in parts])),
        "spread_80": float(np.quantile(np.abs(np.log1p(np.concatenate([p[0] for p in parts]))), 0.8)),
    }


def main() -> int:
    """Print the figures; exit 5 with a clear word where the table is not there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path, nargs="?", default=SHARED / "facts" / "serving-silicon.csv")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not args.table.exists():
        print(f"skipped: {args.table} is not there (STEELYARD_SHARED)", file=sys.stderr)
        return 5
    found = measure(serving(args.table)) | {"aiconfigurator_quoted": QUOTED}
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    for entry in found["stacks"]:
        shown = f"{entry['unseen_mape']:.3f}  {entry.get('given_mape', np.nan):.3f}"
        print(f"{entry['stack']:60} {entry['rows']:5}  {shown}")
    for name in ("unseen", "three_rows_given", "aiconfigurator_quoted"):
        print(f"{name:24}", "  ".join(f"{k} {v:.3g}" for k, v in found[name].items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
