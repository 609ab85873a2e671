"""Where transformers is: with TRL, torch and some fifty packages pinned, in an environment of its own.

$STEELYARD_TRL_PYTHON names an interpreter that has it; else it is the one that `steelyard engines install
trl` makes in the user's data folder.
"""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from ...errors import Lacking, Where
from ...places import data_folder

TRL_VARIABLE = "STEELYARD_TRL_PYTHON"
# For whatever runs there: nothing is fetched, nothing is reported.
TRL_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}
PACKAGES = ("torch", "trl", "peft", "transformers", "accelerate", "datasets")
FIND_S = 60.0
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
# The register of causal language models, read and not imported: that would take 3 s.
REGISTER = """
import ast, json
from importlib.util import find_spec
from pathlib import Path
folder = Path(find_spec("transformers").submodule_search_locations[0])
for node in ast.parse((folder / "models/auto/modeling_auto.py").read_text("utf-8")).body:
    names = [getattr(t, "id", "") for t in getattr(node, "targets", ())]
    if names == ["MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"]:
        print(json.dumps([pair.elts[0].value for pair in node.value.args[0].elts]))
"""
# The accelerators that its torch can use, and how many of each.
DEVICES = """
import json
import torch
try:
    import habana_frameworks.torch
except ImportError:
    pass
modules = {name: getattr(torch, name, None) for name in ("cuda", "xpu", "hpu")}
print(json.dumps({n: m.device_count() for n, m in modules.items() if m is not None and m.is_available()}))
"""


def trl_environment() -> Path:
    """The folder of the environment that steelyard itself installs."""
    return data_folder() / "engines" / "trl"


def trl_python() -> Path:
    """The Python that has TRL and transformers."""
    named = os.environ.get(TRL_VARIABLE)
    return Path(os.path.abspath(named)) if named else trl_environment() / "bin" / "python"


def trl_versions() -> dict[str, str]:
    """Of the packages that make its bits, those that the interpreter has; none where it does not run."""
    return dict(_asked(LOOK, *PACKAGES) or {})


def trl_package(name: str) -> str | None:
    """The version of a further package that the interpreter has, of Ray for instance."""
    found = _asked(LOOK, name) or {}
    return str(found[name]) if name in found else None


def check_ray(where: Where | None = None) -> None:
    """Raises Lacking where the interpreter has no Ray, by which several machines train together."""
    if trl_package("ray") is None:
        raise Lacking(
            "cluster.no_ray",
            "several machines need Ray in the environment of trl",
            where=where,
            why=f"{trl_python()} has no package ray",
            hint="steelyard engines install trl --ray",
        )


def trl_missing() -> str | None:
    """Why the environment cannot be used; None where it can."""
    python, found = trl_python(), trl_versions()
    if not found and not python.exists():
        of = (
            f"${TRL_VARIABLE} names {python}"
            if os.environ.get(TRL_VARIABLE)
            else f"it would be {trl_environment()}"
        )
        return f"there is no Python with TRL: {of}"
    lacking = [name for name in PACKAGES if name not in found]
    return f"{python} lacks {', '.join(lacking)}" if lacking else None


def transformers_families() -> frozenset[str]:
    """Every model_type that it loads as a causal language model; none where it is not installed."""
    return frozenset(_asked(REGISTER) or ())


def trl_devices() -> dict[str, int]:
    """Accelerators that its torch can use (cuda, xpu, hpu), and how many; imports torch: 2 s."""
    return dict(_asked(DEVICES) or {})


def _asked(program: str, *words: str) -> Any:
    """What a program under that interpreter prints, as JSON; None where it does not run."""
    python = trl_python()
    if not python.exists():
        return None
    text = _answer(str(python), python.stat().st_mtime_ns, _content_of(python), program, words)
    return json.loads(text) if text else None


def _content_of(python: Path) -> int:
    """Changes when a package of the environment is put in or taken out."""
    folders = sorted(python.parent.parent.glob("lib/python3*/site-packages"))
    return max((folder.stat().st_mtime_ns for folder in folders), default=0)


@cache
def _answer(python: str, stamp: int, content: int, program: str, words: tuple[str, ...]) -> str:
    command = [python, "-I", "-c", program, *words]
    try:
        done = subprocess.run(command, capture_output=True, timeout=FIND_S, check=True)
        json.loads(done.stdout)
        return done.stdout.decode()
    except (OSError, subprocess.SubprocessError, ValueError):
        return ""
