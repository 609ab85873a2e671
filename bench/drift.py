"""What separates a clean service from a drifted one: the study behind the gate's limits.

    python bench/drift.py WORK BASE [--only RUN:MODE ...]     # about 40 s a run and mode; resumable
    python bench/drift.py WORK BASE --plot                    # docs/why/drift.json and drift.svg

Clean and six drifted runs, served in f32 (exact), bf16 (fast) and int8, on four tasks and on the gate's own
probes, measured through the HTTP server against the exact FP32 network of the tuned model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import drifts
import numpy as np
from models import TASKS, all_models, rows_of

from steelyard import serving
from steelyard.compare import right
from steelyard.compression import export_form
from steelyard.gate import exact_reference
from steelyard.gate.base.endpoint import Endpoint
from steelyard.gate.base.modes import LIMITS
from steelyard.gate.parity.checks import checks, measure, observe
from steelyard.gate.parity.judgement import Judgement, explained
from steelyard.gate.parity.probes import probes, task_probes
from steelyard.gate.reference.remembered import Remembered
from steelyard.model import Tokenizer

ROWS = 6  # a task
ANSWER_TOKENS = 96
MODES = {"exact": "bf16", "fast": "bf16", "int8": "int8"}  # mode -> form of the weights
DOCS = Path(__file__).resolve().parents[1] / "docs" / "why"
RUNS = {  # drift -> the cause that is right
    "clean": None,
    "wrong template": "template",
    "extra BOS": "bos",
    "stale adapter": "adapter",
    "wrong base": "base",
    "swapped tokenizer": "tokenizer",
    "over-quantised layer": "precision",
}
LAYER, BITS = 14, 3  # the over-quantised layer


def folder_of(run: str, models: dict[str, Path], work: Path) -> Path:
    """The model folder that is served in a run."""
    out = work / "runs" / run.replace(" ", "-")
    tuned = models["tuned"]
    if out.exists():
        return out
    make = {
        "clean": lambda: drifts.copied(tuned, out),
        "wrong template": lambda: drifts.with_template(tuned, out, drifts.ZEPHYR),
        "extra BOS": lambda: drifts.with_bos(tuned, out),
        "stale adapter": lambda: drifts.copied(models["early"], out),
        "wrong base": lambda: drifts.wrong_base(tuned, models["base"], models["other"], out),
        "swapped tokenizer": lambda: drifts.swapped_tokenizer(tuned, out),
        "over-quantised layer": lambda: drifts.coarse_layer(tuned, out, LAYER, BITS),
        "base for tuned": lambda: drifts.copied(models["base"], out),
        "INT4 for BF16": lambda: drifts.coarse_model(tuned, out, 4),
        "layer scaled by 1.02": lambda: drifts.scaled_layer(tuned, out, LAYER),
    }
    return make[run]()


@contextmanager
def served(folder: Path, mode: str) -> Iterator[str]:
    ir = folder.parent / f"{folder.name}-{MODES[mode]}"
    if not ir.exists():
        export_form(folder, ir, MODES[mode])
    service = serving.start(ir, serving.ServeSettings(mode="exact" if mode == "exact" else "fast"))
    try:
        yield service.url
    finally:
        service.stop()
        shutil.rmtree(ir, ignore_errors=True)


def measured(run: str, mode: str, models: dict[str, Path], work: Path, seed: int = 0) -> dict[str, Any]:
    """Figures of one run in one mode: overall, and for each task; the gate's verdict and cause."""
    tokenizer, reference = Tokenizer(models["tuned"]), exact_reference(models["tuned"])
    rows = [row for task in TASKS for row in rows_of(task, "test", ROWS)]
    asked = [replace(p, max_tokens=ANSWER_TOKENS) for p in task_probes(rows, len(rows), seed)]
    with served(folder_of(run, models, work), mode) as url:
        seen = asyncio.run(_observe(url, [*probes(seed), *asked]))
    samples = measure(seen, tokenizer, reference)
    found = checks(samples, mode)
    base = exact_reference(models["base"])
    judgement = Judgement(
        endpoint=Endpoint(url=url), tokenizer=tokenizer, reference=Remembered(reference), base=base,
        rounded=None, mode=mode, seed=seed, declared=None, depth=None,
    )  # fmt: skip
    verdict = explained(judgement, samples, found)
    by_row = {f"{row['ability']}/{row['id']}": row for row in rows}
    figures = {"probes": _figures([s for s in samples if s.observed.probe.kind != "task"])}
    for task in TASKS:
        own = [s for s in samples if s.observed.probe.name.startswith(f"{task}/")]
        score = [right(by_row[s.observed.probe.name], s.observed.answer.text) for s in own]
        figures[task] = _figures(own) | {"score": float(np.mean(score))}
    return {
        "geometry": _geometry(samples, base),
        "run": run,
        "mode": mode,
        "expected": RUNS.get(run),
        "verdict": verdict.verdict,
        "cause": verdict.cause,
        "why": verdict.why,
        "failed": [c.name for c in verdict.checks if c.passed is False],
        "checks": {c.name: c.value for c in verdict.checks},
        "figures": figures,
    }


async def _observe(url: str, asked: list) -> list:
    async with Endpoint(url=url) as endpoint:
        return await observe(endpoint, asked)


