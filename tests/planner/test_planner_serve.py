"""A service: what fits is what is timed, prefills as engines run them, what people run is weighed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.errors import WrongUse
from steelyard.hardware import catalogue, named_models, published_constants
from steelyard.planner import Constants, Plan, Request, named_shape, plan
from steelyard.planner.physics.inference import (
    ServeSetup,
    all_reduces_s,
    decode_s,
    kv_s,
    prefill_attention_s,
    prefill_s,
    serve_memory_bytes,
    serve_memory_parts,
    serve_s,
)
from steelyard.planner.physics.kernels import attention_s
from steelyard.planner.physics.sizes import Sizes, hardware_of, total
from steelyard.planner.published.constants import groups, values

CONSTANTS, DEVICES = Constants.from_json(published_constants()), catalogue()
MODELS = ["llama3-8b", "llama3-70b", "mixtral-8x7b", "deepseek-r1", "smollm2-135m"]
PRICED = ["h100-sxm", "l4", "l40s", "gaudi2", "mi300x", "xeon-8480plus", "b200"]


def shape(name: str):
    """A model whose context is no limit here: prompts of any length are drawn."""
    return replace(named_shape(name, named_models()), max_position=0)


def serve_constants(device: str, stack: str = "vllm") -> dict[str, float]:
    return values(CONSTANTS, "serve", groups(DEVICES.find(device), stack))


def served(model: str, device: str, **words) -> Plan:
    asked = {"users": 8, "prompt_tokens": 512, "output_tokens": 128} | words
    (found,) = plan(
        Request(shape=shape(model), job="serve", devices=(device,), **asked), DEVICES, CONSTANTS
    ).plans
    return found


# ------------------------------------------------------------------ memory and time of one batch


@pytest.mark.parametrize(
    "model, device, users, prompt",
    [
        ("llama3-8b", "h100-sxm", 2000, 128),
        ("qwen2.5-7b", "a100-80-sxm", 2000, 512),
        ("smollm2-135m", "l4", 100_000, 512),
    ],
)
def test_thousands_of_users_do_not_fit_one_card(model, device, users, prompt) -> None:
    found = served(model, device, users=users, prompt_tokens=prompt, output_tokens=200, precisions=("bf16",))
    assert not found.fits or found.devices > 1
    if found.fits:
        cached = users * (prompt + 200) * shape(model).kv_bytes_per_token("bf16")
        assert found.bytes["kv"] * found.devices >= cached * 0.999


loads = st.fixed_dictionaries(
    {
        "users": st.sampled_from([1, 2, 7, 60, 700, 3000]),
        "prompt_tokens": st.sampled_from([16, 300, 2000, 9000]),
        "output_tokens": st.sampled_from([1, 60, 900]),
    }
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(MODELS), st.sampled_from(PRICED), loads, st.sampled_from([None, 0.3, 6.0, 80.0]))
def test_what_fits_holds_the_batch_that_is_timed(model, device, load, rate) -> None:
    words = load | ({"users": 1, "arrival_per_s": rate} if rate else {})
    found = served(model, device, **words)
    if not found.fits:
        return
    setup = ServeSetup(
        t=found.settings["tp"], p=found.settings["pp"], e=found.settings["ep"], batch=found.settings["batch"],
        prompt=load["prompt_tokens"], output=load["output_tokens"],
        weight_bits={"bf16": 16, "int4": 4, "fp4": 4}.get(found.settings["weights"], 8),
        kv_bits=found.settings["kv_bits"],
    )  # fmt: skip
    kv = serve_memory_parts(Sizes.of(shape(model), load["prompt_tokens"]), setup)["kv"]
    assert found.bytes["kv"] >= kv * (1 - 1e-9)
    assert sum(found.bytes.values()) <= DEVICES.find(device).memory_bytes
    if not rate:
        assert found.settings["batch"] * found.settings["replicas"] >= load["users"]
    assert found.service["ttft_s"].value > 0 and found.service["tpot_s"].value > 0


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(MODELS), st.sampled_from(PRICED), loads, st.integers(2, 9))
def test_more_users_never_need_less_memory(model, device, load, times) -> None:
    def held(users: int) -> float:
        found = served(model, device, **(load | {"users": users}))
        return found.devices * found.memory_bytes_per_device.value if found.fits else np.inf

    # The cheapest way may change with the load: the KV cache of a plan is compared, and what fits at all.
    few, many = held(load["users"]), held(times * load["users"])
    assert np.isfinite(few) or not np.isfinite(many)
    own = Sizes.of(shape(model), load["prompt_tokens"])
    setup = ServeSetup(prompt=load["prompt_tokens"], output=load["output_tokens"], batch=load["users"])
    more = replace(setup, batch=times * load["users"])
    assert serve_memory_bytes(own, more) > serve_memory_bytes(own, setup)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(MODELS), st.sampled_from(PRICED), st.sampled_from(["bf16", "int8"]),
    st.floats(16, 60_000), st.floats(1.01, 8), st.sampled_from([0.0, 0.4, 0.9]),
)  # fmt: skip
def test_a_longer_prompt_takes_longer_to_its_first_token(model, device, form, prompt, longer, hit) -> None:
    hardware, own = hardware_of(DEVICES.find(device)), shape(model)
    bits = {"bf16": 16, "int8": 8}[form]

    def first_s(tokens: float, hit: float = hit) -> float:
        setup = ServeSetup(prompt=tokens, weight_bits=bits, weight_only=bits < 16, prefix_hit=hit)
        return float(total(prefill_s(Sizes.of(own, tokens), setup, hardware, serve_constants(device))))

    assert first_s(prompt) < first_s(longer * prompt)
    assert first_s(prompt) <= first_s(prompt, 0.0)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(MODELS), st.sampled_from(PRICED), loads, st.sampled_from([None, 0.3, 6.0]))
def test_percentiles_are_in_order_whatever_the_job(model, device, load, rate) -> None:
    words = load | ({"users": 1, "arrival_per_s": rate} if rate else {})
    limits = {f"{name}_p{p}_s": 1e9 for name in ("ttft", "tpot") for p in (50, 95)}
    wanted = [served(model, device, **words, slo=limits | {"percentile": p}) for p in (50, 95)]
    if not wanted[0].fits:
        return
    p50 = served(model, device, **words, slo={"ttft_p50_s": 1e9})
    p95 = served(model, device, **words, slo={"ttft_p95_s": 1e9})
    for name in ("ttft_s", "tpot_s"):
        assert p50.service[name].value <= p95.service[name].value * (1 + 1e-9)


# ------------------------------------------------------------------ prefill


def test_attention_of_a_prefill_keeps_its_precision_and_its_own_rate() -> None:
    """128k tokens on an H100: 69 % of the operations are attention, which no weight's format makes faster."""
    own, card = shape("llama3-8b"), DEVICES.find("h100-sxm")
    setup = ServeSetup(prompt=128_000.0)
    times = {
        form: prefill_s(
            Sizes.of(own, 128_000), replace(setup, weight_bits=bits), hardware_of(card, form),
            serve_constants("h100-sxm"),
        )
        for form, bits in (("bf16", 16), ("fp8", 8))
    }  # fmt: skip
    assert times["fp8"]["attention"] == pytest.approx(times["bf16"]["attention"])
    core = own.heads * own.head_dim * 128e3
    kernel_s = own.layers * attention_s(2.0 * core * 128e3, core, hardware_of(card))
    assert times["bf16"]["attention"] == pytest.approx(float(kernel_s), rel=0.01)
    assert total(times["fp8"]) > 0.7 * total(times["bf16"])  # was 0.5


