from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.hardware import catalogue, named_models, published_constants
from steelyard.planner import Constants, Owned, Request, named_shape, plan
from steelyard.planner.search.fleet import Option, Placement, Pool, Stage, anchored, place, transfer

POOLS = (
    Pool(name="xeon", site="own", usd_per_h=0.5),
    Pool(name="gaudi2", site="own", usd_per_h=1.0),
    Pool(name="h100", site="aws", usd_per_h=6.9),
    Pool(name="tpu", site="google", usd_per_h=1.2),
)
option = st.builds(
    lambda pool, time_s, usd, more: Option(
        pool=pool, devices=1, time_s=time_s, cost_usd=usd, weight=usd + more
    ),
    st.integers(0, len(POOLS) - 1),
    st.floats(1, 5000),
    st.floats(0, 50),
    st.sampled_from([0.0, 0.0, 5.0]),
)
stage = st.builds(
    lambda options, moved: Stage(name="step", options=tuple(options), bytes_out=moved),
    st.lists(option, min_size=1, max_size=5),
    st.sampled_from([0.0, 1e9, 3e10]),
)
limit = st.one_of(st.none(), st.floats(50, 15000))
money = st.one_of(st.none(), st.floats(1, 150))


def every(stages, pools, deadline_s=None, budget_usd=None, at=None, pool=None) -> tuple[bool, float] | None:
    """By trying all: (within the limits, least weight), or (False, least worst factor)."""
    best = None
    for chosen in product(*(s.options for s in stages)):
        if at is not None and chosen[at].pool != pool:
            continue
        moved = [
            transfer(s.bytes_out, pools[a.pool], pools[b.pool])
            for s, a, b in zip(stages[:-1], chosen[:-1], chosen[1:], strict=True)
        ]
        time_s = sum(o.time_s for o in chosen) + sum(m[0] for m in moved)
        cost = sum(o.cost_usd for o in chosen) + sum(m[1] for m in moved)
        weight = sum(o.weight for o in chosen) + sum(m[1] for m in moved)
        worst = max(time_s / deadline_s if deadline_s else 0, cost / budget_usd if budget_usd else 0)
        within = worst <= 1 + 1e-12
        key = (not within, weight if within else worst)
        best = key if best is None else min(best, key)
    return None if best is None else (not best[0], best[1])


def same(placed: Placement | None, tried: tuple[bool, float] | None, deadline_s, budget_usd) -> None:
    assert (placed is None) == (tried is None)
    if placed is None or tried is None:
        return
    assert placed.within == tried[0]
    worst = max(
        placed.time_s / deadline_s if deadline_s else 0, placed.cost_usd / budget_usd if budget_usd else 0
    )
    assert (placed.weight if placed.within else worst) == pytest.approx(tried[1])


@settings(max_examples=80)
@given(st.lists(stage, min_size=1, max_size=5), limit, money)
def test_placing_equals_trying_every_way(stages, deadline_s, budget_usd):
    same(
        place(stages, POOLS, deadline_s, budget_usd),
        every(stages, POOLS, deadline_s, budget_usd),
        deadline_s,
        budget_usd,
    )


@settings(max_examples=80)
@given(st.lists(stage, min_size=1, max_size=4), st.data(), limit, money)
def test_placing_around_one_pool_equals_trying_every_way(stages, data, deadline_s, budget_usd):
    at = data.draw(st.integers(0, len(stages) - 1))
    found = anchored(stages, at, POOLS, deadline_s, budget_usd)
    for pool in range(len(POOLS)):
        tried = every(stages, POOLS, deadline_s, budget_usd, at, pool)
        same(found.get(pool), tried, deadline_s, budget_usd)
        if placed := found.get(pool):
            assert placed.options[at].pool == pool


