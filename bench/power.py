"""What the gate's verdict on a form is worth: how often a harmless form passes, how often a loss is caught.

    python bench/power.py [--simulations 2000] [--seed 0] [--only NAME] [--json FILE]

Rows of base, tuned and served are drawn, and the gate's own checks (gate/quality/checks.py) judge them under
its own design (gate/quality/design.py) with its looks at growing rows. The base answers 30 % right, the tuned
model 90 %. No model and no service run. Not here: parity (bench/gate.py).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.gate.quality import statistics
from steelyard.gate.quality.checks import against_tuned, quality_checks
from steelyard.gate.quality.design import Design, design_of
from steelyard.gate.quality.scores import RowScore, Scores

BASE_RIGHT, TUNED_RIGHT = 0.30, 0.90
statistics.of_counts = cache(statistics.of_counts)  # the same few counts come again in every judgement


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One form on some abilities: the shares of rows that it gains and loses."""

    name: str
    abilities: int
    held_out: int  # rows of each
    train: int
    gained: float
    lost: tuple[float, ...]  # by ability; the last holds for the rest
    gate: Mapping[str, Any]
    expect: str  # passed or caught

    def lost_of(self, ability: int) -> float:
        return self.lost[min(ability, len(self.lost) - 1)]


def cases() -> Iterator[Case]:
    auto: dict[str, Any] = {"tolerance": "auto", "rows": 400}
    two = {"tolerance": 0.02, "rows": 400}
    for name, train, gate in (
        ("400 rows, auto", 0, auto),
        ("400 rows and training rows, auto", 3600, auto),
        ("400 rows and training rows, 2 points", 3600, two),
        ("400 rows, 2 points", 0, two),
    ):
        one = {"abilities": 3, "held_out": 400, "train": train, "gate": gate}
        limit = _tolerance(3, 400, train, gate)
        yield Case(name=f"{name}: harmless", gained=0.02, lost=(0.02,), expect="passed", **one)
        yield Case(name=f"{name}: equal", gained=0.0, lost=(0.0,), expect="passed", **one)
        yield Case(name=f"{name}: 5 points in one", gained=0.02, lost=(0.07, 0.02), expect="caught", **one)
        lost = (0.02 + limit, 0.02)
        yield Case(
            name=f"{name}: exactly the tolerance in one", gained=0.02, lost=lost, expect="caught", **one
        )
    small = {"abilities": 1, "held_out": 40, "train": 160, "gate": auto}
    yield Case(name="a CSV of 200 rows, auto: harmless", gained=0.02, lost=(0.02,), expect="passed", **small)
    yield Case(name="a CSV of 200 rows, auto: equal", gained=0.0, lost=(0.0,), expect="passed", **small)
    yield Case(name="a CSV of 200 rows, auto: 10 points", gained=0.02, lost=(0.12,), expect="caught", **small)


def _tolerance(abilities: int, held_out: int, train: int, gate: Mapping[str, Any]) -> float:
    names = [str(i) for i in range(abilities)]
    design = design_of(gate, dict.fromkeys(names, held_out), dict.fromkeys(names, train))
    return design.abilities["0"].tolerance


def simulate(case: Case, count: int, seed: int) -> dict[str, Any]:
    """Verdicts of `count` judgements, and the pairs that each took on average."""
    draw = np.random.default_rng(seed)
    names = [str(i) for i in range(case.abilities)]
    design = design_of(case.gate, dict.fromkeys(names, case.held_out), dict.fromkeys(names, case.train))
    verdicts = {"passed": 0, "failed": 0, "undecided": 0}
    pairs = 0
    for _ in range(count):
        verdict, used = judged(case, design, draw)
        verdicts[verdict] += 1
        pairs += used
    passed = verdicts["passed"] / count
    caught = 1 - passed
    return {
        "case": case.name,
        "tolerance": design.abilities["0"].tolerance,
        "passed": passed,
        "caught": caught,
        "undecided": verdicts["undecided"] / count,
        "se": math.sqrt(passed * caught / count),
        "pairs_per_ability": pairs / count / case.abilities,
        "expect": case.expect,
    }


def judged(case: Case, design: Design, draw: np.random.Generator) -> tuple[str, int]:
    """One judgement, look by look as gate/step.py does: (verdict, pairs compared)."""
    states: list[bool | None] = []
    pairs = 0
    for number, ability in enumerate(design.abilities):
        checks, used = _of_ability(case, design, ability, _rows(case, number, draw))
        states += checks
        pairs += used
    return "failed" if False in states else "undecided" if None in states else "passed", pairs


def _of_ability(
    case: Case, design: Design, ability: str, rows: dict[str, list[bool]]
) -> tuple[list[bool | None], int]:
    """The states of all checks of one ability, and the pairs at its last look."""
    sizes, look = design.sizes(ability), 0
    base, tuned, served = (_scores(ability, rows[r], 0, case.held_out) for r in ("base", "tuned", "served"))
    while True:
        first, second = (_scores(ability, rows[r], case.held_out, sizes[look]) for r in ("tuned", "served"))
        more = (first, second)
        decided = against_tuned(tuned, served, ability, design, more, look)[0].passed is not None
        if decided or look + 1 == len(sizes):
            break
        look += 1
    checks = quality_checks(base, tuned, served, case.gate, design, more, {ability: look})
    return [c.passed for c in checks], sizes[look]


def _rows(case: Case, ability: int, draw: np.random.Generator) -> dict[str, list[bool]]:
    """Right or wrong of each role on held-out, then training rows.

    Lost rows are among those that the tuned model has right, gained ones among its wrong ones.
    """
    count = case.held_out + case.train
    tuned = draw.random(count) < TUNED_RIGHT
    moved = draw.random(count)
    lost = moved < case.lost_of(ability) / TUNED_RIGHT
    gained = moved < case.gained / (1 - TUNED_RIGHT)
    roles = {
        "base": draw.random(count) < BASE_RIGHT,
        "tuned": tuned,
        "served": np.where(tuned, ~lost, gained),
    }
    return {role: right.tolist() for role, right in roles.items()}


def _scores(ability: str, right: list[bool], first: int, last: int) -> Scores:
    return Scores(rows=tuple(_score(ability, row, right[row]) for row in range(first, last)))


@cache
def _score(ability: str, row: int, right: bool) -> RowScore:
    return RowScore(row=f"{ability}/{row}", ability=ability, value=float(right), answer_sha256=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--json", type=Path, help="written, or added to where it is there")
    args = parser.parse_args()
    print(f"{args.simulations} judgements a case, seed {args.seed}")
    print(f"{'case':<62} {'tol.':>6} {'passes':>8} {'caught':>8} {'undec.':>8} {'pairs':>7}")
    for number, case in enumerate(cases()):
        if args.only not in case.name:
            continue
        one = simulate(case, args.simulations, args.seed + number)
        print(
            f"{one['case']:<62} {one['tolerance']:>6.1%} {one['passed']:>8.1%} {one['caught']:>8.1%} "
            f"{one['undecided']:>8.1%} {one['pairs_per_ability']:>7.0f}",
            flush=True,
        )
        if args.json:
            add(args.json, one | {"simulations": args.simulations, "seed": args.seed + number})


def add(file: Path, one: dict[str, Any]) -> None:
    """A case into the file, in place of an earlier run of it."""
    cases = json.loads(file.read_text())["cases"] if file.exists() else []
    cases = [case for case in cases if case["case"] != one["case"]] + [one]
    file.write_text(json.dumps({"cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
