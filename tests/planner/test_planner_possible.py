"""No plan that cannot be: lower bounds, room, stacks and limits, over random jobs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.hardware import catalogue, named_models, published_constants
from steelyard.planner import Constants, Request, named_shape, plan, what_if
from steelyard.planner.physics.sizes import Hardware, Sizes, hardware_of, layer_params, total
from steelyard.planner.physics.training import (
    GRADIENT_BYTES,
    TrainSetup,
    exposed_s,
    held_params,
    micro_batches,
    stage_layers,
    train_memory_bytes,
    train_memory_parts,
    train_step_s,
)
from steelyard.planner.published.constants import values
from steelyard.planner.search.search import CHANGES
from steelyard.planner.search.train_search import PATIENCE_S, needs_more
from steelyard.planner.search.train_stacks import TRAIN_STACKS, stacks_of
from tests.test_architectures import read

CONSTANTS = Constants.from_json(published_constants())
MODELS = named_models()
TRAIN = values(CONSTANTS, "train", {"family": "nvidia"})
DEVICES = (
    "h100-sxm",
    "a100-80-sxm",
    "gaudi2",
    "mi300x",
    "l40s",
    "tpu-v5e",
    "xeon-8480plus",
    "b200",
    "max-1550",
)
SMALL = ("smollm2-135m", "llama3.2-1b", "qwen2.5-7b", "llama3-8b", "mixtral-8x7b", "llama3-70b")
powers = st.sampled_from([1, 2, 4, 8, 16])


@st.composite
def setups(draw: st.DrawFn) -> TrainSetup:
    t, p, c, d, b = (draw(powers) for _ in range(5))
    rounds = draw(powers) * (p if p > 1 else 1)
    return TrainSetup(
        devices=t * p * c * d, t=t, p=p, c=c, d=d, v=draw(st.sampled_from([1, 2])) if p > 1 else 1,
        e=min(draw(powers), d * c), micro_batch=b, global_batch=d * b * rounds,
        seq_len=draw(st.sampled_from([2048.0, 8192.0])),
        recompute=draw(st.sampled_from([0.0, 1.0, 1.5, 2.0])),
        zero=draw(st.sampled_from([0, 1, 2, 3])), sp=draw(st.sampled_from([0.0, 1.0])),
        lora=draw(st.sampled_from([0.0, 1.0])), offload=draw(st.sampled_from([0.0, 1.0])),
        fusions=draw(st.sampled_from([0.0, 1.0])),
    )  # fmt: skip


hardwares = st.builds(
    Hardware,
    peak=st.sampled_from([50e12, 312e12, 2e15]),
    bandwidth=st.sampled_from([2e11, 2e12, 8e12]),
    memory=st.just(80e9),
    scaleup=st.sampled_from([25e9, 300e9, 900e9]),
    scaleout=st.sampled_from([1.25e8, 1.25e9, 12.5e9, 50e9]),
    node=st.sampled_from([1, 4, 8, 72]),
)
HYBRIDS = ("jamba-v0.1", "qwen3-next-80b-a3b", "nemotron-h-8b", "deepseek-v3", "qwen2.5-vl-7b")
shapes = st.one_of(
    st.sampled_from(SMALL).map(lambda name: named_shape(name, MODELS)), st.sampled_from(HYBRIDS).map(read)
)
sizes_of = shapes.map(lambda own: Sizes.of(own, 2048))


def sent_bytes(sizes: Sizes, s: TrainSetup) -> float:
    """What data parallelism sends off one device in a step, at the least: each gradient once, in 16 bits, and
    the weights once; sharded ones for each micro-batch."""
    trained = 0.01 if s.lora else 1.0
    dense, experts = (float(part) for part in held_params(sizes, s))
    groups_ = (float(s.d * s.c), max(1.0, float(s.d * s.c / s.e)))
    left = sum(w * (n - 1) / n for w, n in zip((dense, experts), groups_, strict=True))
    inside = s.zero == 3 and s.p == 1
    if inside:
        return float(micro_batches(s)) * left * 2.0 * (2.0 + trained * GRADIENT_BYTES / 2.0)
    return left * 2.0 * trained * (GRADIENT_BYTES if s.fusions else 2.0)


@given(sizes_of, setups(), hardwares)
@settings(max_examples=300)
def test_a_step_is_as_long_as_its_longest_channel(sizes, setup, hardware) -> None:
    step = float(total(train_step_s(sizes, setup, hardware, TRAIN)))
    layers = float(micro_batches(setup) * stage_layers(sizes, setup))
    attention, used, _ = layer_params(sizes)
    tokens = setup.micro_batch * setup.seq_len / setup.c
    flops = (4.0 if setup.lora else 6.0) * tokens * float(attention + used) / setup.t * layers
    assert step >= flops / hardware.peak
    members = max(1.0, min(float(hardware.node) / setup.t, setup.d * setup.c))
    fastest = hardware.scaleup
    if setup.d * setup.c > members and not setup.e > 1:
        fastest = min(fastest, hardware.scaleout * members)
    assert step >= sent_bytes(sizes, setup) / fastest * (1 - 1e-9)


@given(st.lists(st.tuples(st.floats(0, 1e3), st.floats(0, 1e3)), min_size=1, max_size=3), st.floats(0.0, 1e3))
def test_no_more_traffic_is_hidden_than_there_is_compute(kinds, computing) -> None:
    traffic = {str(i): pair for i, pair in enumerate(kinds)}
    exposed, free = exposed_s(traffic, computing)
    whole = sum(max(pair) for pair in kinds)
    assert float(total(exposed)) + computing >= whole - 1e-6
    assert -1e-6 <= free <= computing
    assert float(total(exposed)) + (computing - free) == pytest.approx(whole, abs=1e-6)


@given(sizes_of, setups())
def test_what_a_pipeline_keeps_is_in_its_memory(sizes, setup) -> None:
    piped = replace(setup, p=4, devices=4 * setup.t * setup.c * setup.d, lora=0.0)
    kept = train_memory_parts(sizes, replace(piped, zero=1))
    for stage in (2, 3):
        parts = train_memory_parts(sizes, replace(piped, zero=stage))
        assert float(parts["weights"]) >= float(kept["weights"]) * (1 - 1e-9)
        assert float(parts["gradients"]) >= float(kept["gradients"]) * (1 - 1e-9)


@given(sizes_of, setups())
def test_a_gathered_layer_its_neighbour_and_its_gradient_are_in_the_memory(sizes, setup) -> None:
    alone = replace(setup, p=1, v=1, c=1, d=16, e=1, zero=3, lora=0.0, devices=16 * setup.t)
    gathered = float(train_memory_parts(sizes, alone)["gathered"])
    layer = sum(float(x) for x in layer_params(sizes)) / alone.t
    assert gathered >= 2 * 2 * layer + 2 * layer
    assert float(train_memory_parts(sizes, replace(alone, zero=2))["gathered"]) == 0
    assert float(train_memory_parts(sizes, replace(alone, d=1, devices=alone.t))["gathered"]) == 0


@given(sizes_of, setups())
def test_memory_grows_with_what_is_kept(sizes, setup) -> None:
    memory = float(train_memory_bytes(sizes, setup)) * (1 - 1e-9)
    longer = replace(setup, seq_len=2 * setup.seq_len)
    wider = replace(setup, micro_batch=2 * setup.micro_batch, global_batch=2 * setup.global_batch)
    assert float(train_memory_bytes(sizes, longer)) >= memory
    assert float(train_memory_bytes(sizes, wider)) >= memory
    if setup.zero and not (setup.zero == 3 and setup.p == 1):  # nothing else is gathered by less sharding
        less = replace(setup, zero=setup.zero - 1)
        assert float(train_memory_bytes(sizes, less)) >= memory
    if setup.offload:
        assert float(train_memory_bytes(sizes, replace(setup, offload=0.0))) >= memory


@given(sizes_of, setups(), hardwares, st.sampled_from(["peak", "bandwidth", "scaleup", "scaleout"]))
@settings(max_examples=200)
def test_a_faster_device_is_never_slower(sizes, setup, hardware, what) -> None:
    changed = {what: 2 * getattr(hardware, what)} | ({"peak16": 2 * hardware.peak} if what == "peak" else {})
    faster = train_step_s(sizes, setup, replace(hardware, **changed), TRAIN)
    assert float(total(faster)) <= float(total(train_step_s(sizes, setup, hardware, TRAIN))) * (1 + 1e-9)


# ------------------------------------------------------------------ plans


@st.composite
def requests(draw: st.DrawFn, **fixed: object) -> Request:
    job = draw(st.sampled_from(["pretrain", "sft", "prefer"]))
    asked = {
        "shape": named_shape(draw(st.sampled_from(SMALL)), MODELS),
        "job": job,
        "tokens": 10.0 ** draw(st.integers(6, 11)),
        "seq_len": draw(st.sampled_from([2048, 8192])),
        "finetuning_type": "full" if job == "pretrain" else draw(st.sampled_from(["full", "lora", "qlora"])),
        "devices": tuple(draw(st.lists(st.sampled_from(DEVICES), min_size=1, max_size=3, unique=True))),
        "max_devices": draw(st.sampled_from([1, 8, 64, 512])),
        "memory_limit_bytes": draw(st.sampled_from([None, None, 20e9])),
        "deadline_s": draw(st.sampled_from([None, 600.0, 86400.0, 3e6])),
        "budget_usd": draw(st.sampled_from([None, 1.0, 1e3, 1e6])),
    }
    return Request(**{**asked, **fixed})


@given(requests())
@settings(max_examples=60, deadline=None)
def test_what_fits_fits_with_the_high_end_of_its_intervals(request_) -> None:
    for p in plan(request_, catalogue(), CONSTANTS).plans:
        if not p.fits:
            continue
        device = catalogue().find(p.device)
        room = min(device.memory_bytes, request_.memory_limit_bytes or device.memory_bytes)
        assert p.memory_bytes_per_device.high <= room * (1 + 1e-6)
        assert p.time_s.high <= (request_.deadline_s or np.inf)
        if request_.budget_usd is not None:
            assert p.cost_usd.value * p.time_s.high / p.time_s.value <= request_.budget_usd * (1 + 1e-9)


@given(requests(deadline_s=None, budget_usd=None))
@settings(max_examples=40, deadline=None)
def test_a_plan_is_one_that_a_public_stack_runs(request_) -> None:
    for p in plan(request_, catalogue(), CONSTANTS).plans:
        if not p.time_s:
            continue
        s = p.settings
        assert s["zero"] < 2 or s["pp"] == 1
        (stack,) = (k for k in TRAIN_STACKS if k.name == s["stack"])
        kin = catalogue().find(p.device).family
        assert stack in stacks_of(kin, request_.job, request_.finetuning_type)
        assert s["virtual_stages"] == 1 or stack.flags["v"] in s["stack_flags"].values()
        assert s["offload"] is False or "offload" in s["stack_flags"]


@given(
    requests(deadline_s=None, budget_usd=None), st.sampled_from(["cards", "memory", "scaleout", "bandwidth"])
)
@settings(max_examples=30, deadline=None)
def test_more_of_anything_never_makes_the_best_plan_dearer(request_, what) -> None:
    one = replace(request_, devices=request_.devices[:1], memory_limit_bytes=None)
    before = plan(one, catalogue(), CONSTANTS).plans[0]
    if what == "cards" or not getattr(catalogue().find(one.devices[0]), CHANGES[what]):
        more = plan(replace(one, max_devices=2 * one.max_devices), catalogue(), CONSTANTS).plans[0]
    else:
        more = what_if(one, catalogue(), {f"{what}.{one.devices[0]}": "x2"}, CONSTANTS).plans[0]
    assert more.fits or not before.fits
    # Without a deadline a plan of more than PATIENCE_S is hurried, whatever that costs.
    if before.fits and before.cost_usd and before.time_s.value <= PATIENCE_S:
        assert more.cost_usd.value <= before.cost_usd.value * 1.001  # the sweep ranks in float32


@given(requests())
@settings(max_examples=60, deadline=None)
def test_raising_the_tightest_limit_gives_the_nearest_plan(request_) -> None:
    plans = plan(request_, catalogue(), CONSTANTS)
    if plans.best is not None or plans.tightest() is None:
        return
    near, (limit, factor) = plans.plans[plans.nearest()], plans.tightest()
    assert factor > 1 and len(near.shortfalls) == min(len(p.shortfalls) for p in plans.plans if p.shortfalls)
    assert plan(raised(request_, near.device, near.shortfalls), *KNOWN).best is not None
    if len(near.shortfalls) == 1:
        others = {n: factor * 0.98 for n in ("deadline", "budget") if n != limit}
        for name, times in others.items():
            assert plan(raised(request_, near.device, {name: times}), *KNOWN).best is None


KNOWN = (catalogue(), CONSTANTS)


def raised(request: Request, device: str, factors: dict[str, float]) -> Request:
    """The request with its limits raised; the memory of one device, or of the user's own limit."""
    changes: dict = {}
    for name, factor in factors.items():
        more = factor * (1 + 1e-4)
        if name == "deadline" and request.deadline_s:
            changes["deadline_s"] = request.deadline_s * more
        elif name == "budget" and request.budget_usd:
            changes["budget_usd"] = request.budget_usd * more
        elif name == "memory":
            changes["changes"] = {f"memory.{device}": f"x{more}"}
            if request.memory_limit_bytes:
                changes["memory_limit_bytes"] = request.memory_limit_bytes * more
    return replace(request, **changes)


