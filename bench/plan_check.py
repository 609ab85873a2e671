"""Predicted against measured, step by step: from `up --json` documents, or from the ledger.

    steelyard up RECIPE --yes --json > up.json; python bench/plan_check.py up.json
    python bench/plan_check.py --ledger            # every row of the user's ledger
    python bench/plan_check.py --ledger --run ID

Exit 1 where a figure is outside its limit: step_s 20 %, peak_rss_bytes 15 %, every wall_s over 5 s, TTFT and
TPOT 25 %. Reused and skipped steps are left out: nothing was measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

LIMITS = {"step_s": 0.20, "peak_rss_bytes": 0.15, "wall_s": 0.25, "ttft_s": 0.25, "tpot_s": 0.25}
SHORTEST_S = 5.0  # a wall_s below it is start-up noise


def main() -> int:
    """Print a table; 1 where a limit is broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("documents", nargs="*", type=Path, help="what `steelyard up --json` printed")
    parser.add_argument("--ledger", action="store_true", help="read the user's ledger instead")
    parser.add_argument("--run", help="only this run of the ledger")
    args = parser.parse_args()
    steps = list(ledger_steps(args.run) if args.ledger else document_steps(args.documents))
    bad = 0
    print(f"{'step':10} {'figure':16} {'predicted':>12} {'measured':>12} {'error':>8}  limit")
    for step, predicted, measured in steps:
        for name, said, was, limit in compared(predicted, measured):
            error = said / was - 1
            over = abs(error) > limit
            bad += over
            mark = "  <- outside" if over else ""
            numbers = f"{said:12.4g} {was:12.4g} {error * 100:+7.1f} %  {limit * 100:.0f} %"
            print(f"{step:10} {name:16} {numbers}{mark}")
    print(f"{len(steps)} steps, {bad} figures outside their limit")
    return 1 if bad or not steps else 0


def compared(
    predicted: Mapping[str, float], measured: Mapping[str, float]
) -> Iterator[tuple[str, float, float, float]]:
    """(figure, predicted, measured, limit) of the figures that have a limit."""
    for name, limit in LIMITS.items():
        said, was = predicted.get(name), measured.get(name)
        if said is None or not was or (name == "wall_s" and max(said, was) < SHORTEST_S):
            continue
        yield name, said, was, limit


def document_steps(paths: list[Path]) -> Iterator[tuple[str, Mapping[str, float], Mapping[str, float]]]:
    for path in paths:
        for step in json.loads(path.read_text(encoding="utf-8"))["steps"]:
            if step["state"] == "done":
                yield step["step"], step["predicted"], step["measured"]


def ledger_steps(run: str | None) -> Iterator[tuple[str, Mapping[str, float], Mapping[str, float]]]:
    from steelyard.run import ledger

    for row in ledger().rows(**({"run": run} if run else {})):
        yield row.step, row.predicted, row.measured


if __name__ == "__main__":
    sys.exit(main())