def test_a_cached_prefix_is_looked_at_but_not_computed() -> None:
    own, card = shape("llama3-8b"), hardware_of(DEVICES.find("h100-sxm"))
    sizes = Sizes.of(own, 8000)
    whole = prefill_attention_s(sizes, ServeSetup(prompt=8000.0), card)
    half = prefill_attention_s(sizes, ServeSetup(prompt=8000.0, prefix_hit=0.5), card)
    assert half == pytest.approx(0.75 * whole)


@pytest.mark.parametrize("device, cards", [("l40s", 4), ("l40s", 8), ("a100-80-pcie", 4), ("h100-pcie", 8)])
def test_a_ring_over_pcie_keeps_a_third_of_a_cards_rate(device, cards) -> None:
    """RTX PRO 6000 on 8 cards: 23.5 of 37.8 GB/s; RTX 5090: 28 GB/s of PCIe 5 (NVIDIA/nccl issue 1639)."""
    own, card = shape("llama3-70b"), hardware_of(DEVICES.find(device))
    rows = 2048.0
    seconds = all_reduces_s(Sizes.of(own, 2048), ServeSetup(t=cards), card, serve_constants(device), rows)
    moved = 2 * own.layers * rows * 4 * own.hidden * (cards - 1) / cards
    assert 25e9 / 8 < moved / float(seconds) < 25e9