def test_money_is_the_limit_where_money_lacks() -> None:
    shape = named_shape("llama3-70b", MODELS)
    for dollars in (100.0, 1e5):
        request = Request(shape=shape, job="pretrain", tokens=15e12, budget_usd=dollars)
        limit, factor = plan(request, *KNOWN).tightest()
        assert limit == "budget" and factor > 2


def test_a_slow_network_is_a_slow_step() -> None:
    sizes, setup = Sizes.of(named_shape("llama3-8b", MODELS), 2048), TrainSetup(devices=64, global_batch=64)
    for nic in (12.5e9, 1.25e9):
        card = replace(hardware_of(catalogue().find("h100-sxm")), scaleout=nic)
        held = float(sum(held_params(sizes, setup)))
        reduced = 2 * GRADIENT_BYTES * held * 63 / 64 / (nic * 8)
        assert float(total(train_step_s(sizes, setup, card, TRAIN))) >= reduced


def test_an_optimiser_is_not_kept_in_a_memory_that_is_the_same() -> None:
    for device in ("xeon-8480plus", "m2-ultra"):
        request = Request(shape=named_shape("llama3-8b", MODELS), job="sft", tokens=1e6, devices=(device,))
        (found,) = plan(request, *KNOWN).plans
        assert not found.settings.get("offload")


