"""Exports of a run's tuned model, each loaded back by its own loader and scored by the gate's measures.

    python bench/leaving.py RUN [--to hf gguf:Q8_0 gguf:Q4_K_M ollama:Q8_0 awq] [--rows N] [--out DIR]

RUN: the work folder of a run whose gate passed (`steelyard up demo/recipe.yaml --workdir RUN`). The rows are
the verdict's own held-out ones, or the first N of each ability. Whatever an export loses it is written
(`--unproven`): this is the measure, not the verdict. Beside the scores: bytes, seconds, and the answer of the
verdict. One JSON document; a loader that is not here is named.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from steelyard.artefact import Watch
from steelyard.errors import Problem
from steelyard.run import Order, export_model

DEFAULT = ("hf", "gguf:Q8_0", "gguf:Q4_K_M", "ollama:Q8_0", "awq")
ONE_POINT = 0.01


def export(run: str, target: str, rows: int | None, out: Path) -> dict[str, Any]:
    to, _, form = target.partition(":")
    began = time.perf_counter()
    try:
        order = Order(
            name=run, to=to, form=form or None, out=out / target.replace(":", "-"), rows=rows, unproven=True
        )
        told = export_model(order, Watch()).as_json()
    except Problem as problem:
        return {"target": target, "error": problem.code, "why": problem.why or problem.message}
    lost = told["lost"]
    within = None if lost is None else max(lost.values()) <= ONE_POINT + 1e-9
    return {"target": target, "within_one_point": within, "seconds": time.perf_counter() - began, **told}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--to", nargs="+", default=DEFAULT)
    parser.add_argument("--rows", type=int, default=None)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        out = args.out or Path(place)
        out.mkdir(parents=True, exist_ok=True)
        exports = [export(args.run, target, args.rows, out) for target in args.to]
    print(json.dumps({"run": args.run, "exports": exports}, indent=1))


if __name__ == "__main__":
    main()
