"""Fit the shipped constants to published results; how far off left-out sources are: bench/leave_out.py.

python bench/fit_constants.py RESULTS.csv...            # prints constants and errors
python bench/fit_constants.py RESULTS.csv... --write    # and writes src/steelyard/hardware/constants.json
                                                # and fitted_rows.csv beside it
python bench/fit_constants.py RESULTS.csv... --write --phase train    # of training rows alone

Serving constants are fitted beside serving-silicon.csv of STEELYARD_SHARED too, where it is there.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from silicon import SHARED, serving

from steelyard.hardware import catalogue, fitted_rows, named_models, read_table
from steelyard.planner import Constants, fit, predict_results, row_key, score_results

PHASES = {"train": {"pretrain", "finetune"}, "serve": {"serve", "decode", "prefill"}}
SERVING = SHARED / "facts" / "serving-silicon.csv"
TARGET = Path(__file__).resolve().parents[1] / "src/steelyard/hardware/constants.json"
FITTED = TARGET.with_name("fitted_rows.csv")


def main() -> None:
    """Fit, print, and with --write ship."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--write", action="store_true")
    parser.add_argument(
        "--phase", choices=sorted(PHASES), help="fit these rows alone, keep the others' entries"
    )
    args = parser.parse_args()
    wanted = PHASES[args.phase] if args.phase else set().union(*PHASES.values())
    rows = published_rows(args.results, wanted)
    beside = serving_beside() if args.phase != "train" else []
    source = ", ".join(
        [*(path.name for path in args.results), *([SERVING.name] if beside else []), "bench/fit_constants.py"]
    )
    constants = fit(rows, catalogue(), named_models(), source=source, beside=beside)
    print(json.dumps(constants.as_json(), indent=1))
    for name, group in score_results(rows, catalogue(), named_models(), constants).groups.items():
        print(f"fitted   {name:36}", "  ".join(f"{k} {v:.3g}" for k, v in group.items()))
    if args.write:
        document = constants.as_json()
        if args.phase:
            document = merged(json.loads(TARGET.read_text(encoding="utf-8")), document, args.phase)
        TARGET.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        before = fitted_rows() if args.phase else frozenset()
        FITTED.write_text("\n".join(["row", *sorted(before | keys_of(rows))]) + "\n", encoding="utf-8")


def keys_of(rows: Sequence[dict[str, str]]) -> set[str]:
    """Keys of the rows that can be predicted, so that were fitted."""
    answers = predict_results(rows, catalogue(), named_models(), Constants())
    return {row_key(r) for r, answer in zip(rows, answers, strict=True) if answer.value}


def published_rows(paths: Sequence[Path], phases: set[str]) -> list[dict[str, str]]:
    """The files' rows of these phases; how much memory a run took is not fitted."""
    columns = ("id", "source", "value")
    rows = [r for path in paths for r in read_table(path, columns) if r["phase"] in phases]
    return [r for r in rows if not r["metric"].startswith("peak_memory")]


def serving_beside() -> list[dict[str, str]]:
    """Times per token of the serving table, [] where it is not there."""
    if not SERVING.exists():
        return []
    return [r for r in serving(SERVING) if r["metric"] == "ms_per_output_token"]


def merged(old: dict[str, Any], new: dict[str, Any], phase: str) -> dict[str, Any]:
    """The other phase's entries of the shipped document beside the new ones of this phase."""
    document = dict(old)
    for field in ("logs", "spreads", "rows"):
        kept = {k: v for k, v in old[field].items() if re.split(r"[.:@]", k)[0] != phase}
        document[field] = dict(sorted((kept | new[field]).items()))
    return document | {"source": new["source"]}


if __name__ == "__main__":
    main()
