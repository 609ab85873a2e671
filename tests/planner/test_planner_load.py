from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.hardware import catalogue, named_models, published_constants
from steelyard.planner import Constants, named_shape
from steelyard.planner.physics.inference import ServeSetup
from steelyard.planner.physics.load import REQUESTS, Engine, Load, engine_of, replay, under_load, waiting_s
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
    """Independent arrivals, one server (Pollaczek 1930, Khinchine 1932); decode takes no time, and a step so
    few tokens that prompts do not share it."""
    engine = Engine(step_s=[1e-9] * 1025, token_s=0.01, prompt=100.0, output=1.0, chunk=1.0 + 1024)
    few = replace(engine, chunk=10.0)
    ttft, _, _ = replay(few, Load(arrival_per_s=busy, unequal=unequal))
    waited = ttft.mean() - 1.0
    assert waited == pytest.approx(waiting_s(busy, 1.0, unequal, 1.0), rel=0.35, abs=0.15)  # 500 are a sample


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


def step_by_step(engine: Engine, load: Load) -> tuple[np.ndarray, np.ndarray]:
    """TTFT and TPOT of the same requests by a plain walk, one step and one token at a time."""
    chance = np.random.default_rng(0)
    sigma = np.sqrt(np.log1p(load.unequal))
    prompts, outputs = np.exp(chance.normal(-(sigma**2) / 2, sigma, (2, REQUESTS)))
    ahead = list(engine.prompt * prompts)
    owed = np.maximum(1, np.rint(engine.output * outputs)).astype(int)
    shape = 1 / load.burstiness
    came = np.cumsum(chance.gamma(shape, 1 / (shape * load.arrival_per_s), REQUESTS))
    now, first, done = 0.0, np.zeros(REQUESTS), np.zeros(REQUESTS)
    had = np.zeros(REQUESTS, int)
    running: list[int] = []
    waiting = list(range(REQUESTS))
    while waiting or running:
        here = [i for i in waiting[: load.most] if came[i] <= now]
        if not running and not here:
            now = came[waiting[0]]
            continue
        room, filled, through = engine.chunk - len(running), 0.0, []
        for i in here[: load.most - len(running)]:
            take = min(ahead[i], room - filled)
            ahead[i] -= take
            filled += take
            if ahead[i] > 0:
                break
            through.append(i)
        now += engine.step_s[len(running)] + engine.token_s * filled
        for i in [*running, *through]:
            had[i] += 1
            first[i] = now if had[i] == 1 else first[i]
            done[i] = now
        waiting = waiting[len(through) :]
        running = [i for i in [*running, *through] if had[i] < owed[i]]
    several = owed > 1
    return first - came, ((done - first)[several] / (owed[several] - 1))


@pytest.mark.parametrize("rate", [3.0, 12.0, 20.0])
@pytest.mark.parametrize("chunk", [512.0, 8192.0])
def test_steps_taken_together_are_steps_taken_one_by_one(rate: float, chunk: float) -> None:
    load = Load(arrival_per_s=rate)
    engine = replace(engine_of(SIZES, SETUP, hardware_of(H100, "bf16"), CONSTANT, load.most), chunk=chunk)
    ttft, tpot, _ = replay(engine, load)
    plain_ttft, plain_tpot = step_by_step(engine, load)
    for percentile in (50, 95, 99):
        assert np.percentile(ttft, percentile) == pytest.approx(
            np.percentile(plain_ttft, percentile), rel=0.02
        )
        assert np.percentile(tpot, percentile) == pytest.approx(
            np.percentile(plain_tpot, percentile), rel=0.02
        )


def test_prefills_between_tokens_are_felt_at_the_95th_percentile() -> None:
    """Long prompts among short answers: who shares steps with many of them waits between tokens."""
    load = Load(arrival_per_s=4.0)
    engine = engine_of(SIZES, SETUP, hardware_of(H100, "bf16"), CONSTANT, load.most)
    long = replace(engine, prompt=8000.0, output=100.0)
    _, alone, _ = replay(replace(long, token_s=0.0), load)
    _, beside, _ = replay(long, load)
    assert np.percentile(beside, 95) > 1.3 * np.percentile(beside, 50) > 1.3 * np.percentile(alone, 95)


def test_users_with_long_prompts_wait_for_one_prefill_or_two() -> None:
    """32 users with prompts of 8,000 tokens: told 2.1 s at p95 once, simulated 0.6 s."""
    setup = replace(SETUP, prompt=8192, output=256)
    sizes = Sizes.of(named_shape("llama3-8b", named_models()), 8192)
    engine = engine_of(sizes, setup, hardware_of(H100, "bf16"), CONSTANT, 1024)
    ttft, _, _ = replay(engine, Load(users=32))
    one_s = engine.step_s[0] + engine.token_s * 8192
    assert one_s < np.percentile(ttft, 95) < 3 * one_s


@given(st.integers(1, 60), st.floats(20, 4000), st.floats(1, 400), st.sampled_from([4, 16, 1024]))
def test_users_wait_for_seats_and_percentiles_are_in_order(users, prompt, output, most) -> None:
    engine = engine_of(SIZES, replace(SETUP, prompt=prompt, output=output), hardware_of(H100), CONSTANT, most)
    ttft, tpot, in_flight = replay(engine, Load(users=users, most=most))
    assert in_flight == users and len(ttft) == REQUESTS
    assert 0 < np.percentile(ttft, 50) <= np.percentile(ttft, 95)
    assert tpot.min() >= 0 and np.percentile(tpot, 50) <= np.percentile(tpot, 95)
    if users > most:  # someone always waits for a seat
        free, _, _ = replay(engine, Load(users=most, most=most))
        assert ttft.mean() > free.mean()