def test_unpacking_four_bits_is_work_on_a_cpu() -> None:
    own, cpu = shape("llama2-7b"), hardware_of(DEVICES.find("xeon-8480plus"))
    constant = serve_constants("xeon-8480plus", "openvino")

    def first_s(bits: float, weight_only: int) -> float:
        setup = ServeSetup(prompt=1024.0, weight_bits=bits, weight_only=weight_only)
        return float(total(prefill_s(Sizes.of(own, 1024), setup, cpu, constant)))

    assert first_s(4, 1) > 1.6 * first_s(8, 1) > first_s(16, 0)
    # 14.7 TFLOP at no more than a quarter of AMX's 115 TFLOP/s.
    assert first_s(4, 1) > 0.5


# ------------------------------------------------------------------ what people run


@pytest.mark.parametrize("rate", [17.0, 26.0, 40.0])
def test_replicas_are_any_number(rate) -> None:
    """No more than one replica above what one fewer can no longer carry."""
    words = {
        "users": 1,
        "arrival_per_s": rate,
        "precisions": ("fp8",),
        "slo": {"ttft_p95_s": 0.5, "tpot_p95_s": 0.04},
    }
    found = served("llama3-70b", "h100-sxm", **words)
    each = found.settings["tp"] * found.settings["pp"]
    assert found.fits
    fewer = served("llama3-70b", "h100-sxm", **words, max_devices=found.devices - each)
    assert not fewer.fits or fewer.devices * fewer.cost_usd.value >= found.cost_usd.value


def test_devices_grow_with_the_load_and_not_by_doubling() -> None:
    counts = [
        served("llama3-70b", "h100-sxm", users=1, arrival_per_s=rate, precisions=("fp8",)).devices
        for rate in (8.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0)
    ]
    assert counts == sorted(counts)
    assert any(n & (n - 1) for n in counts)  # not all powers of two


@pytest.mark.parametrize(
    "device, form", [("h100-sxm", "fp8"), ("gaudi2", "fp8"), ("b200", "fp4"), ("a100-80-sxm", None)]
)
def test_the_device_s_own_formats_are_weighed_by_default(device, form) -> None:
    found = served("llama3-70b", device, users=64)
    assert found.fits and (form is None or found.settings["weights"] == form)
    sixteen = served("llama3-70b", device, users=64, precisions=("bf16",))
    assert found.cost_usd is None or found.cost_usd.value <= sixteen.cost_usd.value * (1 + 1e-9)


def test_deepseek_r1_for_4000_users_shares_experts_among_replicas() -> None:
    """SGLang serves 52.3k tokens/s in and 22.3k out a node of 8 H100 (LMSYS 2025-05): about 60 for these."""
    found = served("deepseek-r1", "h100-sxm", users=4000, prompt_tokens=4000, output_tokens=1000)
    assert found.fits and 30 <= found.devices <= 120
    assert found.settings["ep"] > found.settings["tp"]


@given(st.sampled_from([2, 8, 32]), st.integers(1, 200), st.sampled_from([1, 2, 8]))
def test_shared_experts_are_read_and_held_once(shared, batch, t) -> None:
    own, card = shape("deepseek-r1"), hardware_of(DEVICES.find("h100-sxm"))
    constant, sizes = serve_constants("h100-sxm"), Sizes.of(own, 1000)
    apart = ServeSetup(t=t, e=t, batch=float(batch), prompt=1000, weight_bits=8)
    together = replace(apart, e=t * shared)
    held = [serve_memory_parts(sizes, setup) for setup in (apart, together)]
    assert held[1]["weights"] < held[0]["weights"] and held[1]["kv"] == held[0]["kv"]
    times = [decode_s(sizes, setup, card, constant) for setup in (apart, together)]
    assert times[1]["weights"] < times[0]["weights"] and times[1]["tp"] > times[0]["tp"] * 0.5
    assert times[1]["kv"] == kv_s(sizes, apart, card, constant, float(batch))


