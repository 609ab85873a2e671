"""What `pip install .` brings: wheels, bytes, packages, no torch, and how long `--help` takes.

    python bench/install.py [core | serve]

A clean virtual environment; `core` has no extra, `serve` what serving on a CPU needs. Prints one JSON
document; exit 4 where a limit is broken. Needs a package index for the dependencies.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RUNS = 10
LIMITS = {
    "core": {"wheel_bytes": 45_000_000, "packages": 40, "help_s": 0.3},
    "serve": {"wheel_bytes": 150_000_000, "packages": 55, "help_s": 0.3},
}
WORDS = {"core": "steelyard", "serve": "steelyard[serve]"}
HEAVY = {
    "core": ("torch", "transformers", "openvino", "pyarrow", "ray"),
    "serve": ("torch", "transformers", "pyarrow", "ray"),
}


def main() -> int:
    kind = sys.argv[1] if len(sys.argv) > 1 else "core"
    if kind not in LIMITS:
        sys.exit(f"no install {kind!r}; there are {', '.join(LIMITS)}")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), kind)
    found["within"] = {name: found[name] <= limit for name, limit in LIMITS[kind].items()} | {
        "no_heavy": not found["heavy"]
    }
    print(json.dumps(found, indent=2))
    return 0 if all(found["within"].values()) else 4


def measure(folder: Path, kind: str) -> dict[str, Any]:
    """Wheels, an environment of them alone, and `--help` in it."""
    wheels, home = folder / "wheels", folder / "venv"
    constraint = (
        ["--constraint", str(ROOT / "constraints.txt")] if (ROOT / "constraints.txt").exists() else []
    )
    python = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(wheels), *constraint]
    extra = "" if kind == "core" else f"[{kind}]"
    subprocess.run([*python, f"{sources(folder / 'source')}{extra}"], check=True)
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    install = [str(home / "bin" / "pip"), "install", "--quiet", "--no-index", "--find-links", str(wheels)]
    subprocess.run([*install, WORDS[kind]], check=True)
    names = packages(home)
    times = [help_s(home) for _ in range(RUNS + 1)][1:]  # the first compiles and fills the file cache
    return {
        "schema": "steelyard.bench.install/1",
        "install": WORDS[kind],
        "wheel_bytes": sum(wheel.stat().st_size for wheel in wheels.glob("*.whl")),
        "own_wheel_bytes": sum(wheel.stat().st_size for wheel in wheels.glob("steelyard-*.whl")),
        "packages": len(names),
        "names": names,
        "heavy": [name for name in names if name in HEAVY[kind]],
        "help_s": statistics.median(times),
        "help_s_all": times,
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def sources(copy: Path) -> Path:
    """What a wheel is built from, away from the checkout: setuptools leaves a build folder behind."""
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    return copy


def packages(home: Path) -> list[str]:
    """What pip has put there, pip itself and setuptools left out."""
    listed = subprocess.run(
        [str(home / "bin" / "pip"), "list", "--format", "json"], check=True, capture_output=True
    )
    names = [entry["name"].lower() for entry in json.loads(listed.stdout)]
    return sorted(name for name in names if name not in ("pip", "setuptools", "wheel"))


def help_s(home: Path) -> float:
    """Wall seconds of `steelyard --help`."""
    started = time.perf_counter()
    subprocess.run([str(home / "bin" / "steelyard"), "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
