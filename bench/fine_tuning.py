"""Peak memory and rate of fine-tuning runs that are in no fit, on one GPU and sharded over several.

python bench/fine_tuning.py [RESULTS.csv] [--json]    # by default results-dev-memory.csv of STEELYARD_SHARED

Memory: NVML's used memory of the fullest GPU; a run at 97 % of its device shows a ceiling, not a need, and
counts only as one that is told to fit or not. The one free number, what an allocator keeps beside the bytes
of sharded training (RESERVED of training_rows.py), is judged by models left out: the median ratio of the
others in its place. Rates come from the constants as shipped, which have not seen these rows.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from silicon import SHARED

from steelyard.hardware import catalogue, named_models, published_constants, read_table
from steelyard.planner import Constants, Prediction, predict_results, score_results

Row = Mapping[str, str]
CEILING = 0.97  # of the memory that a device shows
GIB_OVER_GB = 2**30 / 1e9  # a card of 80 GB shows 80 GiB
KINDS = ("one GPU", "sharded")


def measure(rows: Sequence[Row]) -> dict[str, Any]:
    """Figures of memory by kind, models left out, and of rates."""
    constants = Constants.from_json(published_constants())
    found = predict_results(rows, catalogue(), named_models(), constants)
    pairs = [(row, p) for row, p in zip(rows, found, strict=True) if p.value]
    memory = [pair for pair in pairs if pair[0]["metric"].startswith("peak_memory")]
    rates = [pair for pair in pairs if not pair[0]["metric"].startswith("peak_memory")]
    scores = score_results([row for row, _ in memory], catalogue(), named_models(), constants)
    off = [abs(p.value / float(row["value"]) - 1) for row, p in rates if p.value]
    return {
        "memory": {kind: of_kind([m for m in memory if kind_of(m[0]) == kind]) for kind in KINDS},
        "runs": len(memory),
        "told_to_fit": scores.groups["memory"]["told_to_fit"],
        "rate": {"rows": len(off), "median": float(np.median(off)), "mape": float(np.mean(off))},
    }


def of_kind(memory: Sequence[tuple[Row, Prediction]]) -> dict[str, Any]:
    """Median error below the ceiling: of all rows, and of each model by what the others' rows say."""
    below = [(row, p) for row, p in memory if not at_ceiling(row)]
    ratio = np.array([float(row["value"]) / (p.value or 1.0) for row, p in below])
    models = np.array([row["model"] for row, _ in below])
    held = [bool(p.low and p.high and p.low <= float(row["value"]) <= p.high) for row, p in below]
    left_out = np.concatenate(
        [np.median(ratio[models != m]) / ratio[models == m] for m in sorted(set(models))]
    )
    return {
        "rows": len(memory),
        "below_ceiling": len(below),
        "median": float(np.median(np.abs(1 / ratio - 1))),
        "median_models_left_out": float(np.median(np.abs(left_out - 1))),
        "coverage": float(np.mean(held)),
    }


def at_ceiling(row: Row) -> bool:
    shown = catalogue().find(row["device"]).memory_bytes
    most = float(row["value"]) / (shown * GIB_OVER_GB), float(row["value"]) / shown
    return most[0] >= CEILING or (row["device"] == "l40s" and most[1] >= CEILING)  # GDDR6 with ECC: less


def kind_of(row: Row) -> str:
    return KINDS[row["devices"] != "1"]


def main() -> int:
    """Print the figures; exit 5 with a clear word where the table is not there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, nargs="?", default=SHARED / "facts" / "results-dev-memory.csv")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not args.table.exists():
        print(f"skipped: {args.table} is not there (STEELYARD_SHARED)", file=sys.stderr)
        return 5
    found = measure(read_table(args.table, ("id", "value")))
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    for kind, figures in found["memory"].items():
        print(f"{kind:8}", "  ".join(f"{k} {v:.3g}" for k, v in figures.items()))
    print(f"told to fit {found['told_to_fit']:.3f} of {found['runs']} runs that ran; rate", found["rate"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
