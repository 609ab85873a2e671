"""Break a module in many small ways and count the breaks that its tests notice.

`python bench/mutants.py SOURCE TEST... [--most 40] [--seed 0]`: each mutant flips one comparison, sign,
bound, condition or number inside a function; survivors are printed with their line. The tests are collected
once. Each mutant is a forked child, in which the functions of SOURCE get the code of the changed module: no
file changes, nothing is imported twice. Constants outside functions and defaults of arguments stay.
"""

from __future__ import annotations

import argparse
import ast
import copy
import gc
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

TIMEOUT_S = 600  # a mutant may loop
PAIRS = (
    (ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.In, ast.NotIn),
    (ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.And, ast.Or),
)  # fmt: skip
SWAPS: dict[type, type] = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])} | {ast.Pow: ast.Mult}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}


def places(tree: ast.Module) -> list[tuple[int, int]]:
    """Which node of the walk, and which of its changes, for all that may be changed inside functions."""
    inside = _inside(tree)
    walk = enumerate(ast.walk(tree))
    return [(place, n) for place, node in walk if node in inside for n in range(len(_changes(node)))]


def mutant(tree: ast.Module, place: int, number: int) -> tuple[int, str, ast.Module]:
    """(line, what was changed, the whole module)."""
    changed = copy.deepcopy(tree)
    node = next(n for i, n in enumerate(ast.walk(changed)) if i == place)
    before = ast.unparse(node)
    _changes(node)[number]()
    ast.fix_missing_locations(changed)
    return node.lineno, f"{before}  ->  {ast.unparse(node)}", changed


def _inside(tree: ast.Module) -> set[ast.AST]:
    """Bodies of functions, without annotations and texts."""
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {n for f in functions for part in f.body for n in ast.walk(part)}
    left_out = [n.annotation for n in inside if isinstance(n, ast.AnnAssign)]
    left_out += [n for n in inside if isinstance(n, ast.JoinedStr)]
    return inside - {n for part in left_out for n in ast.walk(part)}


def _changes(node: Any) -> list[Callable[[], None]]:
    """What may be done to a node, as actions."""
    changes: list[Callable[[], None]] = []
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        changes.append(lambda: node.ops.__setitem__(0, SWAPS[type(node.ops[0])]()))
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPS:
        changes.append(lambda: setattr(node, "op", SWAPS[type(node.op)]()))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        changes.append(lambda: setattr(node, "op", ast.UAdd()))
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        changes.append(lambda: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test)))
    if isinstance(node, ast.Constant) and type(node.value) is bool:
        changes.append(lambda: setattr(node, "value", not node.value))
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        changes.append(lambda: setattr(node, "value", node.value + 1))
    if isinstance(node, ast.Name) and node.id in NAMES:
        changes.append(lambda: setattr(node, "id", NAMES[node.id]))
    return changes


class Mutating:
    """A pytest plugin in place of its loop over the tests."""

    def __init__(self, source: Path, most: int, seed: int) -> None:
        self.source, tree = source, ast.parse(source.read_text("utf-8"))
        every = places(tree)
        picked = sorted(random.Random(seed).sample(every, min(most, len(every))))
        self.picked, self.possible = [mutant(tree, *which) for which in picked], len(every)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if self._killed(session, None):
            pytest.exit("the tests fail without a mutant", 1)
        dead = 0
        for line, change, tree in self.picked:
            if self._killed(session, tree):
                dead += 1
            else:
                print(f"survives: {self.source.name}:{line}  {change}", file=sys.__stderr__, flush=True)
        total = f"{self.source.name}: {dead} of {len(self.picked)} killed, of {self.possible} possible"
        print(total, file=sys.__stderr__, flush=True)
        return True

    def _killed(self, session: pytest.Session, tree: ast.Module | None) -> bool:
        child = os.fork()
        if child:
            return os.waitpid(child, 0)[1] != 0
        signal.alarm(TIMEOUT_S)
        if tree:
            _become(self.source, compile(tree, str(self.source), "exec"))
        for item, following in zip(session.items, [*session.items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.testsfailed:
                os._exit(1)
        os._exit(0)


def _become(source: Path, module: CodeType) -> None:
    """The functions of `source` run the code of the changed module."""
    codes = {}
    waiting = [module]
    while waiting:
        code = waiting.pop()
        codes[code.co_qualname, code.co_firstlineno] = code
        waiting += [c for c in code.co_consts if isinstance(c, CodeType)]
    for function in gc.get_objects():
        if isinstance(function, FunctionType) and function.__code__.co_filename == str(source):
            own = function.__code__
            function.__code__ = codes.get((own.co_qualname, own.co_firstlineno), own)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("tests", nargs="+", help="files of tests, and options of pytest after --")
    parser.add_argument("--most", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    plugin = Mutating(args.source.resolve(), args.most, args.seed)
    sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *args.tests], plugins=[plugin]))


if __name__ == "__main__":
    main()
