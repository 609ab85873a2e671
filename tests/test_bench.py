"""The benchmarks name what the rooms have: a name that moved would be noticed years later."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "bench").glob("*.py"))


def imported(script: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of each import from steelyard, inside functions too."""
    for node in ast.walk(ast.parse(script.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "steelyard":
            yield from ((str(node.module), alias.name) for alias in node.names)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_what_a_benchmark_imports_is_there(script):
    for module, name in imported(script):
        room = importlib.import_module(module)
        assert hasattr(room, name) or find_spec(f"{module}.{name}"), f"{module} has no {name}"
