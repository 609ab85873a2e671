"""How often the gate alarms at a service that is right: 3 models x 4 forms x 25 seeds, over HTTP.

    python bench/clean_services.py WORK BASE [--minutes 5] [--models NAME ...] [--forms NAME ...] [--seeds 25]
                                             [--depth quick|full] [--table] [--json]

Models of bench/form_models.py; forms f32 (mode exact), bf16 (fast), int8 and int4, served by steelyard
itself. INT8 and INT4 are held to their own weights. Each seed has its own probes, prompts and draws. One file
a run in WORK/clean: after `--minutes` the bench ends, and the next call goes on. What did not run is not
counted.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from form_models import all_forms_models
from models import TASKS, rows_of

from steelyard import serving
from steelyard.compression import export_form
from steelyard.gate import check, exact_reference
from steelyard.gate.quality.statistics import share

FORMS = {
    "f32": ("bf16", "exact"),
    "bf16": ("bf16", "fast"),
    "int8": ("int8", "int8"),
    "int4": ("int4_rtn", "int4"),
}
ROWS = 10  # task rows that the gate may draw its probes from, a task


def main() -> None:
    args = arguments()
    out = args.work / "clean"
    out.mkdir(parents=True, exist_ok=True)
    if not args.table:
        measure_for(args, out, time.monotonic() + 60 * args.minutes)
    records = [json.loads(f.read_text()) for f in sorted(out.glob("*.json"))]
    result = summary(records)
    print(json.dumps(result) if args.json else lines(result))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--models", nargs="*")
    parser.add_argument("--forms", nargs="*", choices=tuple(FORMS), default=tuple(FORMS))
    parser.add_argument("--seeds", type=int, default=25)
    parser.add_argument("--depth", default="quick", choices=("quick", "full"))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def measure_for(args: argparse.Namespace, out: Path, until_s: float) -> None:
    """Models and forms in turn, a few seeds each, so that any part of the study is a fair part."""
    models = all_forms_models(args.work, args.base)
    names = args.models or list(models)
    for first in range(1, args.seeds + 1, 5):
        for name in names:
            for form in args.forms:
                left = [
                    (seed, file)
                    for seed in range(first, min(first + 5, args.seeds + 1))
                    if not (file := out / f"{name}-{form}-{seed:02}.json").exists()
                ]
                if left and time.monotonic() < until_s:
                    for seed, file in left:
                        if time.monotonic() >= until_s:
                            break
                        _one(args, name, form, models[name], seed, file)
    Held.stop()


class Held:
    """The service and the references of the last model and form: started once for several seeds."""

    key: tuple[str, str] | None = None
    service: Any = None
    references: tuple[Any, Any] | None = None

    @classmethod
    def stop(cls) -> None:
        if cls.service is not None:
            cls.service.stop()
        cls.key = cls.service = cls.references = None


def _one(
    args: argparse.Namespace, name: str, form: str, pair: tuple[Path, Path], seed: int, file: Path
) -> None:
    tuned, base = pair
    stored, mode = FORMS[form]
    ir = args.work / "ir" / f"{name}-{stored}"
    if Held.key != (name, form):
        Held.stop()
        if not (ir / "form.json").exists():
            export_form(tuned, ir, stored)
        served = ir if mode in ("int8", "int4") else None
        engine = "exact" if mode == "exact" else "fast"
        Held.service = serving.start(ir, serving.ServeSettings(mode=engine))
        of = tuned if served else None
        Held.references = exact_reference(tuned, served=served), exact_reference(base, served=served, of=of)
        Held.key = name, form
    assert Held.references
    started, rows = time.monotonic(), [r for t in TASKS for r in rows_of(t, "test", ROWS)]
    verdict = check(
        tuned, Held.service.url, mode=mode, seed=seed, rows=rows,
        served=ir if mode in ("int8", "int4") else None, reference=Held.references[0],
        base_reference=Held.references[1], depth=args.depth,
    )  # fmt: skip
    facts = {
        "model": name, "form": form, "seed": seed, "depth": args.depth, "verdict": verdict.verdict,
        "cause": verdict.cause, "why": verdict.why, "wall_s": round(time.monotonic() - started, 1),
        "failed": [c.name for c in verdict.checks if c.passed is not True],
        "values": {c.name: c.value for c in verdict.checks},
    }  # fmt: skip
    file.write_text(json.dumps(facts, indent=1, sort_keys=True))
    print(name, form, seed, verdict.verdict, verdict.cause or "", facts["wall_s"], "s", flush=True)


def summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    alarms = [f for f in records if f["verdict"] != "passed"]
    cells = {
        f"{model}/{form}": [sum(f["verdict"] != "passed" for f in runs), len(runs)]
        for model, form, runs in _cells(records)
    }
    counted = share(len(alarms), len(records)) if records else None
    return {
        "runs": len(records), "alarmed": len(alarms),
        "share": len(alarms) / len(records) if records else None,
        "high": counted.high if counted else None, "cells": cells,
        "alarms": [{k: f[k] for k in ("model", "form", "seed", "cause", "why", "failed")} for f in alarms],
    }  # fmt: skip


def _cells(records: list[dict[str, Any]]) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    for model, form in sorted({(f["model"], f["form"]) for f in records}):
        yield model, form, [f for f in records if (f["model"], f["form"]) == (model, form)]


def lines(result: dict[str, Any]) -> str:
    text = [f"{result['alarmed']} of {result['runs']} clean services alarmed"]
    text += [f"  {cell:14} {alarmed} of {runs}" for cell, (alarmed, runs) in result["cells"].items()]
    text += [
        f"  {a['model']} {a['form']} seed {a['seed']}: {a['cause']} ({a['failed']})" for a in result["alarms"]
    ]
    return "\n".join(text)


if __name__ == "__main__":
    main()
