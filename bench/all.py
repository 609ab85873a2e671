"""The figures of docs/figures.md that one command makes here; `make bench` runs all, in about four hours.

    python bench/all.py [NAME ...]          # names: see BENCHES

What a bench printed lies in bench/results/raw/NAME.json. Where tables.py knows the bench, its table goes to
bench/results/NAME.json, from which `make docs` makes docs/figures.md. A bench whose material is missing
(STEELYARD_SHARED) is reported as skipped; a skip is no figure. Not here: what needs an installation of
others (joined), texts gathered by hand (second_set), root or a quiet machine (media); its command stands
over its table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import tables

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
RAW = RESULTS / "raw"
SHARED = Path(os.environ.get("STEELYARD_SHARED") or ROOT.parent / "shared")
WORK = RESULTS / "work"
BASE = WORK / "base"
STEELYARD = [sys.executable, "-m", "steelyard"]
PYTHON = [sys.executable]

PATH_RUN = ["up", "demo/recipe.yaml", "--yes", "--json", "--no-keep", "--workdir", str(WORK / "path")]
CORPUS, PUBLISHED = "bench/data/dev.jsonl.gz", "facts/results-dev.csv"
BOTH = [str(SHARED / PUBLISHED), str(SHARED / "facts/results-dev-2.csv")]
REQUESTS = str(SHARED / "traces/requests-azure-conv.csv")
MEGATRON = "facts/megatron-tables.csv"


def peers() -> list[str]:
    """Where those peers are that need an installation of their own, from the environment."""
    known = {"--vllm": "STEELYARD_VLLM_PYTHON", "--llama": "STEELYARD_LLAMA_SERVER"}
    return [word for flag, name in known.items() if (at := os.environ.get(name)) for word in (flag, at)]


# name -> (commands, what of STEELYARD_SHARED they need)
BENCHES: dict[str, tuple[list[list[str]], str]] = {
    "install": ([[*PYTHON, "bench/install.py"]], ""),
    "install_serve": ([[*PYTHON, "bench/install.py", "serve"]], ""),
    "path": ([[*PYTHON, "demo/make_data.py"], [*STEELYARD, *PATH_RUN]], ""),
    "plan_check": ([[*PYTHON, "bench/plan_check.py", str(RAW / "path.json")]], ""),
    "kill": ([[*PYTHON, "bench/kill.py"]], ""),
    "batches": ([[*PYTHON, "bench/batches.py", "demo"]], ""),
    "train": ([[*PYTHON, "bench/base.py", str(BASE)], [*PYTHON, "bench/train.py", str(BASE)]], ""),
    "serve": ([[*PYTHON, "bench/serve.py", "demo"]], ""),
    "start": ([[*PYTHON, "bench/start.py", "demo"]], ""),
    "peers": ([[*PYTHON, "bench/peers.py", *peers()]], ""),
    "matrix_share": ([[*PYTHON, "bench/matrix_share.py", "demo"]], ""),
    "reuse": ([[*PYTHON, "bench/reuse.py", "demo"]], ""),
    "fuzz": ([[*PYTHON, "bench/fuzz.py", "--cases", "10000"]], ""),
    "soak": ([[*PYTHON, "bench/soak.py", "--minutes", "60"]], ""),
    "silence": ([[*PYTHON, "bench/silence.py", "--json"]], ""),
    "erasure": ([[*PYTHON, "bench/erasure.py", "--rows", "120", "--epochs", "50"]], ""),
    "erasure_served": ([[*PYTHON, "bench/erasure.py", "--rows", "60", "--asked", "20", "--serve"]], ""),
    "doctor": ([[*PYTHON, "bench/doctor.py", "--json"]], ""),
    "rollback": ([[*PYTHON, "bench/rollback.py", str(WORK / "rollback")]], ""),
    "guard": ([[*PYTHON, "bench/guard.py", "--json", "--serve", "demo"]], ""),
    "snp": ([[*PYTHON, "bench/snp.py", "--json"]], ""),
    "sealed_file": ([[*PYTHON, "bench/sealed_file.py", "--json"]], ""),
    "sealed_speed": ([[*PYTHON, "bench/sealed_speed.py", str(BASE)]], ""),
    "faults": ([[*PYTHON, "bench/faults.py"]], ""),
    "faults_ray": ([[*PYTHON, "bench/faults_ray.py"]], ""),
    "bundle": ([[*PYTHON, "bench/bundle.py", "--out", str(RESULTS / "bundle.json")]], ""),
    "router_live": (
        [[*PYTHON, "bench/router_live.py", REQUESTS, "--out", str(RESULTS / "router_live.json")]],
        "traces",
    ),
    "daily": ([[*PYTHON, "bench/daily.py"]], "traces"),
    "fillers": ([[*PYTHON, "bench/fillers.py", str(BASE)]], "tasks"),
    "tide": ([[*PYTHON, "bench/tide.py", str(SHARED / "traces"), "--json"]], "traces"),
    "forms": ([[*PYTHON, "bench/forms.py", "demo"]], "tasks"),
    "clean": ([[*PYTHON, "bench/clean.py", str(SHARED / CORPUS)]], CORPUS),
    "plan_published": ([[*STEELYARD, "validate", str(SHARED / PUBLISHED), "--json"]], PUBLISHED),
    "plan_left_out": ([[*PYTHON, "bench/leave_out.py", *BOTH, "--json"]], PUBLISHED),
    "fine_tuning": ([[*PYTHON, "bench/fine_tuning.py", "--json"]], "facts/results-dev-memory.csv"),
    "known_runs": ([[*PYTHON, "bench/known_runs.py", "--json"]], ""),
    "megatron": ([[*PYTHON, "bench/megatron.py", "--json"]], MEGATRON),  # Calculon: STEELYARD_CALCULON
    "claims": ([[*STEELYARD, "plan", "--claims", "--json"]], ""),
    "ratios": ([[*PYTHON, "bench/ratios.py", str(SHARED / PUBLISHED)]], PUBLISHED),
    "plan_shell": ([[*PYTHON, "bench/plan_shell.py"]], ""),
    "models": ([[*PYTHON, "bench/models.py", str(WORK / "gate"), str(BASE)]], "tasks"),
    "gate": ([[*PYTHON, "bench/gate.py", str(WORK / "gate"), str(BASE)]], "tasks"),
}


def run(name: str) -> str:
    """ "ok", "failed" or "skipped: why"; the last command's standard output is kept."""
    commands, needs = BENCHES[name]
    if needs and not (SHARED / needs).exists():
        return f"skipped: {SHARED / needs} is not there"
    for command in commands:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        (RAW / f"{name}.json").write_text(done.stdout, encoding="utf-8")
        if done.returncode:
            return f"failed: exit {done.returncode} of {' '.join(command[:3])}"
    if name in tables.TITLES:
        title, table = tables.TITLES[name]
        made = tables.record(title, shown(commands[-1]), table(json.loads(done.stdout)))
        tables.write(RESULTS / f"{name}.json", made)
    return "ok"


def shown(command: list[str]) -> str:
    """The command as a reader types it: no path of this machine."""
    words = ["python" if word == sys.executable else word for word in command]
    return (
        " ".join(words).replace(f"{RESULTS}/", "bench/results/").replace("python -m steelyard", "steelyard")
    )


def main() -> int:
    names = sys.argv[1:] or list(BENCHES)
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        sys.exit(f"no bench {unknown[0]!r}; there are {', '.join(BENCHES)}")
    WORK.mkdir(parents=True, exist_ok=True)
    RAW.mkdir(exist_ok=True)
    states = {}
    for name in names:
        begun = time.monotonic()
        states[name] = run(name)
        print(f"{name:15} {time.monotonic() - begun:6.0f} s  {states[name]}", flush=True)
    return 1 if any(state.startswith("failed") for state in states.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
