"""Does the gate catch seeded drifts with their causes, and leave clean services alone?

    python bench/gate.py WORK BASE [--mode exact|fast|int8|int4] [--clean 50] [--only NAME ...] [--untuned]
                         [--drifts no] [--json]

WORK holds the study's models (bench/models.py makes them). Every run is the stand-alone gate through HTTP:
71 drifts, 19 of weights, template or tokenizer in a folder that is exported and served, 52 by a proxy in
requests or answers; then clean runs under other seeds, hence other probes. `--untuned` judges BASE itself,
a model that the limits were not drawn from, with no base to compare it to. Results lie in WORK/gate, one
file a run: an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import drifts
from models import TASKS, all_models, rows_of

from steelyard import serving
from steelyard.compression import export_form
from steelyard.gate import Verdict, check, exact_reference
from steelyard.gate.reference.remembered import Remembered

ROWS = 10  # task rows that the gate may draw its probes from, a task
FORMS = {"exact": "bf16", "fast": "bf16", "int8": "int8", "int4": "int4_rtn"}
Models = dict[str, Path]
Make = Callable[[Models, Path], Path]

# name -> (cause that is right, how the folder is made). Those that need another model than the judged one
# are left out where there is none.
FOLDERS: dict[str, tuple[str, Make]] = {
    "zephyr's template": ("template", lambda m, out: drifts.with_template(m["tuned"], out, drifts.ZEPHYR)),
    "llama 3's template": ("template", lambda m, out: drifts.with_template(m["tuned"], out, drifts.LLAMA3)),
    "BOS in front": ("bos", lambda m, out: drifts.with_bos(m["tuned"], out)),
    "stale adapter": ("adapter", lambda m, out: drifts.copied(m["early"], out)),
    "adapter at 80 %": ("adapter", lambda m, out: drifts.stale_adapter(m["tuned"], m["base"], out, 0.8)),
    "adapter on another base": (
        "base",
        lambda m, out: drifts.wrong_base(m["tuned"], m["base"], m["other"], out),
    ),
    "base for tuned": ("base", lambda m, out: drifts.copied(m["base"], out)),
    "half the merges": ("tokenizer", lambda m, out: drifts.swapped_tokenizer(m["tuned"], out)),
    "one layer in 3 bits": ("precision", lambda m, out: drifts.coarse_layer(m["tuned"], out, _middle(m), 3)),
    "INT4 for BF16": ("precision", lambda m, out: drifts.coarse_model(m["tuned"], out, 4)),
    "layer scaled by 1.02": ("weights", lambda m, out: drifts.scaled_layer(m["tuned"], out, _middle(m))),
    "first layer scaled by 1.02": ("weights", lambda m, out: drifts.scaled_layer(m["tuned"], out, 0)),
    "late layer scaled by 0.98": (
        "weights",
        lambda m, out: drifts.scaled_layer(m["tuned"], out, 2 * _middle(m) - 2, 0.98),
    ),
    "one matrix scaled by 1.05": (
        "weights",
        lambda m, out: drifts.scaled_matrix(m["tuned"], out, _middle(m)),
    ),
    "RoPE scaled as Llama 3's": (
        "context",
        lambda m, out: drifts.with_config(m["tuned"], out, rope_scaling=LLAMA3_ROPE),
    ),
    "YaRN factor 4": ("context", lambda m, out: drifts.with_config(m["tuned"], out, rope_scaling=YARN)),
    "noise on every matrix": ("precision", lambda m, out: drifts.noisy_tensors(m["tuned"], out, 0.02)),
    "two heads swapped": ("weights", lambda m, out: drifts.swapped_heads(m["tuned"], out, _middle(m))),
    "another end token": (
        "stop",
        lambda m, out: drifts.with_config(m["tuned"], out, "generation_config.json", eos_token_id=[2, 28]),
    ),
}
LLAMA3_ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048, "attention_factor": 1.0,
}  # fmt: skip
NEEDS = {
    "stale adapter": "early",
    "adapter at 80 %": "base",
    "adapter on another base": "other",
    "base for tuned": "base",
}


PROXIES = {**drifts.PROXIES, **drifts.WHOLE, **drifts.RICH}


def main() -> None:
    args = arguments()
    models = {"tuned": args.base} if args.untuned else all_models(args.work, args.base)
    study = Study(models, args.mode, args.work / "gate" / ("untuned" if args.untuned else "tuned"))
    with study.served(models["tuned"], "clean") as url:
        clean = [study.clean(url, seed) for seed in range(1, args.clean + 1)]
        found = [study.proxied(name, url) for name in PROXIES if chosen(args, name)]
    able = [name for name in FOLDERS if NEEDS.get(name, "tuned") in models]
    found += [study.folder(name) for name in able if chosen(args, name)]
    right = sum(c["verdict"] == "failed" and c["cause"] == c["expected"] for c in found)
    alarms = sum(c["verdict"] != "passed" for c in clean)
    result = {
        "mode": args.mode, "model": models["tuned"].name, "drifts": len(found),
        "caught": sum(c["verdict"] == "failed" for c in found), "right_cause": right,
        "clean_runs": len(clean), "false_alarms": alarms, "runs": found + clean,
    }  # fmt: skip
    if args.json:
        print(json.dumps(result))
    else:
        print(f"{args.mode}: {right} of {len(found)} drifts caught with the right cause")
        print(f"{args.mode}: {alarms} false alarms in {len(clean)} clean runs")
    raise SystemExit(0 if right == len(found) and not alarms else 4)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("--mode", default="fast", choices=tuple(FORMS))
    parser.add_argument("--clean", type=int, default=50)
    parser.add_argument("--only", nargs="*", help="these drifts alone")
    parser.add_argument("--drifts", default="yes", choices=("yes", "no"))
    parser.add_argument("--untuned", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def chosen(args: argparse.Namespace, name: str) -> bool:
    return args.drifts == "yes" and (not args.only or name in args.only)


def _middle(models: Models) -> int:
    return int(json.loads((models["tuned"] / "config.json").read_text())["num_hidden_layers"]) // 2


class Computed(Remembered):
    """Its deviations too: many drifts change only some of the answers."""

    def __init__(self, reference: Any) -> None:
        super().__init__(reference)
        self.deviations: dict[Any, Any] = {}

    def deviation(self, texts: Any) -> Any:
        key = tuple((tuple(t.prompt), tuple(t.answer), tuple(t.served)) for t in texts)
        if key not in self.deviations:
            self.deviations[key] = self.reference.deviation(texts)
        return self.deviations[key]


class Study:
    """Runs of one model in one mode; references are loaded once."""

    def __init__(self, models: Models, mode: str, kept: Path) -> None:
        self.models, self.mode, self.kept = models, mode, kept
        kept.mkdir(parents=True, exist_ok=True)
        self.rows = [row for task in TASKS for row in rows_of(task, "test", ROWS)]
        self.reference: Any = None
        self.base: Any = None

    def folder(self, name: str) -> dict[str, Any]:
        cause, make = FOLDERS[name]

        def run() -> Verdict:
            out = self.kept / "folders" / name.replace(" ", "-")
            if not out.exists():
                out.parent.mkdir(exist_ok=True)
                make(self.models, out)
            with self.served(out, name) as url:
                return self.ask(url, 0)

        return self.told(name, cause, run)

    def proxied(self, name: str, url: str) -> dict[str, Any]:
        cause, between = PROXIES[name]

        def run() -> Verdict:
            with drifts.proxy(url, between) as address:
                return self.ask(address, 0)

        return self.told(name, cause, run)

    def clean(self, url: str, seed: int) -> dict[str, Any]:
        return self.told(f"clean {seed}", None, lambda: self.ask(url, seed))

    def ask(self, url: str, seed: int) -> Verdict:
        form = self.ir("clean") if self.mode == "int4" else None
        if self.reference is None:
            self.reference = Computed(exact_reference(self.models["tuned"], served=form))
            if "base" in self.models:
                of = self.models["tuned"] if form else None
                self.base = Computed(exact_reference(self.models["base"], served=form, of=of))
        return check(
            self.models["tuned"], url, mode=self.mode, seed=seed, rows=self.rows, served=form,
            reference=self.reference, base_reference=self.base,
        )  # fmt: skip

    def ir(self, name: str) -> Path:
        return self.kept / "ir" / f"{name.replace(' ', '-')}-{FORMS[self.mode]}"

    @contextmanager
    def served(self, folder: Path, name: str) -> Iterator[str]:
        if not self.ir(name).exists():
            export_form(folder, self.ir(name), FORMS[self.mode])
        mode = "exact" if self.mode == "exact" else "fast"
        service = serving.start(self.ir(name), serving.ServeSettings(mode=mode))
        try:
            yield service.url
        finally:
            service.stop()

    def told(self, name: str, cause: str | None, run: Callable[[], Verdict]) -> dict[str, Any]:
        file = self.kept / f"{name.replace(' ', '-')}-{self.mode}.json"
        if not file.exists():
            file.write_text(json.dumps(_facts(name, cause, run), indent=1, sort_keys=True))
        found: dict[str, Any] = json.loads(file.read_text())
        mark = "ok" if found["cause"] == cause else "WRONG"
        print(f"{mark:6} {name:30} {found['verdict']} {found['cause']} ({found['why']}) {found['failed']}",
              file=sys.stderr, flush=True)  # fmt: skip
        return found


def _facts(name: str, cause: str | None, run: Callable[[], Verdict]) -> dict[str, Any]:
    started = time.monotonic()
    verdict = run()
    return {
        "run": name, "expected": cause, "verdict": verdict.verdict, "cause": verdict.cause,
        "why": verdict.why, "failed": [c.name for c in verdict.checks if c.passed is False],
        "looked_at": dict(verdict.looked_at),
        "values": {c.name: c.value for c in verdict.checks}, "wall_s": round(time.monotonic() - started, 1),
    }  # fmt: skip


if __name__ == "__main__":
    main()
