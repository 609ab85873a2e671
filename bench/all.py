"""Every figure of the README, each by its own command; `make bench` runs all of them, in about three hours.

    python bench/all.py [NAME ...]          # names: see BENCHES; results in bench/results/NAME.json

A bench whose material is missing (STEELYARD_SHARED) is said to be skipped; a skip is no figure.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
SHARED = Path(os.environ.get("STEELYARD_SHARED") or ROOT.parent / "shared")
WORK = RESULTS / "work"
BASE = WORK / "base"
STEELYARD = [sys.executable, "-m", "steelyard"]
PYTHON = [sys.executable]

PATH_RUN = ["up", "demo/recipe.yaml", "--yes", "--json", "--no-keep", "--workdir", str(WORK / "path")]
CORPUS, PUBLISHED = "bench/data/dev.jsonl.gz", "facts/results-dev.csv"
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
    "plan_check": ([[*PYTHON, "bench/plan_check.py", str(RESULTS / "path.json")]], ""),
    "kill": ([[*PYTHON, "bench/kill.py"]], ""),
    "train": ([[*PYTHON, "bench/base.py", str(BASE)], [*PYTHON, "bench/train.py", str(BASE)]], ""),
    "serve": ([[*PYTHON, "bench/serve.py", "demo"]], ""),
    "start": ([[*PYTHON, "bench/start.py", "demo"]], ""),
    "peers": ([[*PYTHON, "bench/peers.py", *peers()]], ""),
    "matrix_share": ([[*PYTHON, "bench/matrix_share.py", "demo"]], ""),
    "reuse": ([[*PYTHON, "bench/reuse.py", "demo"]], ""),
    "fuzz": ([[*PYTHON, "bench/fuzz.py", "--cases", "10000"]], ""),
    "soak": ([[*PYTHON, "bench/soak.py", "--minutes", "60"]], ""),
    "forms": ([[*PYTHON, "bench/forms.py", "demo"]], "tasks"),
    "clean": ([[*PYTHON, "bench/clean.py", str(SHARED / CORPUS)]], CORPUS),
    "plan_published": ([[*STEELYARD, "validate", str(SHARED / PUBLISHED), "--json"]], PUBLISHED),
    "plan_left_out": ([[*PYTHON, "bench/leave_out.py", str(SHARED / PUBLISHED), "--json"]], PUBLISHED),
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
        (RESULTS / f"{name}.json").write_text(done.stdout, encoding="utf-8")
        if done.returncode:
            return f"failed: exit {done.returncode} of {' '.join(command[:3])}"
    return "ok"


def main() -> int:
    names = sys.argv[1:] or list(BENCHES)
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        sys.exit(f"no bench {unknown[0]!r}; there are {', '.join(BENCHES)}")
    WORK.mkdir(parents=True, exist_ok=True)
    states = {}
    for name in names:
        begun = time.monotonic()
        states[name] = run(name)
        print(f"{name:15} {time.monotonic() - begun:6.0f} s  {states[name]}", flush=True)
    return 1 if any(state.startswith("failed") for state in states.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
