"""The code in a key: which rooms and engines a step runs through, by their imports; what changes it."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from steelyard.artefact import code_of, key_of
from steelyard.artefact.code import BRINGS, DISTRIBUTIONS, PACKAGE
from steelyard.errors import Lacking

TINY = {
    "__init__.py": "",
    "base.py": "import numpy\n",
    "quiet.py": "",
    "model/__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .net import load\n"
    "    from .hub import pull\nFILES = {'load': 'net', 'pull': 'hub'}\n",
    "model/net.py": "from .. import base\n\ndef load():\n    import torch\n",
    "model/hub.py": "import httpx\nfrom .. import quiet\n\ndef pull(): ...\n",
    "model/sizes.json": "{}",
    "train/__init__.py": "from .step import train\n",
    "train/step.py": "from typing import TYPE_CHECKING\nfrom ..model import load\nif TYPE_CHECKING:\n"
    "    from ..serve import Served\n\ndef train(): ...\n",
    "serve/__init__.py": "from .start import start\n",
    "serve/start.py": "COMMAND = ['-m', f'{__package__}.child']\n\ndef start(): ...\n",
    "serve/child.py": "import openvino_genai\n",
    "serve/other.py": "import transformers\n",
    "drive/__init__.py": "from .table import up\n",
    "drive/table.py": "from .child import run\n\ndef up(): ...\n",
    "drive/child.py": "from .. import base\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A small package of the same build, and a cache of its own."""
    monkeypatch.setenv("STEELYARD_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "tiny"
    for name, text in TINY.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def changed(package: Path, name: str, text: str = "# other\n") -> Path:
    """A copy of the package with one file changed."""
    copy = package.parent / f"copy-{len(list(package.parent.iterdir()))}" / package.name
    shutil.copytree(package, copy)
    with (copy / name).open("a", encoding="utf-8") as file:
        file.write(text)
    return copy


def test_rooms_and_engines_follow_from_what_is_imported(package):
    train, serve = code_of("train:train", root=package), code_of("serve:start", root=package)
    assert set(train["rooms"]) == {"train", "model", "base"}
    assert {"torch", "numpy"} <= set(train["engines"]) and "httpx" not in train["engines"]
    assert set(serve["rooms"]) == {"serve"}
    assert {"openvino_genai", *BRINGS["openvino_genai"]} <= set(serve["engines"])
    assert "transformers" not in serve["engines"]  # the door gives out `start` alone


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("train/step.py", {"train"}),
        ("model/net.py", {"train"}),
        ("model/hub.py", {"train"}),  # a room is hashed whole
        ("model/sizes.json", {"train"}),  # its data too
        ("base.py", {"train", "child"}),
        ("serve/child.py", {"serve"}),  # started by its name
        ("drive/child.py", {"child"}),
        ("drive/table.py", set()),  # the file beside was entered alone
        ("quiet.py", set()),
    ],
)
def test_a_change_reaches_the_steps_that_run_through_it(package, name, steps):
    calls = {"train": "train:train", "serve": "serve:start", "child": "drive.child"}
    copy = changed(package, name)
    other = {step for step, call in calls.items() if code_of(call, root=copy) != code_of(call, root=package)}
    assert other == steps


def test_a_call_that_is_not_there_is_a_mistake(package):
    with pytest.raises(KeyError, match="nothing"):
        code_of("nothing:train", root=package)


@pytest.mark.parametrize("change", ["another line", "a new file", "a file less"])
def test_code_that_changes_under_a_run_ends_it(package, change):
    """Half of it would be loaded already: no key could say what made the bytes."""
    root = package.parent / "running"
    shutil.copytree(package, root)
    code_of("train:train", root=root)
    if change == "another line":
        (root / "base.py").write_text("import numpy, torch\n")
    elif change == "a new file":
        (root / "new.py").write_text("")
    else:
        (root / "serve" / "other.py").unlink()
    with pytest.raises(Lacking, match="changed while it ran"):
        code_of("model:load", root=root)


def test_the_cache_of_imports_changes_nothing(package, monkeypatch):
    first = code_of("train:train", root=package)
    script = "from pathlib import Path; from steelyard.artefact import code_of; import json\n"
    script += f"print(json.dumps(code_of('train:train', root=Path({str(package)!r}))))"
    for cache in ("cache", "another"):
        env = os.environ | {"STEELYARD_CACHE": str(package.parent / cache)}
        told = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
        assert json.loads(told.stdout) == first, told.stderr
    for file in (package.parent / "cache" / "code").iterdir():
        file.write_text("{broken", encoding="utf-8")
    env = os.environ | {"STEELYARD_CACHE": str(package.parent / "cache")}
    told = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert json.loads(told.stdout) == first, told.stderr


# ------------------------------------------------------------------ of this package

STEPS = {
    "clean": ("data:clean",),
    "train": ("training:train",),
    "compress": ("compression:compress",),
    "gate": ("gate:judge", "gate:exact_reference", "serving:start"),
}


@pytest.mark.parametrize(
    ("room", "steps"),
    [
        ("gate", {"gate"}),
        ("serving", {"gate"}),
        ("training", {"train"}),
        ("compression", {"compress"}),
        ("data", {"clean"}),
        ("errors", set(STEPS)),
        ("cli", set()),
        ("run", set()),
    ],
)
def test_each_room_stands_in_the_keys_of_its_steps(room, steps):
    assert {step for step, calls in STEPS.items() if room in code_of(*calls)["rooms"]} == steps


@pytest.mark.parametrize(
    ("package", "steps"),
    [
        ("openvino", {"compress", "gate"}),
        ("openvino_genai", {"gate"}),
        ("torch", {"train", "compress", "gate"}),
    ],
)
def test_another_version_of_an_engine_is_another_key(monkeypatch, package, steps):
    from steelyard.artefact import code

    def keys() -> dict[str, str]:
        return {step: key_of(step, {}, {}, code_of(*calls)) for step, calls in STEPS.items()}

    before, real = keys(), code._version
    monkeypatch.setattr(code, "_version", lambda name: "99.0" if name == package else real(name))
    after = keys()
    assert {step for step in STEPS if before[step] != after[step]} == steps


def test_every_package_that_is_imported_has_its_version():
    """A name that is not its distribution's would stand in every key as "none"."""
    installed, missing = packages_distributions(), []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {n.split(".")[0] for n in names} - sys.stdlib_module_names - {"steelyard", ""}:
                dists = {d.lower().replace("_", "-") for d in installed.get(name, [])}
                own = DISTRIBUTIONS.get(name, name.replace("_", "-")).lower()
                if dists and own not in dists:
                    missing.append((name, own, dists))
    assert not missing
