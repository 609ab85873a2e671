from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.errors import WrongUse
from steelyard.hardware import catalogue, named_models, published_constants
from steelyard.planner import (
    Constants,
    DataFacts,
    Fill,
    Local,
    Owned,
    Plan,
    Request,
    named_shape,
    plan,
    plan_recipe,
    this_machine,
    what_if,
    why_not,
)
from steelyard.planner.physics.inference import ServeSetup, serve_s
from steelyard.planner.physics.kernels import collective_s, link_rate
from steelyard.planner.physics.sizes import LONE_DEVICES, Hardware, Sizes, hardware_of, total
from steelyard.planner.physics.training import TrainSetup, train_memory_bytes, train_step_s
from steelyard.planner.published.constants import values
from steelyard.recipe import Goal, Recipe
from steelyard.units import around

CONSTANTS = Constants.from_json(published_constants())
LLAMA = named_shape("llama3-8b", named_models())
A100 = Hardware(peak=312e12, bandwidth=2e12, memory=80e9, scaleup=300e9, scaleout=25e9, node=8)
SIZES = Sizes.of(LLAMA, 2048)
TRAIN = values(CONSTANTS, "train", {"family": "nvidia"})
SERVE = values(CONSTANTS, "serve", {"family": "nvidia", "stack": "vllm"})

setups = st.builds(
    lambda d, t, p, b, z, r: TrainSetup(
        devices=d * t * p, t=t, p=p, micro_batch=b, global_batch=d * b * 8, seq_len=2048, zero=z, recompute=r
    ),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 3]),
    st.sampled_from([1, 2]),
)


def step(setup: TrainSetup, hardware: Hardware = A100) -> dict:
    return train_step_s(SIZES, setup, hardware, TRAIN)


@given(setups)
def test_parts_sum_and_none_is_negative(setup):
    parts = step(setup)
    assert all(float(p) >= 0 for p in parts.values())
    assert float(total(parts)) == pytest.approx(sum(float(p) for p in parts.values()))


@given(setups, st.sampled_from(["peak", "scaleup", "scaleout"]))
def test_better_hardware_is_never_slower(setup, what):
    better = replace(A100, **{what: getattr(A100, what) * 2})
    assert total(step(setup, better)) <= total(step(setup)) * (1 + 1e-12)


@given(setups)
def test_memory_falls_with_every_split_and_grows_with_the_micro_batch(setup):
    memory = train_memory_bytes(SIZES, setup)
    assert train_memory_bytes(SIZES, replace(setup, t=setup.t * 2, devices=setup.devices * 2)) <= memory
    sharded = replace(setup, zero=3)
    wider = replace(sharded, devices=sharded.devices * 2, global_batch=sharded.global_batch * 2)
    assert train_memory_bytes(SIZES, wider) <= train_memory_bytes(SIZES, sharded)
    more = replace(setup, micro_batch=setup.micro_batch * 2, global_batch=setup.global_batch * 2)
    assert train_memory_bytes(SIZES, more) >= memory


def test_cards_without_links_share_those_of_their_host():
    card = hardware_of(catalogue().find("l40s"))
    assert card.node == LONE_DEVICES
    measured_s = {2: 13.4e-3, 4: 78.4e-3, 8: 324e-3}  # all-reduce of 256 MiB, facts/collectives.csv
    for count, seconds in measured_s.items():
        assert collective_s(2**28, count, count, card, 2.0) == pytest.approx(seconds, rel=0.35)
    switched = hardware_of(catalogue().find("h100-sxm"))
    assert link_rate(8, 8, switched) == link_rate(2, 2, switched)


def test_one_device_does_not_communicate():
    parts = step(TrainSetup(devices=1, global_batch=8))
    assert parts["tp"] == parts["dp"] == parts["bubble"] == 0


def test_a_batch_of_many_equals_many_batches_of_one():
    devices = np.array([1.0, 8.0, 64.0])
    many = total(step(TrainSetup(devices=devices, global_batch=64.0)))
    ones = [float(total(step(TrainSetup(devices=d, global_batch=64.0)))) for d in devices]
    assert many == pytest.approx(ones, rel=1e-9)


