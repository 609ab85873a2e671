from __future__ import annotations

from dataclasses import asdict, replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.hardware import catalogue, named_models, published_constants
from steelyard.planner import Constants, Request, named_shape
from steelyard.planner.physics.training import TrainSetup, offloaded_bytes
from steelyard.planner.search.offer import offer_of
from steelyard.planner.search.sweep import (
    HOST_BYTES,
    KEPT,
    SETTINGS,
    Axes,
    _blocks,
    _evaluated,
    _small,
    exact,
    sweep,
)
from steelyard.planner.search.train_search import job_of

CONSTANTS = Constants.from_json(published_constants())
MODELS = named_models()
few = st.lists(st.sampled_from([1, 2, 4, 8]), min_size=1, max_size=2, unique=True).map(tuple)
axes = st.builds(
    Axes,
    t=few,
    c=st.sampled_from([(1,), (1, 2)]),
    micro_batch=few,
    recompute=st.sampled_from([(0,), (0, 1, 2), (2,)]),
    sp=st.sampled_from([(0,), (0, 1)]),
    p=few,
    v=st.sampled_from([(1,), (1, 2)]),
    zero=st.sampled_from([(1,), (0, 1, 2, 3), (3,)]),
    offload=st.sampled_from([(0,), (0, 1)]),
    d=few,
    global_batch=st.sampled_from([(32,), (24, 64)]),
)


def job(model: str = "llama3-8b", device: str = "h100-sxm", **limits):
    request = Request(shape=named_shape(model, MODELS), job="pretrain", tokens=1e9, **limits)
    offer = offer_of(request, catalogue().find(device))
    return job_of(request, offer, offer.hardware("bf16"), "bf16", CONSTANTS)


def every(values: Axes) -> dict[str, np.ndarray]:
    """All combinations, one by one."""
    named = asdict(values)
    rows = np.array(list(product(*(named[k] for k in SETTINGS))), float)
    return dict(zip(SETTINGS, rows.T, strict=True))


def run_by_some_stack(work, c: dict[str, np.ndarray]) -> np.ndarray:
    each = [{k: v[i] for k, v in c.items()} for i in range(len(c["t"]))]
    return np.array([any(s.runs(one) for s in work.stacks) for one in each])


def possible(work, c: dict[str, np.ndarray]) -> np.ndarray:
    """The rules of division, written once more."""
    setup = TrainSetup(devices=1.0, lora=work.fixed["lora"], **c)
    rounds = c["global_batch"] / (c["d"] * c["micro_batch"])
    devices = c["t"] * c["c"] * c["p"] * c["d"]
    return (
        (rounds % 1 == 0)
        & ((-work.sizes.layers % (c["p"] * c["v"]) <= 2) | (c["v"] == 1))
        & ((c["v"] == 1) | ((c["p"] > 1) & (rounds % c["p"] == 0)))
        & ((c["zero"] < 2) | (c["p"] == 1))
        & run_by_some_stack(work, c)
        & (offloaded_bytes(work.sizes, setup) <= HOST_BYTES)
        & ((c["d"] * c["c"]) % c["e"] == 0)
        & (devices <= work.max_devices)
        & ((c["t"] > 1) | (c["sp"] == c["sp"].min()))
    )


@settings(max_examples=25)
@given(axes, st.sampled_from(["llama3-8b", "gpt-18.4b", "mixtral-8x7b"]), st.sampled_from(["gaudi2", "b200"]))
def test_the_sweep_in_float32_finds_what_float64_finds_one_by_one(values, model, device):
    work = job(model, device)
    found, columns = sweep(work, values), every(values)
    told, even = exact(work, columns), possible(work, columns)
    fits = even & (told["memory"] <= work.room)
    assert found.divide == even.sum()
    assert abs(found.fit - fits.sum()) <= np.sum(np.abs(told["memory"] / work.room - 1) < 1e-3)
    in_time = fits & (told["wall_s"] <= work.latest_s(told["devices"]))
    if not in_time.any():
        return
    spent = np.sort((told["wall_s"] * told["devices"])[in_time])[:KEPT]
    assert found.score[: len(spent)] == pytest.approx(spent[: len(found.score)], rel=1e-3)


@settings(max_examples=25)
@given(axes)
def test_finalists_in_float64_are_within_a_thousandth_of_the_sweep(values):
    work = job()
    found = sweep(work, values)
    if found.best:
        told = exact(work, found.best)
        assert told["wall_s"] * told["devices"] == pytest.approx(found.score.astype(float), rel=1e-3)
        assert np.all(told["memory"] <= work.room * 1.001)


@settings(max_examples=15)
@given(axes)
def test_a_batch_of_one_equals_a_batch_of_many(values):
    work = job("mixtral-8x7b")
    columns = {k: v[:: max(1, len(v) // 5)] for k, v in every(values).items()}
    many = exact(work, columns)
    for i in range(len(columns["t"])):
        one = exact(work, {k: v[i : i + 1] for k, v in columns.items()})
        assert one["wall_s"][0] == pytest.approx(
            np.broadcast_to(many["wall_s"], columns["t"].shape)[i], rel=1e-9
        )
        assert one["memory"][0] == pytest.approx(
            np.broadcast_to(many["memory"], columns["t"].shape)[i], rel=1e-9
        )


def test_blocks_of_any_size_find_the_same(monkeypatch):
    values = Axes(
        t=(1, 2, 4), c=(1, 2), micro_batch=(1, 2), recompute=(0, 2), sp=(0, 1), p=(1, 2, 4), v=(1, 2),
        zero=(1, 3), d=(1, 2, 4, 8), global_batch=(64,),
    )  # fmt: skip
    whole = sweep(job(), values)
    monkeypatch.setattr("steelyard.planner.search.sweep.BLOCK", 50)
    split = sweep(job(), values)
    assert (whole.considered, whole.divide, whole.fit) == (split.considered, split.divide, split.fit)
    assert whole.score == pytest.approx(split.score, rel=1e-6)


def test_blocks_stay_in_float32():
    work = job("mixtral-8x7b")
    for block in _blocks(Axes(t=(1, 2), e=(1, 8), p=(1, 2), zero=(1, 3), offload=(0, 1), d=(8,)), work):
        step_s, memory = _evaluated(block, work, _small(work))
        assert step_s.dtype == memory.dtype == np.float32


def test_a_reference_model_takes_memory_beside_the_trained_one():
    columns = {k: v[:1] for k, v in every(Axes()).items()}
    alone, beside = job(), replace(job(), frozen_params=8e9)
    more = exact(beside, columns)["memory"] - exact(alone, columns)["memory"]
    assert more[0] == pytest.approx(16e9)
