"""`make demo`: install, make the data, run the main job to a live service, and say how long each part took.

Runs under any Python 3.11+, with nothing installed: the work is done by the commands that a user would type.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = ROOT / ".venv" / "bin"
RECIPE = "demo/recipe.yaml"


def timed(command: list[str]) -> float:
    """Run one command in the checkout, seen as it goes; seconds. Ends the demo where it fails."""
    print(f"\n$ {' '.join(command)}", flush=True)
    begun = time.monotonic()
    code = subprocess.call(command, cwd=ROOT)
    if code:
        sys.exit(code)
    return time.monotonic() - begun


def main() -> None:
    seconds = {
        "install": timed(["make", "--no-print-directory", "install"]),
        "data": timed([".venv/bin/python", "demo/make_data.py"]),
        "job": timed([".venv/bin/steelyard", "up", RECIPE, "--yes"]),
    }
    split = ", ".join(f"{name} {s // 60:.0f} min {s % 60:.0f} s" for name, s in seconds.items())
    total = sum(seconds.values())
    print(f"\ndemo: {total // 60:.0f} min {total % 60:.0f} s in all ({split})")


if __name__ == "__main__":
    main()