@settings(max_examples=30)
@given(st.lists(stage, min_size=2, max_size=4))
def test_a_placement_adds_up(stages):
    placed = place(stages, POOLS)
    assert placed is not None and placed.within
    assert placed.time_s == pytest.approx(
        sum(o.time_s for o in placed.options) + sum(t for t, _ in placed.transfers)
    )
    assert placed.cost_usd == pytest.approx(
        sum(o.cost_usd for o in placed.options) + sum(usd for _, usd in placed.transfers)
    )


def test_a_hand_over_on_one_pool_is_free_and_between_providers_is_paid():
    xeon, gaudi, h100, tpu = POOLS
    assert transfer(1e12, gaudi, gaudi) == (0.0, 0.0)
    assert transfer(1e9, xeon, gaudi) == (pytest.approx(0.8), 0.0)
    seconds, dollars = transfer(1e9, h100, tpu)
    assert seconds > 90 and dollars > 0.09
    assert transfer(1e9, xeon, h100)[1] < transfer(1e9, tpu, h100)[1]


# ------------------------------------------------------------------ a row of a recipe's table


CONSTANTS = Constants.from_json(published_constants())


def recipe_request(**words) -> Request:
    shape = named_shape("smollm2-135m", named_models())
    usual = {"name": "demo", "job": "sft", "tokens": 5e5, "finetuning_type": "lora", "recipe": "desk"}
    return Request(shape=shape, **(usual | {"data_bytes": 1e6, "eval_tokens": 1e5} | words))


def rows_of(request: Request) -> dict[str, Any]:
    plans = plan(request, catalogue(), CONSTANTS)
    return {p.device: p for p in plans.plans if p.device not in plans.pruned}


@settings(max_examples=6)
@given(st.sampled_from([5e5, 2e7]), st.sampled_from([1, 32]), st.sampled_from([None, 3600.0]), st.booleans())
def test_a_row_is_what_the_device_alone_takes(tokens, users, deadline_s, full):
    """It said 2 min 14 s for an rtx-4090 whose service had moved, where --device rtx-4090 said 44 s."""
    words = {"finetuning_type": "full"} if full else {}
    request = recipe_request(tokens=tokens, users=users, deadline_s=deadline_s, **words)
    table = rows_of(request)
    for name in ("rtx-4090", "h100-sxm", "gaudi2", "xeon-8480plus"):
        if name not in table or not table[name].fits:
            continue
        (alone,) = plan(replace(request, devices=(name,)), catalogue(), CONSTANTS).plans
        assert {s["device"] for s in table[name].steps} == {name}
        assert table[name].time_s.value == pytest.approx(alone.time_s.value)
        assert table[name].cost_usd.value == pytest.approx(alone.cost_usd.value)


def test_what_is_cheaper_apart_stands_beside_the_row_that_stays():
    row = rows_of(recipe_request())["rtx-4090"]
    assert set(row.apart["steps"]) <= {"clean", "prepare", "compress", "gate", "serve"}
    assert "rtx-4090" not in row.apart["steps"].values()
    assert {s["moved"] for s in row.steps} == {None}


def test_a_step_that_a_device_cannot_do_moves_and_says_so():
    slow = rows_of(recipe_request(users=64, slo={"tpot_s": 0.004}))
    moved = [(p.device, s) for p in slow.values() if p.fits for s in p.steps if s.get("moved")]
    assert moved and all(step["device"] != device for device, step in moved)
    assert {step["moved"] for _, step in moved} == {"it cannot be done here"}


def test_between_devices_of_ones_own_a_step_moves_for_less():
    own = (Owned(device="xeon-8480plus", sockets=2), Owned(device="gaudi2", per_host=8))
    shape = named_shape("llama3-8b", named_models())
    table = rows_of(replace(recipe_request(own=own, data_bytes=1e11), shape=shape))
    steps = {s["step"]: s for s in table["gaudi2"].steps}
    assert (steps["clean"]["device"], steps["clean"]["moved"]) == ("xeon-8480plus", "it costs less there")