@given(st.integers(1, 256), st.integers(16, 4096))
def test_decode_reads_weights_once_and_grows_with_the_batch(batch, prompt):
    sizes = Sizes.of(LLAMA, prompt)
    small = serve_s(sizes, ServeSetup(batch=batch, prompt=prompt), A100, SERVE)["decode"]
    large = serve_s(sizes, ServeSetup(batch=2 * batch, prompt=prompt), A100, SERVE)["decode"]
    assert float(large["weights"]) == pytest.approx(float(small["weights"]))
    assert total(small) < total(large) < 2 * total(small)


REQUESTS = {
    "pretrain": Request(shape=LLAMA, job="pretrain", tokens=1e9),
    "lora": Request(shape=LLAMA, job="sft", tokens=1e7, finetuning_type="lora"),
    "serve": Request(shape=LLAMA, job="serve", tokens=1e6, users=16),
}


def test_a_device_made_for_inference_serves_and_is_not_trained_on():
    for name, request in REQUESTS.items():
        found = next(p for p in plan(request, catalogue(), CONSTANTS).plans if p.device == "inferentia2")
        refused = bool(found.why_not and "made for inference" in found.why_not)
        assert refused == (name != "serve")


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_a_plan_names_every_device_and_its_parts_sum(request_):
    plans = plan(request_, catalogue(), CONSTANTS)
    assert sorted(p.device for p in plans.plans) == sorted(d.id for d in catalogue())
    assert plans.considered >= plans.divide >= plans.fit > 0
    best = plans.plans[plans.best]
    assert best.fits and best.why_not is None and plans.best in plans.frontier
    for p in plans.plans:
        if p.time_s:
            assert sum(p.parts.values()) == pytest.approx(p.time_s.value)
            assert p.time_s.low < p.time_s.value < p.time_s.high
        assert p.fits or p.why_not
    fits = [p.fits for p in plans.plans]
    assert fits == sorted(fits, reverse=True)
    priced = [p.cost_usd.value for p in plans.plans if p.fits and p.cost_usd and p.compared]
    assert priced == sorted(priced)


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_twice_the_tokens_take_twice_the_time(request_):
    once = {p.device: p for p in plan(request_, catalogue(), CONSTANTS).plans}
    for p in plan(replace(request_, tokens=2 * request_.tokens), catalogue(), CONSTANTS).plans:
        before = once[p.device]
        if p.time_s and before.time_s and p.settings == before.settings | {"steps": p.settings.get("steps")}:
            # And end, and compilation: the same for any number of tokens.
            start = sum(before.parts.get(name, 0.0) for name in ("start", "compile"))
            twice = 2 * (before.time_s.value - start) + start
            assert p.time_s.value == pytest.approx(twice, rel=0.01)


def test_the_frontier_has_no_plan_that_another_beats():
    plans = plan(REQUESTS["lora"], catalogue(), CONSTANTS)
    kept = [plans.plans[i] for i in plans.frontier]
    for p in plans.plans:
        if p.fits and p.cost_usd and p.compared:
            assert not any(
                p.cost_usd.value < k.cost_usd.value and p.time_s.value < k.time_s.value for k in kept
            )


def test_limits_are_named_and_the_tightest_is_told():
    plans = plan(replace(REQUESTS["pretrain"], budget_usd=0.01, deadline_s=3600), catalogue(), CONSTANTS)
    assert plans.best is None
    limit, factor = plans.tightest()
    assert limit in ("budget", "deadline", "memory") and factor > 1
    assert any("over the budget" in p.why_not for p in plans.plans)


def test_a_device_can_be_chosen_by_any_spelling():
    plans = plan(replace(REQUESTS["lora"], devices=("Gaudi-3",)), catalogue(), CONSTANTS)
    assert [p.device for p in plans.plans] == ["gaudi3"]


def test_bad_requests_are_refused():
    with pytest.raises(WrongUse):
        Request(shape=LLAMA, job="dream")
    with pytest.raises(WrongUse):
        Request(shape=LLAMA, tokens=0)
    with pytest.raises(WrongUse, match="no model"):
        named_shape("lama-9", named_models())


def test_models_are_found_by_any_spelling():
    assert named_shape("Meta-Llama-3-70B", named_models()).layers == 80
    assert named_shape("mistralai/Mistral-7B-Instruct", named_models()).kv_heads == 8


