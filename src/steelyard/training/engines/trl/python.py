"""Where TRL is: it pins its torch and some fifty packages, in an environment of its own.

$STEELYARD_TRL_PYTHON names an interpreter that has it; else it is the one that `steelyard engines install
trl` makes in the user's data folder.
"""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path

from ....places import data_folder
from ..protocol import TrainCapability

VARIABLE = "STEELYARD_TRL_PYTHON"
PACKAGES = ("torch", "trl", "peft", "transformers", "accelerate", "datasets")
FIND_S = 30.0
DEVICES = ("cpu", "cuda", "xpu", "hpu")
# Asks for versions alone: importing TRL takes seconds.
LOOK = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def environment() -> Path:
    """The folder of the environment that steelyard itself installs."""
    return data_folder() / "engines" / "trl"


def interpreter() -> Path:
    """The Python that runs the engine."""
    named = os.environ.get(VARIABLE)
    return Path(os.path.abspath(named)) if named else environment() / "bin" / "python"


def versions() -> dict[str, str]:
    """Of the packages that make its bits, those that the interpreter has; none where it does not run."""
    python = interpreter()
    stamp = python.stat().st_mtime_ns if python.exists() else 0
    return dict(_versions(str(python), stamp, _content_of(python)))


def _content_of(python: Path) -> int:
    """Changes when a package of the environment is put in or taken out."""
    folders = sorted(python.parent.parent.glob("lib/python3*/site-packages"))
    return max((folder.stat().st_mtime_ns for folder in folders), default=0)


@cache
def _versions(python: str, stamp: int, content: int) -> tuple[tuple[str, str], ...]:
    command = [python, "-I", "-c", LOOK, *PACKAGES]
    try:
        done = subprocess.run(command, capture_output=True, timeout=FIND_S, check=True)
        return tuple(sorted(json.loads(done.stdout).items()))
    except (OSError, subprocess.SubprocessError, ValueError):
        return ()


def missing() -> str | None:
    """Why the engine cannot run here; None where it can."""
    python, found = interpreter(), versions()
    if not found and not python.exists():
        of = f"${VARIABLE} names {python}" if os.environ.get(VARIABLE) else f"it would be {environment()}"
        return f"there is no Python with TRL: {of}"
    lacking = [name for name in PACKAGES if name not in found]
    return f"{python} lacks {', '.join(lacking)}" if lacking else None


def trl_capability() -> TrainCapability:
    """What the child does, where it is installed. Whatever transformers loads is a family of it."""
    return TrainCapability(
        stages=("sft", "pt"),
        finetuning_types=("lora", "full"),
        families=None,
        devices=DEVICES,
        untested=DEVICES[1:],
        unusable=missing(),
        versions=versions(),
    )
