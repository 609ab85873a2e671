"""kill -9 at ten moments spread over a whole `up`: does `up` again finish, every hash as if unbroken?

    python bench/kill.py [--points 10]      # some 12 minutes; prints JSON, exit 1 on a difference

The job is the demo's, cut to some steps and rows so that ten of it fit: same rooms, same files. Every point
has a fresh work folder. The moments lie evenly over the time that the unbroken run took, from start to live
service.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CUT = ["train.0.max_steps=8", "gate.rows=48", "gate.tolerance=0.5", "gate.abilities={}"]
PAYLOADS = ("dataset", "checkpoint", "compressed")  # "equal hashes" covers all up to the compressed model


def command(recipe: Path, workdir: Path, port: int) -> list[str]:
    words = [sys.executable, "-m", "steelyard", "up", str(recipe), "--yes", "--json", "--no-keep"]
    words += ["--workdir", str(workdir)]
    for setting in [*CUT, f"serve.port={port}"]:
        words += ["--set", setting]
    return words


def finish(words: list[str], env: dict[str, str]) -> tuple[dict[str, Any], float]:
    begun = time.monotonic()
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the run ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return json.loads(done.stdout), time.monotonic() - begun


def kill_after(words: list[str], env: dict[str, str], seconds: float) -> str | None:
    """Start, kill, and tell in which step that was; None where it ended before."""
    process = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        process.wait(seconds)
        return None
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    assert process.stderr
    told = [line.split()[0] for line in process.stderr.read().splitlines() if line.endswith(" ...")]
    process.wait()
    return told[-1] if told else "plan"


def hashes(workdir: Path) -> dict[str, str]:
    manifests = [json.loads(f.read_text()) for f in (workdir / "artefacts").glob("[a-z]*/manifest.json")]
    return {m["kind"]: m["hash"] for m in manifests if m["kind"] in PAYLOADS}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=10)
    parser.add_argument("--port", type=int, default=8791)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="steelyard-kill-"))
    env = os.environ | {
        "STEELYARD_LEDGER": str(folder / "ledger.db"),
        "STEELYARD_STATE": str(folder / "state"),
    }
    subprocess.run([sys.executable, "demo/make_data.py", str(folder)], cwd=ROOT, check=True)
    recipe = folder / "recipe.yaml"
    recipe.write_text((ROOT / "demo" / "recipe.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    finish([*command(recipe, folder / "plan", args.port), "--until", "plan"], env)  # calibrates once
    _, whole_s = finish(command(recipe, folder / "unbroken", args.port), env)
    wanted, points = hashes(folder / "unbroken"), []
    for i in range(args.points):
        step = None
        while step is None:  # a run that was quicker than the unbroken one met no kill: again, sooner
            shutil.rmtree(folder / f"killed-{i}", ignore_errors=True)
            words = command(recipe, folder / f"killed-{i}", args.port)
            at_s = (i + 0.5) / args.points * whole_s
            step = kill_after(words, env, at_s)
            whole_s = whole_s if step else 0.9 * whole_s
        finish(words, env)
        points.append(
            {"at_s": round(at_s, 1), "step": step, "equal": hashes(folder / f"killed-{i}") == wanted}
        )
        print(points[-1], file=sys.stderr, flush=True)
    survived = sum(p["equal"] for p in points)
    print(
        json.dumps(
            {"unbroken_s": round(whole_s, 1), "hashes": wanted, "points": points, "survived": survived}
        )
    )
    return 0 if survived == args.points and len(wanted) == len(PAYLOADS) else 1


if __name__ == "__main__":
    sys.exit(main())
