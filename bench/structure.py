"""The shape of the source: lines of its functions, and lines of tests beside lines of source, by room.

    python bench/structure.py [--json]

A function's lines run from its `def` to its last line; those nested in it count in both. Doors and cycles
are held by tests/test_layers.py. Exit 4 where a function is longer than the goal allows.
"""

from __future__ import annotations

import ast
import json
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE, TESTS = ROOT / "src" / "steelyard", ROOT / "tests"
GOALS = {"p50": 7, "p95": 22, "most": 50}


def main() -> int:
    lengths = {name: lines for path in SOURCE.rglob("*.py") for name, lines in functions(path)}
    ordered = sorted(lengths.values())
    measured = {
        "functions": len(ordered),
        "p50": statistics.median(ordered),
        "p95": ordered[int(0.95 * len(ordered))],
        "most": ordered[-1],
        "longest": sorted(lengths, key=lambda name: -lengths[name])[:5],
        "rooms": {room: shares(room) for room in rooms()},
    }
    if "--json" in sys.argv:
        print(json.dumps(measured, indent=1))
    else:
        show(measured, lengths)
    return 0 if all(measured[name] <= goal for name, goal in GOALS.items()) else 4


def functions(path: Path) -> list[tuple[str, int]]:
    """(place, lines) of each function of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    place = path.relative_to(SOURCE).as_posix()
    return [
        (f"{place}:{node.lineno} {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def rooms() -> list[str]:
    return sorted(path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists())


def shares(room: str) -> dict[str, float]:
    """Lines of source and of tests, and their ratio."""
    source, tests = lines(SOURCE / room), lines(TESTS / room)
    return {"source_lines": source, "test_lines": tests, "tests_a_line": round(tests / max(1, source), 2)}


def lines(folder: Path) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in folder.rglob("*.py"))


def show(measured: dict, lengths: dict[str, int]) -> None:
    goals = ", ".join(f"{name} {measured[name]:.0f} (goal {goal})" for name, goal in GOALS.items())
    print(f"{measured['functions']} functions; lines: {goals}")
    for name in measured["longest"]:
        print(f"  {lengths[name]:4} {name}")
    for room, share in measured["rooms"].items():
        source, tests, ratio = share.values()
        print(f"{room:12} {source:6} lines, {tests:6} of tests, {ratio}")


if __name__ == "__main__":
    sys.exit(main())
