"""Published rows predicted without their source, and without their lineage, device or device family.

python bench/leave_out.py RESULTS.csv... [--phase train|serve] [--quick] [--json]

Training takes a minute, serving fifteen.

Sources: each source under constants fitted on all others; MAPE, median and coverage count each source
equally (a benchmark of 1,668 rows no more than a paper of three). An interval comes without the source too:
from the spreads that the other sources show under constants without both. "Without priors": the same, nothing
being known of a device, family or stack beforehand (`behaviour.csv` holds what is). Lineages: sources of one
house or one code left out together; devices, those with the same dies together; families (nvidia, amd, ...).
Pairs: two rows of one source, model, phase, metric and unit whose other settings differ (any cell of
SETTINGS) and whose values differ by 10 % or more of the smaller; right where the left-out predictions are in
the same order, equal ones are wrong. Beside them the same with the constants as shipped, which have seen the
rows.
--quick: sources and the shipped constants alone, without intervals.

Serving constants are fitted beside serving-silicon.csv of STEELYARD_SHARED, where it is there.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fit_constants import PHASES, published_rows, serving_beside

from steelyard.errors import WrongUse
from steelyard.hardware import catalogue, named_models, published_constants
from steelyard.planner import Constants, LeftOut, leave_out, predict_results, quantile
from steelyard.planner.published.results import source_of

Row = Mapping[str, str]
SAME = ("source", "phase", "model", "metric", "unit")
SETTINGS = (
    "precision", "weight_bits", "kv_bits", "device", "devices", "devices_per_node", "interconnect",
    "framework", "dp", "tp", "pp", "cp", "micro_batch", "global_batch", "seq_len", "prompt_len", "output_len",
    "concurrency", "recompute", "zero_stage", "date",
)  # fmt: skip
APART = 1.1  # of two values: less is within what a repetition differs
# Sources of one house or of one code: what one of them does, its kin do.
LINEAGES = {
    "Megatron": ("Narayanan 2021", "Korthikanti 2022", "MT-NLG", "Megatron-Bridge", "NeMo AutoModel"),
    "Intel's own": ("Intel Gaudi pages", "MLPerf training Gaudi2", "IPEX"),
    "OpenVINO": ("OpenVINO benchmarks", "OpenVINO model server"),
    "GPUStack": ("GPUStack lab", "GPUStack lab, long prompts"),
    "InferenceX": ("InferenceX", "InferenceX Gaudi 3 preview"),
    "vLLM on H100": ("vLLM benchmark", "BLIS vLLM"),
}
LEFT = ("sources", "sources without priors", "lineages", "devices", "families")


@dataclass(frozen=True, slots=True)
class Answer:
    """A row with the log error of its prediction and whether its interval held (None: not asked)."""

    row: Row
    error: float
    held: bool | None


def measure(rows: Sequence[Row], phase: str, quick: bool = False) -> dict[str, Any]:
    """Figures of one phase: what is left out by turns, and the constants as shipped."""
    beside = serving_beside() if phase == "serve" else []
    given: dict[str, Any] = {"devices": catalogue(), "models": named_models(), "beside": beside}
    asked = [r for r in rows if float(r["value"] or 0) > 0]
    ways: dict[str, dict[str, Any]] = {
        "sources": {"intervals": not quick},
        "sources without priors": {"intervals": False, "known": {}},
        "lineages": {"intervals": False, "group": lineage_of},
        "devices": {"intervals": False, "group": device_of},
        "families": {"intervals": False, "group": family_of},
    }
    found = {}
    for name in LEFT[:1] if quick else LEFT:
        left = answers(rows, leave_out(rows, **given, **ways[name]))
        found[name] = scored(left, asked, ways[name].get("group", source_of)) | {"pairs": pairs(left)}
        found[name]["by_family"] = each_scored(left, family_of)
        found[name]["by_metric"] = each_scored(left, lambda r: r["metric"])
    return found | {"as shipped": as_shipped(asked)}


def answers(rows: Sequence[Row], left_out: Sequence[LeftOut]) -> list[Answer]:
    by_id = {r["id"]: r for r in rows}
    return [
        Answer(by_id[i], float(error), None if np.isnan(wide) else bool(abs(error) <= wide))
        for part in left_out
        for i, error, wide in zip(part.ids, part.errors, part.wide, strict=True)
    ]


def as_shipped(rows: Sequence[Row]) -> dict[str, Any]:
    """The same with the constants as shipped."""
    constants = Constants.from_json(published_constants())
    found = predict_results(rows, catalogue(), named_models(), constants)
    seen = [
        Answer(r, float(np.log(p.value / float(r["value"]))), bool(p.low <= float(r["value"]) <= p.high))
        for r, p in zip(rows, found, strict=True)
        if p.value and p.low and p.high
    ]
    return scored(seen, rows, source_of) | {
        "pairs": pairs(seen),
        "by_family": each_scored(seen, family_of),
        "by_metric": each_scored(seen, lambda r: r["metric"]),
    }


# ------------------------------------------------------------------ scores


def scored(found: Sequence[Answer], asked: Sequence[Row], name_of: Callable[[Row], str]) -> dict[str, Any]:
    """Each group counting equally; `coverage_rows` and `mape_rows` count each row."""
    groups = each_scored(found, name_of)
    logs = split(found, name_of)
    shares = {n: np.log1p(np.abs(np.expm1([a.error for a in kin]))) for n, kin in logs.items()}
    off = np.abs(np.expm1([a.error for a in found]))
    return {
        "rows": len(asked),
        "predicted": len(found) / max(1, len(asked)),
        "mape": float(np.mean([g["mape"] for g in groups.values()])),
        "median": float(np.expm1(quantile(shares, 0.5))),
        "coverage": held_share(groups.values()),
        "mape_rows": float(off.mean()),
        "median_rows": float(np.median(off)),
        "coverage_rows": share_held(found),
        "groups": groups,
    }


def held_share(groups: Any) -> float | None:
    """The mean over groups of the share whose interval held."""
    shares = [g["coverage"] for g in groups if g["coverage"] is not None]
    return float(np.mean(shares)) if shares else None


def share_held(kin: Sequence[Answer]) -> float | None:
    held = [a.held for a in kin if a.held is not None]
    return float(np.mean(held)) if held else None


def each_scored(found: Sequence[Answer], name_of: Callable[[Row], str]) -> dict[str, dict[str, Any]]:
    """Rows, MAPE, median, bias and coverage of each group."""
    figures = {}
    for name, kin in sorted(split(found, name_of).items()):
        error = np.array([a.error for a in kin])
        off = np.abs(np.expm1(error))
        figures[name] = {
            "rows": len(kin),
            "mape": float(off.mean()),
            "median": float(np.median(off)),
            "bias": float(np.expm1(error.mean())),
            "coverage": share_held(kin),
        }
    return figures


def pairs(found: Sequence[Answer]) -> dict[str, Any]:
    """How many pairs there are and how many are in the right order, by source, altogether, sources equal."""
    ranked: dict[str, list[bool]] = defaultdict(list)
    for kin in split(found, lambda r: "|".join(r[c] for c in SAME)).values():
        for one, other in itertools.combinations(kin, 2):
            if not any(one.row[c] != other.row[c] for c in SETTINGS):
                continue
            truth = np.log(float(one.row["value"]) / float(other.row["value"]))
            if abs(truth) >= np.log(APART) - 1e-9:
                ranked[source_of(one.row)].append(truth * (truth + one.error - other.error) > 0)
    each = {n: {"pairs": len(r), "right": float(np.mean(r))} for n, r in sorted(ranked.items())}
    every = [right for r in ranked.values() for right in r]
    return {
        "pairs": len(every),
        "right": float(np.mean(every)) if every else None,
        "right_sources_equal": float(np.mean([e["right"] for e in each.values()])) if each else None,
        "sources": each,
    }


def split(found: Sequence[Answer], name_of: Callable[[Row], str]) -> dict[str, list[Answer]]:
    groups: dict[str, list[Answer]] = defaultdict(list)
    for answer in found:
        groups[name_of(answer.row)].append(answer)
    return groups


def family_of(row: Row) -> str:
    try:
        return catalogue().find(row["device"]).family
    except WrongUse:
        return "unknown"


def device_of(row: Row) -> str:
    """The device, by its dies."""
    try:
        device = catalogue().find(row["device"])
    except WrongUse:
        return "unknown"
    return device.die or device.id


def lineage_of(row: Row) -> str:
    return next((name for name, kin in LINEAGES.items() if source_of(row) in kin), source_of(row))


# ------------------------------------------------------------------ print


def show(phase: str, kind: str, found: Mapping[str, Any]) -> None:
    """A line a group, a family, and one for all."""
    for what in ("groups", "by_family", "by_metric"):
        for name, g in found[what].items():
            figures = (
                f"rows {g['rows']:5}  mape {g['mape']:.3f}  median {g['median']:.3f}  bias {g['bias']:+.3f}"
            )
            covered = "" if g["coverage"] is None else f"  coverage {g['coverage']:.2f}"
            print(f"{phase}, {kind}: {what:9} {name:28} {figures}{covered}")
    ranked = found["pairs"]
    for name, e in ranked["sources"].items():
        print(f"{phase}, {kind}: pairs     {name:28} pairs {e['pairs']:5}  right {e['right']:.3f}")
    covered = (
        ""
        if found["coverage"] is None
        else f"coverage {found['coverage']:.3f} (of rows {found['coverage_rows']:.3f}), "
    )
    print(
        f"{phase}, {kind}, groups equal: mape {found['mape']:.3f}, median {found['median']:.3f}; "
        f"of rows {found['mape_rows']:.3f}, {found['median_rows']:.3f}; "
        f"predicted {found['predicted']:.3f}, {covered}"
        f"pairs right {ranked['right']:.3f} of {ranked['pairs']} "
        f"(sources equal {ranked['right_sources_equal']:.3f})"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--phase", choices=sorted(PHASES), action="append")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = {
        phase: measure(published_rows(args.results, PHASES[phase]), phase, args.quick)
        for phase in args.phase or sorted(PHASES, reverse=True)
    }
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    for phase, kinds in found.items():
        for kind, figures in kinds.items():
            show(phase, kind, figures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
