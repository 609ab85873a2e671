"""From the shell to a plan: the whole catalogue for a recipe, and for a job told by flags.

    python bench/plan_shell.py [--runs 7]

The first plan of a recipe counts its data; later ones find the counts kept. Wall time is what a user waits,
CPU time what is left of it on a machine with other work. Sources are compiled before, as pip does.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STEELYARD = [sys.executable, "-m", "steelyard"]
FLAGS = ["plan", "--model", "llama3-70b", "--job", "sft", "--tokens", "1e9", "--json"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STEELYARD_CACHE"] = str(Path(folder) / "cache")
        os.environ["PYTHONPYCACHEPREFIX"] = str(Path(folder) / "compiled")
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        measured(FLAGS, 1), measured(["plan", "--help"], 1)  # each source compiled
        subprocess.run([sys.executable, str(ROOT / "demo" / "make_data.py"), folder], check=True)
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_bytes((ROOT / "demo" / "recipe.yaml").read_bytes())
        told = {
            "first plan of a recipe": measured(["plan", str(recipe), "--json"], 1),
            "plan of a recipe": measured(["plan", str(recipe), "--json"], runs),
            "plan by flags": measured(FLAGS, runs),
            "help": measured(["plan", "--help"], runs),
        }
    print(json.dumps({"cores": os.cpu_count(), "load": os.getloadavg()[0]} | told, indent=1))
    return 0


def measured(words: list[str], runs: int) -> dict[str, float]:
    """Median and least of wall and CPU seconds; what the planner alone says that it took."""
    walls, cpus, out = [], [], b""
    for _ in range(runs):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        out = subprocess.run([*STEELYARD, *words], check=True, capture_output=True).stdout
        walls.append(time.perf_counter() - began)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    told = {"wall_s": statistics.median(walls), "least_wall_s": min(walls), "cpu_s": statistics.median(cpus)}
    if words[-1] == "--json":
        document = json.loads(out)
        told |= {"search_s": document["wall_s"], "devices": len(document["plans"])}
        told |= {"considered": document["considered"]}
    return told


if __name__ == "__main__":
    raise SystemExit(main())