@pytest.mark.parametrize(
    ("device", "precision"),
    [("v100-32", "fp16"), ("a100-80-sxm", "bf16"), ("xeon-8380", "f32"), ("gaudi2", "fp8")],
)
def test_a_job_trains_in_a_precision_that_the_device_has(device: str, precision: str) -> None:
    request = Request(shape=LLAMA, job="sft", tokens=1e6, finetuning_type="lora", devices=(device,))
    (found,) = plan(request, catalogue(), CONSTANTS).plans
    assert found.settings["precision"] == precision


def on(device: str, **words) -> Plan:
    """The plan of a job on one device: a service with users unless told otherwise."""
    asked = {"job": "serve", "users": 64, "prompt_tokens": 2048, "output_tokens": 256, "max_devices": 1}
    request = Request(shape=LLAMA, devices=(device,), **(asked | words))
    (found,) = plan(request, catalogue(), CONSTANTS).plans
    return found


@pytest.mark.parametrize("load", [{"users": 64}, {"users": 1, "arrival_per_s": 4.0}], ids=["users", "arrive"])
def test_a_higher_percentile_is_never_better(load) -> None:
    told = [on("h100-sxm", slo={"percentile": p}, **load).service["ttft_s"].value for p in (50, 90, 95, 99)]
    assert told == sorted(told) and told[0] < told[-1]


def test_a_newcomer_waits_for_the_prefills_of_the_others_but_not_for_more_than_all() -> None:
    alone, many = (on("h100-sxm", users=n, slo={"percentile": 99.0}).service for n in (1, 64))
    first = alone["ttft_s"].value
    assert 2 * first < many["ttft_s"].value < 64 * first + 2 * many["tpot_s"].value
    median = on("h100-sxm", users=64).service["ttft_s"].value
    assert first < median < many["ttft_s"].value / 2  # their questions are spread over the time of an answer


def test_each_latency_is_held_at_its_own_percentile() -> None:
    load = {"arrival_per_s": 4.0, "users": 1, "precisions": ("bf16",)}
    p50, p99 = (on("h100-sxm", slo={"percentile": p}, **load).service["ttft_s"].value for p in (50.0, 99.0))
    between = (p50 + p99) / 2
    assert on("h100-sxm", slo={"ttft_p50_s": between, "ttft_p99_s": 2 * p99}, **load).fits
    missed = on("h100-sxm", slo={"ttft_p50_s": p50 / 2, "ttft_p99_s": between}, **load)
    assert not missed.fits and "at p50" in missed.why_not and "at p99" in missed.why_not
    with pytest.raises(WrongUse, match="no part of an SLO"):
        Request(shape=LLAMA, slo={"ttft_p42_s": 1.0})


@pytest.mark.parametrize("answers", [1, 3, 500])
def test_scoring_takes_at_least_as_long_as_one_answer_and_no_more_in_flight_than_there_are(answers) -> None:
    found = on("h100-sxm", job="score", tokens=answers * 2000.0, output_tokens=2000, max_devices=1024)
    assert found.time_s.value >= 2000 * found.service["tpot_s"].value
    assert found.settings["batch"] * found.settings["replicas"] < 2 * answers or answers == 1
    assert sum(found.parts.values()) == pytest.approx(found.time_s.value)


@pytest.mark.parametrize("job", ["sft", "serve"])
def test_a_power_limit_is_not_met_by_a_device_whose_power_nobody_told(job) -> None:
    request = Request(shape=LLAMA, job=job, users=8, power_limit_w=20e3)
    told = {p.device: p for p in plan(request, catalogue(), CONSTANTS).plans}
    untold = [d.id for d in catalogue() if not d.tdp_w]
    assert untold and not any(told[name].fits for name in untold)
    assert any("no power figure is known, so" in told[name].why_not for name in untold)
    assert any(p.fits for p in told.values())


def test_a_service_that_waits_draws_less() -> None:
    calm, busy = (on("h100-sxm", arrival_per_s=rate, users=1, tokens=1e6 * rate) for rate in (0.01, 4.0))
    mean_kw = [p.energy_kwh.value / p.time_s.value for p in (calm, busy)]
    assert calm.devices == busy.devices and mean_kw[0] < 0.6 * mean_kw[1]


