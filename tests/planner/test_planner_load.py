from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.hardware import catalogue, named_models, published_constants
from steelyard.planner import Constants, named_shape
from steelyard.planner.physics.inference import ServeSetup
from steelyard.planner.physics.load import Load, _replay, under_load, waiting_s
from steelyard.planner.physics.sizes import Sizes, hardware_of
from steelyard.planner.published.constants import groups, values

H100 = catalogue().find("h100-sxm")
SIZES = Sizes.of(named_shape("llama3-8b", named_models()), 700)
SETUP = ServeSetup(batch=1.0, prompt=700, output=200)
CONSTANT = values(Constants.from_json(published_constants()), "serve", groups(H100, "vllm"))


def felt(load: Load):
    return under_load(SIZES, SETUP, hardware_of(H100, "bf16"), CONSTANT, load)


@given(st.floats(0.05, 0.7), st.sampled_from([0.0, 0.5]))
def test_the_replay_waits_as_the_formula_says_where_it_is_exact(busy: float, unequal: float) -> None:
    """Independent arrivals, one server (Pollaczek 1930, Khinchine 1932); a step takes no time."""
    load = Load(arrival_per_s=busy, unequal=unequal, apart=True)
    ttft, _ = _replay(np.array([1.0, 256.0]), np.array([1e-9, 1e-9]), 1.0, 1.0, load)
    waited = ttft.mean() - 1.0
    exact = waiting_s(busy, 1.0, unequal, 1.0)
    assert waited == pytest.approx(exact, rel=0.25, abs=0.1)  # 2,000 requests are a sample


def test_more_load_and_more_bursts_are_felt() -> None:
    calm, busy = felt(Load(arrival_per_s=2.0)), felt(Load(arrival_per_s=20.0))
    bursts = felt(Load(arrival_per_s=20.0, burstiness=8.0))
    assert calm.batch < busy.batch and calm.busy < busy.busy
    assert calm.tpot_s[50] < busy.tpot_s[50] and busy.ttft_s[99] < bursts.ttft_s[99]
    assert calm.ttft_s[50] <= calm.ttft_s[95] <= calm.ttft_s[99]


def test_a_load_above_what_one_serves_is_not_stable() -> None:
    light = Load(arrival_per_s=1.0)
    assert felt(light).stable and not felt(replace(light, arrival_per_s=1e4)).stable


def test_the_same_question_has_the_same_answer() -> None:
    assert felt(Load(arrival_per_s=9.0)) == felt(Load(arrival_per_s=9.0))
