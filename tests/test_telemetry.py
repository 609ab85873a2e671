"""Nothing phones home: dependencies' telemetry is off in every process, and nothing is heard of any verb."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from steelyard.telemetry import BLOCKED, VARIABLES, switch_off

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "steelyard"
SCRIPTS = [p for f in ("bench", "demo", "docs") for p in sorted((ROOT / f).rglob("*.py"))]

# ------------------------------------------------------------------ before any import


def test_the_package_switches_telemetry_off_before_all_else():
    body = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body
    words = [
        ast.unparse(node) for node in body if not isinstance(node, ast.Expr) or "'" not in ast.unparse(node)
    ]
    assert words[:2] == [
        "from .telemetry import switch_off as _switch_off_telemetry", "_switch_off_telemetry()"
    ]  # fmt: skip
    imported = imports(ast.parse((PACKAGE / "telemetry.py").read_text(encoding="utf-8")))
    assert {name for name, _ in imported} <= {"__future__", "os", "sys"}


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(module, line) of every import, those in functions too, in the order of lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or "", node.lineno


def test_scripts_import_openvino_only_behind_the_package():
    """Files of the package lie behind it by their place; tests behind conftest.py, which imports it first."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SCRIPTS}
    wrong = [path.name for path, tree in trees.items() if engine_first(tree)]
    wrong += [f"{path.name}: {text}" for path, tree in trees.items() for text in programs(tree)]
    assert wrong == ["silence.py: import openvino"]  # the bench's control: what is counted without us


def engine_first(tree: ast.AST) -> bool:
    """Does it import OpenVINO, and not the package on an earlier line?"""
    lines = sorted((line, name.split(".")[0]) for name, line in imports(tree))
    first = next(
        (name for _, name in lines if name == "steelyard" or name.startswith("openvino")), "steelyard"
    )
    return first != "steelyard"


def programs(tree: ast.AST) -> Iterator[str]:
    """Texts that are programs (for `python -c`) and import OpenVINO without the package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "openvino" in node.value:
            with suppress(SyntaxError):
                if engine_first(ast.parse(node.value)):
                    yield node.value


def test_tests_import_the_package_first():
    names = [
        name for name, _ in imports(ast.parse((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8")))
    ]
    outside = [name for name in names if name.split(".")[0] not in sys.stdlib_module_names]
    assert outside[0] == "steelyard"


def test_what_blocks_says_so_and_a_users_own_choice_stands(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    for name in BLOCKED:
        monkeypatch.delitem(sys.modules, name, raising=False)
    switch_off()
    assert {k: os.environ[k] for k in VARIABLES} == VARIABLES | {"DO_NOT_TRACK": "0"}
    with pytest.raises(ImportError):
        import openvino_telemetry  # noqa: F401


def test_libraries_read_the_variables():
    """By huggingface_hub's own flags: a renamed variable would be silent otherwise."""
    constants = pytest.importorskip("huggingface_hub.constants")
    assert constants.HF_HUB_DISABLE_TELEMETRY and constants.HF_HUB_DISABLE_UPDATE_CHECK


# ------------------------------------------------------------------ each process, with an empty home

DOORS = ("", ".model", ".model.openvino_graph", ".compression", ".serving", ".training", ".run.child.worker")


@pytest.fixture
def reporter(tmp_path: Path) -> dict[str, str]:
    """An empty home, and in front of openvino-telemetry a package that leaves a file there when imported."""
    package = tmp_path / "path" / "openvino_telemetry"
    (package / "backend").mkdir(parents=True)
    (package / "__init__.py").write_text("import pathlib\n(pathlib.Path.home() / 'reported').touch()\n")
    (package / "backend" / "__init__.py").write_text("backend_ga4 = None\n")
    (tmp_path / "home").mkdir()
    ours = os.pathsep.join([str(tmp_path / "path"), str(ROOT / "src")])
    clean = {k: v for k, v in os.environ.items() if k not in VARIABLES and not k.startswith("XDG_")}
    return clean | {"HOME": str(tmp_path / "home"), "PYTHONPATH": ours}


@pytest.mark.parametrize("door", DOORS)
def test_a_process_of_ours_imports_engines_and_leaves_nothing_in_the_home(reporter, door: str):
    pytest.importorskip("openvino_genai")
    program = (
        f"import steelyard{door}, openvino, openvino.tools.ovc, openvino_genai, openvino_tokenizers, sys\n"
        "assert 'openvino_telemetry.backend' not in sys.modules\n"
        "assert openvino.tools.ovc.telemetry.__class__.__module__ == 'openvino.tools.ovc.telemetry_stub'\n"
    )
    subprocess.run([sys.executable, "-c", program], env=reporter, check=True, timeout=120)
    assert list(Path(reporter["HOME"]).rglob("*")) == []


def test_without_the_package_that_home_would_hold_a_file(reporter):
    """The test above can fail: OpenVINO by itself does import what reports."""
    pytest.importorskip("openvino_genai")
    subprocess.run([sys.executable, "-c", "import openvino"], env=reporter, timeout=120, capture_output=True)
    assert [p.name for p in Path(reporter["HOME"]).iterdir()] == ["reported"]


# ------------------------------------------------------------------ in a network namespace


def silence(*words: str) -> dict[str, Any]:
    """bench/silence.py's document; skips where no namespace can be made."""
    done = subprocess.run(
        [sys.executable, "bench/silence.py", "--json", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=840,
    )
    if done.returncode == 5:
        pytest.skip(done.stderr.strip())
    return json.loads(done.stdout)


@pytest.mark.timeout(900)
def test_no_verb_is_heard_outside_loopback():
    """Commands, a service, its engine, its clients; `up` and `gate` take minutes: the bench has them."""
    found = silence("--short")
    assert found["wrong_exits"] == []
    assert (found["lookups"], found["packets"], found["left"]) == (0, 0, 0), found["verbs"]


def test_what_is_counted_there_can_be_heard():
    """OpenVINO without us: it asks for Google's address, dials it and leaves an id in the home."""
    (row,) = silence("--control")["verbs"]
    assert "www.google-analytics.com" in row["lookups"] and row["packets"] and row["left"]


def test_the_bench_runs_every_verb(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import silence as bench

    from steelyard.cli.app import VERBS

    commands = {name.split()[0] for name, _, _ in VERBS}
    run = {verb.words[0] for verb in bench.verbs(1, "http://127.0.0.1:2")}
    assert len(commands) > 15 and commands <= run
