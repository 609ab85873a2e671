"""Does the gate catch the six seeded drifts with their causes, and leave clean services alone?

    python bench/gate.py WORK BASE [--mode exact|fast|int8] [--clean 20] [--more] [--only-clean] [--json]

WORK holds the study's models (bench/models.py makes them). `--more` adds the drifts of bench/drifts.py that
lie in requests and answers, and three more of the weights. Every run is the stand-alone gate through HTTP.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import drifts
from drift import RUNS, folder_of, served
from models import TASKS, all_models, rows_of

from steelyard.gate import Verdict, check, exact_reference

ROWS = 10  # task rows that the gate may draw its probes from, a task
MORE = {"base for tuned": "base", "INT4 for BF16": "precision", "layer scaled by 1.02": "weights"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("--mode", default="fast", choices=("exact", "fast", "int8"))
    parser.add_argument("--clean", type=int, default=20)
    parser.add_argument("--more", action="store_true")
    parser.add_argument("--only-clean", action="store_true", help="no drifts: look for false alarms alone")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    models = all_models(args.work, args.base)
    ask = gate_of(models, args.mode)
    wanted = {run: cause for run, cause in RUNS.items() if cause} | (MORE if args.more else {})
    if args.only_clean:
        wanted = {}
    caught = [drifted(run, cause, models, args.work, args.mode, ask) for run, cause in wanted.items()]
    clean = []
    with served(folder_of("clean", models, args.work), args.mode) as url:
        if args.more:
            caught += [proxied(name, url, ask) for name in drifts.PROXIES]
        for seed in range(1, args.clean + 1):
            clean.append(told("clean", None, ask(url, seed)))
    right = sum(c["verdict"] == "failed" and c["cause"] == c["expected"] for c in caught)
    alarms = sum(c["verdict"] != "passed" for c in clean)
    result = {
        "mode": args.mode, "drifts": len(caught), "caught": sum(c["verdict"] == "failed" for c in caught),
        "right_cause": right, "clean_runs": len(clean), "false_alarms": alarms, "runs": caught + clean,
    }  # fmt: skip
    if args.json:
        print(json.dumps(result))
    else:
        print(f"{args.mode}: {right} of {len(caught)} drifts caught with the right cause")
        print(f"{args.mode}: {alarms} false alarms in {len(clean)} clean runs")
    raise SystemExit(0 if right == len(caught) and not alarms else 4)


def gate_of(models: dict[str, Path], mode: str) -> Callable[[str, int], Verdict]:
    rows = [row for task in TASKS for row in rows_of(task, "test", ROWS)]
    reference, base = exact_reference(models["tuned"]), exact_reference(models["base"])

    def ask(url: str, seed: int) -> Verdict:
        return check(
            models["tuned"], url, mode=mode, seed=seed, rows=rows, reference=reference, base_reference=base
        )

    return ask


def drifted(
    run: str, cause: str, models: dict[str, Path], work: Path, mode: str, ask: Callable[[str, int], Verdict]
) -> dict[str, Any]:
    with served(folder_of(run, models, work), mode) as url:
        return told(run, cause, ask(url, 0))


def proxied(name: str, url: str, ask: Callable[[str, int], Verdict]) -> dict[str, Any]:
    cause, between = drifts.PROXIES[name]
    with drifts.proxy(url, between) as address:
        return told(name, cause, ask(address, 0))


def told(run: str, cause: str | None, verdict: Verdict) -> dict[str, Any]:
    failed = [c.name for c in verdict.checks if c.passed is False]
    found = {"run": run, "expected": cause, "verdict": verdict.verdict, "cause": verdict.cause}
    mark = "ok" if verdict.cause == cause else "WRONG"
    print(f"{mark:6} {run:30} {verdict.verdict} {verdict.cause} ({verdict.why}) {failed}", file=sys.stderr)
    return found | {"why": verdict.why, "failed": failed}


if __name__ == "__main__":
    main()
