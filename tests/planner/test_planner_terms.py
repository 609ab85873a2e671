"""What a training takes beside its steps, narrow formats, networks and years: each a term with a source."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.errors import WrongUse
from steelyard.hardware import catalogue, named_models, published_constants
from steelyard.launch import training_target
from steelyard.planner import Constants, OwnPrice, Request, named_shape, plan, planned_training
from steelyard.planner.job.cost import price_of
from steelyard.planner.job.terms import Beside
from steelyard.planner.physics.sizes import Sizes, hardware_of, total
from steelyard.planner.physics.training import TrainSetup, train_step_s
from steelyard.planner.published.constants import groups, values
from steelyard.planner.search.train_search import most_gain

CONSTANTS, DEVICES, MODELS = Constants.from_json(published_constants()), catalogue(), named_models()
LLAMA = named_shape("llama3-8b", MODELS)
TERMS = {"start", "compile", "data", "evaluation", "checkpoints", "restarts"}
TRAINED = [d.id for d in DEVICES if d.trains and d.peak_flops("bf16")]


def best(device: str, **words):
    request = Request(**({"shape": LLAMA, "name": "llama3-8b", "tokens": 1e8, "devices": (device,)} | words))
    return plan(request, DEVICES, CONSTANTS).plans[0], request


@pytest.mark.parametrize("device", ["h100-sxm", "gaudi2", "xeon-8592plus", "tpu-v5p", "mi300x"])
@pytest.mark.parametrize("job", ["sft", "pretrain"])
def test_no_term_is_a_zero_and_they_sum_to_the_time(device: str, job: str) -> None:
    p, _ = best(device, job=job, seq_len=1024)
    assert p.time_s and set(p.terms) == TERMS
    for name, term in p.terms.items():
        assert p.parts[name] == term["value"] > 0, name
        assert term["low"] <= term["value"] < term["high"] and term["source"] and term["provenance"]
    assert sum(p.parts.values()) == pytest.approx(p.time_s.value)
    assert p.time_s.low < p.time_s.value < p.time_s.high


@pytest.mark.parametrize("device", ["h100-sxm", "gaudi2", "xeon-8592plus"])
def test_an_engine_loads_and_compiles_before_it_answers(device: str) -> None:
    p, _ = best(device, job="score", tokens=1e6)
    assert p.time_s and set(p.terms) == {"load", "compile"}
    for name, term in p.terms.items():
        assert p.parts[name] == pytest.approx(term["value"]) and 0 < term["low"] < term["high"]
    assert sum(p.parts.values()) == pytest.approx(p.time_s.value)
    assert p.terms["compile"]["value"] == DEVICES.find(device).compile_s[0]


def test_a_recipe_compiled_on_gaudi_takes_longer_than_kernels_chosen_on_a_gpu() -> None:
    gaudi, gpu = (DEVICES.find(name).compile_s for name in ("gaudi2", "h100-sxm"))
    assert gaudi[0] > gpu[0]


def test_failures_are_those_of_the_device() -> None:
    h100, _, source = DEVICES.find("h100-sxm").mtbf_h
    assert h100 == pytest.approx(54 * 24 * 16384 / 419, rel=0.01) and "2407.21783" in source
    a100, _, source = DEVICES.find("a100-80-sxm").mtbf_h
    assert a100 == pytest.approx(1000 / 6.50 * 24 * 8, rel=0.01) and "2410.21680" in source
    request = Request(shape=LLAMA, job="pretrain", tokens=1e12)
    kept = [
        float(Beside(request=request, device=DEVICES.find(d), per_host=8, spot=False).goodput(4096))
        for d in ("h100-sxm", "a100-80-sxm")
    ]
    assert kept[0] > kept[1] > 0.5
    for device in DEVICES:
        hours, sd, why = device.mtbf_h
        assert hours > 0 and sd > 0 and why
        assert ("modelled" in why) == (sd > 1), device.id  # a stated default is wide


def test_spot_loses_more() -> None:
    beside = Beside(
        request=Request(shape=LLAMA, job="sft"), device=DEVICES.find("h100-sxm"), per_host=8, spot=False
    )
    assert replace(beside, spot=True).goodput(64) < beside.goodput(64)


# ------------------------------------------------------------------ formats below 16 bits

SETUPS = st.fixed_dictionaries(
    {
        "t": st.sampled_from([1.0, 2.0, 8.0]),
        "p": st.sampled_from([1.0, 4.0]),
        "d": st.sampled_from([1.0, 8.0]),
        "micro_batch": st.sampled_from([1.0, 4.0]),
        "recompute": st.sampled_from([0.0, 1.0, 2.0]),
        "sp": st.sampled_from([0.0, 1.0]),
        "zero": st.sampled_from([0.0, 1.0, 3.0]),
        "lora": st.sampled_from([0.0, 1.0]),
    }
)
NARROW = [(d.id, name) for d in DEVICES for name in d.gains if name in d.formats and d.peak_flops(name)]


@settings(max_examples=80)
@given(SETUPS, st.sampled_from(NARROW), st.sampled_from(sorted(MODELS)))
def test_no_narrow_format_is_faster_than_published_runs(setup, narrow, model: str) -> None:
    device, precision = DEVICES.find(narrow[0]), narrow[1]
    shape = named_shape(model, MODELS)
    gain, constant = most_gain(device, precision, shape.hidden), values(CONSTANTS, "train", groups(device))
    usual, fast = hardware_of(device), hardware_of(device, precision)
    assert gain and gain >= 1 and usual and fast
    devices = setup["t"] * setup["p"] * setup["d"]
    wide = TrainSetup(devices=devices, global_batch=256.0, seq_len=2048.0, **setup)
    thin = replace(wide, low_precision=1.0, most_gain=gain)
    sizes = Sizes.of(shape, 2048)
    slow_s = total(train_step_s(sizes, wide, usual, constant))
    fast_s = total(train_step_s(sizes, thin, fast, constant, usual))
    assert fast_s >= slow_s / gain * (1 - 1e-9)


def test_a_gain_is_that_of_the_models_width() -> None:
    h100 = DEVICES.find("h100-sxm")
    narrow, wide = (most_gain(h100, "fp8", hidden) for hidden in (4096, 16384))
    assert narrow == pytest.approx(1.28) and wide == pytest.approx(1.5)
    assert most_gain(h100, "fp8", 65536) == pytest.approx(1.5) and most_gain(h100, "fp8", 512) == 1.0
    assert most_gain(DEVICES.find("mi300x"), "fp8", 8192) is None  # no published pair: not weighed unasked


@pytest.mark.parametrize(
    ("device", "precision", "flag"),
    [
        ("h100-sxm", "fp8", "fp8-format"),
        ("b200", "fp4", "fp4-format"),
        ("a100-80-sxm", "bf16", "bf16"),
        ("mi300x", "bf16", "bf16"),
    ],
)
def test_a_narrow_format_is_weighed_where_a_stack_trains_in_it(device, precision: str, flag: str) -> None:
    p, request = best(device, shape=named_shape("llama3-70b", MODELS), tokens=1e10, job="pretrain")
    assert p.settings["precision"] == precision
    assert ("precision" in p.settings["stack_flags"]) == (precision in ("fp8", "fp4"))
    (training,) = planned_training(p, request, DEVICES)
    target = training_target(training)
    assert target and "precision" not in target.lost(training.settings)
    assert any(flag in given for given in target.given.values()) or precision in str(target.given)
    usual, _ = best(device, shape=request.shape, tokens=1e10, job="pretrain", precisions=("bf16",))
    assert p.cost_usd and usual.cost_usd and p.cost_usd.value <= usual.cost_usd.value * 1.001


def test_a_format_that_no_stack_trains_in_is_said_so() -> None:
    p, _ = best("h100-sxm", job="distil", precisions=("fp4",))
    assert p.time_s is None and p.why_not
    p, _ = best("b200", job="distil", precisions=("fp4",))
    assert p.why_not == "no public stack does this job in fp4 on it"


# ------------------------------------------------------------------ networks and years


def test_an_oversubscribed_network_is_a_term() -> None:
    words = {"shape": named_shape("llama3-70b", MODELS), "job": "pretrain", "tokens": 1e10, "count": 64}
    whole, _ = best("h100-sxm", **words)
    narrow, _ = best("h100-sxm", **words, oversubscription=7.0)
    assert "network" not in whole.terms and narrow.terms["network"]["value"] > 0
    assert narrow.terms["network"]["low"] == 0.0 and "1/7" in narrow.terms["network"]["source"]
    assert narrow.time_s and whole.time_s and narrow.time_s.value > whole.time_s.value
    assert sum(narrow.parts.values()) == pytest.approx(narrow.time_s.value)
    inside, _ = best("h100-sxm", count=8, oversubscription=7.0)
    alone, _ = best("h100-sxm", count=8)
    assert inside.time_s and alone.time_s and inside.time_s.value == pytest.approx(alone.time_s.value)
    with pytest.raises(WrongUse):
        Request(shape=LLAMA, oversubscription=0.5)


def test_a_device_that_was_not_sold_yet_is_not_offered() -> None:
    plans = plan(Request(shape=LLAMA, tokens=1e8, year=2021), DEVICES, CONSTANTS).plans
    late = {d.id for d in DEVICES if d.year > 2021}
    assert late and all((p.why_not == "was not sold in 2021 yet") == (p.device in late) for p in plans)
    with pytest.raises(WrongUse, match="1900"):
        Request(shape=LLAMA, year=1900)


def test_a_price_of_another_year_is_less_sure() -> None:
    device = DEVICES.find("a100-80-sxm")
    now, then = (price_of(Request(shape=LLAMA, year=year), device) for year in (0, 2022))
    assert now and then and then.usd_per_h.high > now.usd_per_h.high
    assert then.usd_per_h.provenance == "modelled" and now.usd_per_h.provenance == "vendor"
    own = {"a100-80-sxm": OwnPrice(usd_per_h=2.0, price_class="reserved")}
    told = price_of(Request(shape=LLAMA, year=2022, prices=own), device)
    assert told and told.usd_per_h.high == 2.0


def test_software_of_an_earlier_year_is_slower() -> None:
    now, _ = best("a100-80-sxm", precisions=("bf16",))
    then, _ = best("a100-80-sxm", precisions=("bf16",), year=2022)
    assert now.time_s and then.time_s
    busy = [p.time_s.value * p.devices for p in (now, then)]
    assert busy[1] > busy[0]


@given(st.sampled_from(TRAINED), st.integers(1, 4096), st.floats(1e-3, 100.0))
def test_the_terms_are_those_of_the_sweep(device: str, devices: int, step_s: float) -> None:
    request = Request(shape=LLAMA, job="sft", tokens=1e9)
    beside = Beside(request=request, device=DEVICES.find(device), per_host=8, spot=False)
    steps = request.tokens / request.seq_len / 64
    wall = float(beside.wall_s(np.float64(step_s), np.float64(devices), np.float64(64)))
    terms = beside.terms(devices, 64, step_s * steps)
    assert step_s * steps + sum(t.seconds.value for t in terms.values()) == pytest.approx(wall)