# ------------------------------------------------------------------ guesses


@given(st.floats(0.05, 0.99), st.integers(1, 8))
def test_a_draft_that_costs_nothing_gains_no_more_than_what_is_taken(accept, drafted) -> None:
    own, card = shape("llama3-70b"), hardware_of(DEVICES.find("h100-sxm"))
    constant, sizes = serve_constants("h100-sxm"), Sizes.of(own, 512)
    setup = ServeSetup(t=4, batch=1.0, prompt=512, draft=drafted, accept=accept)
    plain, guessed = (decode_s(sizes, replace(setup, draft=k), card, constant) for k in (0, drafted))
    tokens = 1 + drafted * accept
    assert guessed["weights"] == pytest.approx(plain["weights"] / tokens)
    assert total(guessed) >= total(plain) / tokens * (1 - 1e-9)


def test_a_draft_pays_where_few_wait_and_is_left_out_where_it_does_not() -> None:
    words = {"draft": shape("llama3.2-1b"), "draft_tokens": 4, "precisions": ("fp8",), "max_devices": 4}
    few = served("llama3-70b", "h100-sxm", users=1, accept=0.8, **words)
    wrong = served("llama3-70b", "h100-sxm", users=1, accept=0.02, **words)
    assert few.settings["draft_tokens"] == 4 and few.bytes["draft"] > 1e9
    assert wrong.settings["draft_tokens"] == 0 and wrong.bytes["draft"] == 0
    many = served("llama3-70b", "h100-sxm", users=500, accept=0.2, **words)
    assert many.settings["draft_tokens"] == 0


def test_a_draft_never_makes_a_plan_dearer() -> None:
    """It is one way more: a plan that may leave it out is never dearer than one without."""
    for users in (1, 8, 100):
        plain = served("llama3-70b", "h100-sxm", users=users, precisions=("fp8",), max_devices=4)
        for accept in (0.05, 0.3, 0.8):
            words = {"draft_tokens": 3, "accept": accept, "precisions": ("fp8",), "max_devices": 4}
            looked_up = served("llama3-70b", "h100-sxm", users=users, **words)
            assert looked_up.cost_usd.value <= plain.cost_usd.value * (1 + 1e-9)


def test_a_prefix_that_is_cached_saves_prefill_and_never_costs() -> None:
    words = {"users": 64, "prompt_tokens": 4000, "precisions": ("fp8",)}
    cold, warm = (served("llama3-70b", "h100-sxm", prefix_hit=hit, **words) for hit in (0.0, 0.8))
    assert warm.cost_usd.value < cold.cost_usd.value and warm.settings["prefix_hit"] == 0.8


@pytest.mark.parametrize(
    "words, code",
    [
        ({"prefix_hit": 1.2}, "plan.prefix_hit"),
        ({"draft_tokens": 4}, "plan.accept"),
        ({"draft_tokens": 4, "accept": 1.5}, "plan.accept"),
    ],
)
def test_a_share_that_is_none_is_refused(words, code) -> None:
    with pytest.raises(WrongUse) as raised:
        Request(shape=shape("llama3-8b"), job="serve", **words)
    assert raised.value.code == code and raised.value.hint


def test_parts_of_both_phases_are_never_negative() -> None:
    for device in PRICED:
        for model in MODELS:
            setup = ServeSetup(t=np.array([1.0, 8.0]), batch=np.array([1.0, 300.0]), prompt=700, draft=3)
            parts = serve_s(
                Sizes.of(shape(model), 700), setup, hardware_of(DEVICES.find(device)), serve_constants(device)
            )
            assert all(np.all(np.asarray(p) >= 0) for phase in parts.values() for p in phase.values())