def _geometry(samples: list, base: Any) -> dict[str, float]:
    """Where the served log-probabilities lie towards the base, over open tokens of probes and of tasks."""
    picked = [s for s in samples if len(s.delta)]
    arrays = base([[*s.prompt, *s.answer] for s in picked])
    found = {}
    for kind in ("probe", "task"):
        pairs = [
            (s.delta, a[len(s.prompt) - 1 :, 0][: len(s.delta)] - s.own[: len(s.delta)])
            for s, a in zip(picked, arrays, strict=True)
            if (s.observed.probe.kind == "task") == (kind == "task")
        ]
        served, towards = (np.concatenate([p[i] for p in pairs]) for i in (0, 1))
        away = served - towards
        lengths = [float(np.sqrt((v**2).mean())) for v in (served, towards, away)]
        medians = [float(np.median(np.abs(v))) for v in (served, towards, away)]
        cosine = float((served @ towards) / max(1e-12, np.linalg.norm(served) * np.linalg.norm(towards)))
        found |= {f"{kind}_cosine": cosine}
        for name, length, median in zip(("to_tuned", "tuned_base", "to_base"), lengths, medians, strict=True):
            found |= {f"{kind}_rms_{name}": length, f"{kind}_median_{name}": median}
    return found


def _figures(samples: list) -> dict[str, float | None]:
    """The candidates for a limit, over the tokens of these samples."""
    delta = np.concatenate([s.delta for s in samples] or [np.array([])])
    opened = np.concatenate([s.open_delta for s in samples] or [np.array([])])
    margin = np.concatenate([s.margin for s in samples] or [np.array([])])
    gaps = [abs(s.miscounted or 0) for s in samples]
    aligned = sum(bool(s.answer) for s in samples) / max(1, len(samples))
    found: dict[str, float | None] = {
        "tokens": float(len(delta)),
        "aligned": aligned,
        "prompt_gap": max(gaps),
    }
    if not len(delta):
        return found
    return found | {
        "mean": float(np.abs(delta).mean()),
        "open_tokens": float(len(opened)),
        "open_mean": float(np.abs(opened).mean()) if len(opened) else None,
        "worst": float(np.abs(delta).max()),
        "shift": float(delta.mean()),
        "margin_mean": float(margin.mean()),
        "margin_worst": float(margin.max()),
        "top1": float((margin == 0).mean()),
        "equal": float(np.mean([s.margin.max() <= 1e-3 for s in samples if len(s.margin)])),
    }


def plot(results: list[dict[str, Any]], out: Path) -> None:
    """Each measure by mode: clean against the six; the dashed line is the gate's limit."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "steelyard"
    from matplotlib import pyplot as plt

    shown = (
        ("prompt_gap", "prompt tokens off, worst probe", None),
        ("open_mean", "mean |Δ log-probability| of open tokens, nats", "mean"),
        ("margin_worst", "worst margin of a greedy token, nats", "margin_worst"),
        ("equal", "greedy answers equal, share", None),
    )
    figure, axes = plt.subplots(len(shown), 3, figsize=(13, 12), sharey="row")
    places = ["probes", *TASKS]
    for column, mode in enumerate(MODES):
        for row, (name, title, limit) in enumerate(shown):
            axis = axes[row][column]
            for x, run in enumerate(RUNS):
                of_run = [r for r in results if r["run"] == run and r["mode"] == mode]
                values = [r["figures"][p].get(name) for r in of_run for p in places]
                kept = [v for v in values if v is not None]
                axis.plot(
                    [x] * len(kept), kept, "o", ms=4, color="tab:green" if run == "clean" else "tab:red"
                )
            if limit:
                axis.axhline(getattr(LIMITS[mode], limit), ls="--", color="gray")
            axis.set_yscale("symlog", linthresh=1e-4 if limit else 1)
            axis.set_xticks(
                range(len(RUNS)), list(RUNS) if row == len(shown) - 1 else [], rotation=60, ha="right"
            )
            axis.set_title(f"{title} ({mode})", fontsize=8)
    figure.suptitle("Clean (green) and drifted (red) services; one point a task or probe set; dashed: limit")
    figure.tight_layout(rect=(0, 0, 1, 0.98))
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--plot", action="store_true")
    args = parser.parse_args()
    kept = args.work / "results"
    kept.mkdir(parents=True, exist_ok=True)
    if args.plot:
        # Causes belong to bench/gate.py: here they would be those of the code that the study was to improve.
        left_out = ("cause", "why", "expected")
        found = [json.loads(f.read_text()) for f in sorted(kept.glob("*.json"))]
        results = [{k: v for k, v in r.items() if k not in left_out} for r in found]
        DOCS.mkdir(parents=True, exist_ok=True)
        (DOCS / "drift.json").write_text(json.dumps(results, indent=1, sort_keys=True))
        plot(results, DOCS / "drift.svg")
        return
    models = all_models(args.work, args.base)
    for name in args.only or [f"{run}:{mode}" for run in RUNS for mode in MODES]:
        run, mode = name.split(":")
        file = kept / f"{run.replace(' ', '-')}-{mode}.json"
        if not file.exists():
            file.write_text(json.dumps(measured(run, mode, models, args.work), indent=1, sort_keys=True))
        found = json.loads(file.read_text())
        print(run, mode, "->", found["verdict"], found["cause"], found["why"], flush=True)


if __name__ == "__main__":
    main()
