"""How well the ratio of two devices of one family is predicted: published pairs, one setup, two devices.

    python bench/ratios.py ../shared/facts/results-dev.csv

The width of the intervals of such ratios in `plan --claims` (KINDRED in planner/published/claims.py).
The constants were fitted to the same rows, so it is what a known family gives.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from steelyard.hardware import catalogue, named_models, published_constants, read_table
from steelyard.planner import Constants, predict_results

FREE = ("id", "device", "value", "note", "url", "date", "confidence", "devices_per_node", "interconnect")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    rows = read_table(parser.parse_args().results, ("id", "device", "value"))
    constants = Constants.from_json(published_constants())
    found = predict_results(rows, catalogue(), named_models(), constants)
    groups: dict[tuple, list[tuple[dict, float]]] = defaultdict(list)
    for row, prediction in zip(rows, found, strict=True):
        if row["value"] and prediction.value:
            setup = tuple(v for k, v in row.items() if k not in FREE)
            groups[setup].append((row, float(np.log(prediction.value / float(row["value"])))))
    errors: dict[str, list[float]] = defaultdict(list)
    for pairs in groups.values():
        for (one, off), (other, its) in itertools.combinations(pairs, 2):
            phase = "train" if one["phase"] in ("pretrain", "finetune") else "serve"
            kin = "kindred" if kind(one) == kind(other) else "unlike"
            if one["device"] != other["device"]:
                errors[f"{phase}/{kin}"].append(abs(off - its))
    told = {
        name: {"pairs": len(e), "median": float(np.median(e)), "80 %": float(np.quantile(e, 0.8))}
        for name, e in sorted(errors.items())
    }
    print(json.dumps(told, indent=1))
    return 0


def kind(row: dict[str, str]) -> str:
    device = catalogue().find(row["device"])
    return "cpu" if device.kind == "cpu" else device.vendor + device.id[:5] * (device.vendor == "Intel")


if __name__ == "__main__":
    raise SystemExit(main())