def test_why_not_and_what_if_keep_the_devices_and_the_plans_made_elsewhere() -> None:
    request = replace(REQUESTS["lora"], devices=("h100-sxm", "a100-80-sxm"))
    asked = (catalogue(), CONSTANTS)
    plans = plan(request, *asked)
    best, other = plans.plans
    assert why_not(request, best.device, *asked) == "it is the best plan"
    assert why_not(request, other.device, *asked).startswith("costs")
    here = replace(best, device="this-machine", cost_usd=best.cost_usd * 0.1, why_not="costs more")
    assert why_not(request, best.device, *asked, [here]) == "costs 10.0 times as much"
    changed = what_if(request, catalogue(), {"price.a100-80-sxm": "x2"}, CONSTANTS, [here])
    assert changed.plans[changed.best].device == "this-machine" and len(changed.plans) == 3


@pytest.mark.parametrize(("limit_s", "fits"), [(0.1, False), (0.9, True)])
def test_this_machine_is_held_to_the_latencies_too(limit_s: float, fits: bool) -> None:
    goal = Goal(ttft_s={"p50": 5.0, "p95": limit_s})
    recipe = Recipe(path=Path("r.yaml"), root=Path("."), name="desk", model="demo", train=(), goal=goal)
    load = {"users": 1, "prompt_tokens": 128, "output_tokens": 64}
    filled = Fill(settings={"train": [], "serve": {"load": load}}, origins={})
    figures = {"wall_s": (9.0, "s"), "cost_usd": (0.1, "USD"), "peak_rss_bytes": (1e9, "bytes")}
    figures |= {"ttft_s": (0.3, "s"), "tpot_s": (0.02, "s")}
    steps = {
        "serve": {name: around(value, 0.1, unit, "calibrated") for name, (value, unit) in figures.items()}
    }
    local = Local(steps=steps, raw={}, parts={}, disk_bytes=0)
    weighed = plan_recipe(recipe, filled, LLAMA, DataFacts(), catalogue(), CONSTANTS, local)
    (here,) = [p for p in weighed.plans if p.device == "this-machine"]
    assert here.fits == fits and fits == ("ttft" not in here.shortfalls)


@pytest.mark.parametrize(
    ("room_bytes", "deadline_s", "short"),
    [(1.05e9, 20.0, "memory"), (2e9, 9.5, "deadline"), (2e9, 20.0, None)],
)
def test_this_machine_is_held_to_its_memory_and_to_the_limits_of_flags(room_bytes, deadline_s, short) -> None:
    """By the high end of the interval, as every device: 1 GB and 9 s, each up to a tenth more."""
    load = {"users": 1, "prompt_tokens": 128, "output_tokens": 64}
    filled = Fill(settings={"train": [], "serve": {"load": load}}, origins={})
    figures = {"wall_s": (9.0, "s"), "cost_usd": (0.1, "USD"), "peak_rss_bytes": (1e9, "bytes")}
    steps = {
        "serve": {name: around(value, 0.1, unit, "calibrated") for name, (value, unit) in figures.items()}
    }
    local = Local(steps=steps, raw={}, parts={}, disk_bytes=0, room_bytes=room_bytes)
    here = this_machine(filled, local, replace(REQUESTS["serve"], deadline_s=deadline_s))
    assert here.fits == (short is None) and set(here.shortfalls) == ({short} if short else set())


@pytest.mark.parametrize("dear_first", [True, False])
def test_hardware_owned_at_two_prices_is_taken_at_the_lower_one_while_it_is_enough(dear_first) -> None:
    own = [Owned(device="gaudi2", hosts=1, per_host=8, price_usd_per_h=usd) for usd in (5.0, 1.0)]
    request = replace(REQUESTS["lora"], own=tuple(own if dear_first else own[::-1]))
    (one, *_) = plan(request, catalogue(), CONSTANTS).plans
    hours = one.time_s.value / 3600
    assert one.devices <= 8 and one.cost_usd.value == pytest.approx(one.devices * hours)
    hurried = replace(
        request, tokens=1e9, deadline_s=0.85 * plan_s(replace(request, tokens=1e9, max_devices=8))
    )
    (both, *_) = plan(hurried, catalogue(), CONSTANTS).plans
    assert both.fits and both.devices == 16
    assert both.cost_usd.value == pytest.approx(16 * 3.0 * both.time_s.value / 3600)


def plan_s(request: Request) -> float:
    """Seconds of the fastest plan on all the devices there are."""
    hurried = plan(replace(request, deadline_s=1.0), catalogue(), CONSTANTS).plans
    return min(p.time_s.value for p in hurried if p.time_s)