def test_a_device_without_a_stack_is_told_so() -> None:
    request = Request(shape=named_shape("llama3-8b", MODELS), job="sft", tokens=1e6, devices=("sn40l",))
    (found,) = plan(request, *KNOWN).plans
    assert not found.fits and found.why_not == "no public stack does this job on it"


@pytest.mark.parametrize(
    ("need", "room", "words"), [(1.0009, 1.0, "1 %"), (1.142, 1.0, "15 %"), (2.5, 1.0, "2.5 times")]
)
def test_what_lacks_is_never_nothing(need, room, words) -> None:
    assert needs_more(need * 1e9, room * 1e9).startswith(f"needs {words}")


def test_each_stack_has_a_flag_for_what_it_raises() -> None:
    assert all(flag for stack in TRAIN_STACKS for flag in stack.flags.values())


@pytest.mark.parametrize("count", [6, 24, 384])
def test_a_training_takes_all_the_devices_that_there_are(count) -> None:
    shape = named_shape("llama3-8b", MODELS)
    request = Request(shape=shape, job="pretrain", tokens=1e10, devices=("a100-80-sxm",), count=count)
    (found,) = plan(request, *KNOWN).plans
    assert found.fits and found.devices == count
    s = found.settings
    assert s["global_batch"] % (s["dp"] * s["micro_batch"]) == 0
    (few,) = plan(replace(request, devices=("l4",), count=384), *KNOWN).plans
    assert not few.fits and few.why_not == "has 8 in one network at the most"


def test_a_short_job_starts_and_ends_too() -> None:
    shape = named_shape("smollm2-135m", MODELS)
    for p in plan(Request(shape=shape, job="sft", tokens=1e6), *KNOWN).plans:
        if p.time_s:
            assert p.time_s.value > p.parts["start"] > 10.0
            assert sum(p.parts.values()) == pytest.approx(p.time_s.value)
