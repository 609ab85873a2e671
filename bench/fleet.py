"""Steps of a recipe placed on twelve small mixed fleets, against trying every way.

    python bench/fleet.py [--json]

Each fleet is what a user may own, in hosts; the recipe cleans, prepares, trains, compresses, judges, serves.
Exhaustive search takes every option of every step on every pool; both must come to equal cost (exit 4 if
not).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from steelyard.hardware import catalogue, named_models, published_constants
from steelyard.planner import Constants, Owned, Request, named_shape
from steelyard.planner.search.fleet import Option, Pool, Stage, place, transfer
from steelyard.planner.search.offer import offer_of
from steelyard.planner.search.search import on_device, prepared
from steelyard.planner.search.stages import stages_of

XEON = Owned(device="xeon-8480plus", hosts=4, sockets=2)
OLD_XEON = Owned(device="xeon-8380", hosts=2, sockets=2)
GAUDI2 = Owned(device="gaudi2", hosts=2, per_host=8)
GAUDI3 = Owned(device="gaudi3", hosts=1, per_host=8)
A100 = Owned(device="a100-80-sxm", hosts=1, per_host=8)
H100 = Owned(device="h100-sxm", hosts=1, per_host=8)
L4 = Owned(device="l4", hosts=4, per_host=1)
SOON, CHEAP = {"deadline_s": 2 * 3600.0}, {"budget_usd": 5.0}
# What is owned, and the recipe's limits.
FLEETS = (
    ((XEON,), {}),
    ((XEON, GAUDI2), {}),
    ((XEON, GAUDI2), SOON),
    ((XEON, GAUDI3), SOON | CHEAP),
    ((XEON, GAUDI2, GAUDI3), SOON),
    ((OLD_XEON, A100), {}),
    ((XEON, A100, L4), SOON),
    ((GAUDI2, L4), CHEAP),
    ((XEON, H100), SOON),
    ((OLD_XEON, GAUDI2, H100), SOON | CHEAP),
    ((XEON, GAUDI2, L4), {"objective": "energy"}),
    ((XEON, H100, L4), {"deadline_s": 60.0}),  # no way is in time: the nearest must be found
)


@dataclass(frozen=True)
class Found:
    """A whole way: within the limits or not, what decides, and what it costs."""

    within: bool
    decides: float
    cost_usd: float


def job(own: tuple[Owned, ...], limits: dict) -> Request:
    return Request(
        shape=named_shape("llama3-8b", named_models()), name="llama3-8b", recipe="fleet", own=own, tokens=2e7,
        finetuning_type="lora", users=4, data_bytes=3e9, media_bytes=4e10, eval_tokens=2e4, **limits,
    )  # fmt: skip


def problem(request: Request) -> tuple[list[Stage], list[Pool]]:
    """The recipe's steps with all their ways on the owned hardware."""
    constants = Constants.from_json(published_constants())
    asked, devices = prepared(request, catalogue())
    offers = [offer_of(asked, devices.find(o.device)) for o in asked.own]
    plans = [on_device(asked, offer, constants).plan for offer in offers]
    stages, pools, _ = stages_of(asked, offers, plans, constants)
    return stages, pools


def exhaustive(stages: list[Stage], pools: list[Pool], request: Request) -> tuple[Found, int]:
    """Every option of every step with every other."""
    best, tried = None, 0
    for chosen in product(*(s.options for s in stages)):
        tried += 1
        mine = whole(stages, pools, request, chosen)
        if best is None or (not mine.within, mine.decides) < (not best.within, best.decides):
            best = mine
    assert best is not None
    return best, tried


def step_by_step(stages: list[Stage], pools: list[Pool], request: Request) -> Found:
    """The best way of each step by itself, whatever the hand-over takes."""
    chosen = [min(s.options, key=lambda o: o.weight) for s in stages]
    return whole(stages, pools, request, chosen)


def whole(stages: list[Stage], pools: list[Pool], request: Request, chosen: Sequence[Option]) -> Found:
    moved = [
        transfer(s.bytes_out, pools[a.pool], pools[b.pool])
        for s, a, b in zip(stages[:-1], chosen[:-1], chosen[1:], strict=True)
    ]
    time_s = sum(o.time_s for o in chosen) + sum(m[0] for m in moved)
    cost = sum(o.cost_usd for o in chosen) + sum(m[1] for m in moved)
    weight = sum(o.weight for o in chosen) + pools[0].weight_per_usd * sum(m[1] for m in moved)
    return judged(request, time_s, cost, weight)


def judged(request: Request, time_s: float, cost: float, weight: float) -> Found:
    limits = ((time_s, request.deadline_s), (cost, request.budget_usd))
    worst = max((value / limit for value, limit in limits if limit is not None), default=0.0)
    within = worst <= 1 + 1e-12
    return Found(within, weight if within else worst, cost)


def compared(own: tuple[Owned, ...], limits: dict) -> dict:
    request = job(own, limits)
    stages, pools = problem(request)
    begun = time.perf_counter()
    placed = place(stages, pools, request.deadline_s, request.budget_usd)
    mine_s = time.perf_counter() - begun
    assert placed is not None
    mine = judged(request, placed.time_s, placed.cost_usd, placed.weight)
    begun = time.perf_counter()
    best, tried = exhaustive(stages, pools, request)
    greedy = step_by_step(stages, pools, request)
    return {
        "own": [o.device for o in own],
        "limits": limits,
        "steps": {s.name: pools[o.pool].name for s, o in zip(stages, placed.options, strict=True)},
        "within": mine.within,
        "cost_usd": placed.cost_usd,
        "exhaustive_cost_usd": best.cost_usd,
        "equal": mine.within == best.within
        and abs(mine.decides - best.decides) <= 1e-9 * max(1, best.decides),
        "step_by_step_worse": (not greedy.within, greedy.decides)
        > (not best.within, best.decides * 1.000001),
        "ways": tried,
        "placed_s": mine_s,
        "exhaustive_s": time.perf_counter() - begun,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rows = [compared(own, limits) for own, limits in FLEETS]
    equal = sum(row["equal"] for row in rows)
    if asked.json:
        print(json.dumps({"fleets": rows, "equal": equal, "of": len(rows)}))
    else:
        for row in rows:
            where = ", ".join(f"{step} {device}" for step, device in row["steps"].items())
            same = "=" if row["equal"] else "NOT"
            costs = f"$ {row['cost_usd']:7.3f} {same} $ {row['exhaustive_cost_usd']:7.3f}"
            print(f"{costs} of {row['ways']:6} ways in "
                  f"{row['placed_s'] * 1000:.1f} / {row['exhaustive_s'] * 1000:.0f} ms: {where}")  # fmt: skip
        print(f"equal cost on {equal} of {len(rows)} fleets")
        print(f"step by step is worse on {sum(row['step_by_step_worse'] for row in rows)}")
    return 0 if equal == len(rows) else 4


if __name__ == "__main__":
    sys.exit(main())
