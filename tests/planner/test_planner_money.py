"""What a job costs and draws: the price's spread and class, prices from memory, the host's power."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.errors import WrongUse
from steelyard.hardware import catalogue, named_models, published_constants
from steelyard.planner import Constants, Plan, Plans, Request, named_shape, plan, what_if
from steelyard.planner.job.cost import PRICE_CLASSES, Price, cost_figure, energy_kwh, host_w, price_of
from steelyard.planner.job.request import Owned, OwnPrice
from steelyard.units import Figure

CONSTANTS = Constants.from_json(published_constants())
LLAMA = named_shape("llama3-8b", named_models())


def asked(*devices: str, **words) -> Plans:
    request = Request(shape=LLAMA, tokens=1e8, finetuning_type="lora", devices=devices, **words)
    return plan(request, catalogue(), CONSTANTS)


def of(plans: Plans, device: str) -> Plan:
    return next(p for p in plans.plans if p.device == device)


# ------------------------------------------------------------------ prices


def test_the_interval_of_a_cost_holds_that_of_its_time_and_that_of_its_price():
    p = of(asked("h100-sxm"), "h100-sxm")
    assert p.cost_usd and p.time_s
    price = p.cost_usd.value / p.time_s.value
    assert p.cost_usd.high > 1.1 * p.time_s.high * price  # the same card costs more elsewhere
    assert p.cost_usd.low < 0.6 * p.time_s.low * price
    assert p.cost_usd.provenance == "vendor"


@given(
    st.floats(1.0, 1e6), st.floats(1.01, 3.0), st.floats(0.01, 50.0), st.floats(0.2, 1.0), st.floats(1.0, 4.0)
)
def test_a_cost_is_never_surer_than_its_time_or_its_price(time_s, wide, usd, low, high):
    time = Figure(time_s, time_s / wide, time_s * wide, "s", "fitted")
    price = Price(usd_per_h=Figure(usd, usd * low, usd * high, "USD/h", "vendor"), price_class="on-demand")
    cost = cost_figure(time, price, time_s / 3600 * usd)
    assert log(cost.high / cost.value) >= max(log(wide), log(high)) - 1e-9
    assert log(cost.value / cost.low) >= max(log(wide), -log(low)) - 1e-9


def test_a_price_of_ones_own_is_exact():
    given_price = OwnPrice(usd_per_h=2.0, price_class="reserved")
    p = of(asked("h100-sxm", prices={"h100-sxm": given_price}), "h100-sxm")
    assert p.cost_usd and p.time_s and p.price
    assert p.cost_usd.high / p.cost_usd.value == pytest.approx(p.time_s.high / p.time_s.value)
    assert p.price["usd_per_h"]["value"] == 2.0 and p.price["class"] == "reserved"


def test_only_like_is_compared_with_like():
    plans = asked("gaudi2", "h100-sxm")
    gaudi, h100 = of(plans, "gaudi2"), of(plans, "h100-sxm")
    assert gaudi.cost_usd and h100.cost_usd and gaudi.cost_usd.value < h100.cost_usd.value
    assert plans.plans[plans.best or 0].device == "h100-sxm"
    assert gaudi.fits and "vendor's own cloud" in (gaudi.lost or "")
    assert all(plans.plans[i].device != "gaudi2" for i in plans.frontier)


def test_other_classes_are_compared_when_they_are_asked_for():
    plans = asked("gaudi2", "h100-sxm", price_classes=("on-demand", "vendor"))
    assert plans.plans[plans.best or 0].device == "gaudi2"
    assert "from memory" in (of(plans, "h100-sxm").lost or "")  # what decided it is said


def test_a_device_that_is_asked_for_alone_has_a_plan_whatever_its_price():
    plans = asked("gaudi2")
    assert plans.best == 0 and plans.plans[0].price and plans.plans[0].price["class"] == "vendor"
    assert plans.plans[0].price["from_memory"]


def test_interruptible_machines_are_compared_among_themselves():
    plans = asked("gaudi2", "h100-sxm", spot=True)
    h100, gaudi = of(plans, "h100-sxm"), of(plans, "gaudi2")
    assert h100.price and gaudi.price
    assert (h100.price["class"], gaudi.price["class"]) == ("spot", "vendor")


def test_owned_hardware_is_a_class_of_its_own():
    own = (Owned(device="gaudi2", hosts=4, per_host=8), Owned(device="h100-sxm", hosts=4, per_host=8))
    plans = asked("gaudi2", "h100-sxm", own=own)
    classes = {p.device: p.price["class"] for p in plans.plans if p.price}
    assert set(classes.values()) == {"owned"} and not any("cloud" in (p.lost or "") for p in plans.plans)


def test_what_if_a_price_were_another_it_is_the_users_own():
    request = Request(shape=LLAMA, tokens=1e8, devices=("gaudi2", "h100-sxm"))
    plans = what_if(request, catalogue(), {"price.gaudi2": 0.5}, CONSTANTS)
    assert plans.plans[plans.best or 0].device == "gaudi2"


def test_a_price_without_a_class_is_one_clear_error():
    bare = replace(catalogue().find("h100-sxm"), price_class="")
    with pytest.raises(WrongUse, match="class") as caught:
        price_of(Request(shape=LLAMA), bare)
    assert "h100-sxm" in str(caught.value) and "on-demand" in (caught.value.hint or "")
    with pytest.raises(WrongUse, match="class"):
        OwnPrice(usd_per_h=2.0, price_class="cheap")
    with pytest.raises(WrongUse, match="price of h100-sxm has no price class"):
        Request(shape=LLAMA, prices={"h100-sxm": 2.0})  # type: ignore[dict-item]


def test_every_price_of_the_catalogue_has_a_class_and_a_source():
    for device in catalogue():
        assert (device.price_usd_per_h is None) == (device.price_class == ""), device.id
        assert device.price_class in ("", *PRICE_CLASSES), device.id
        assert bool(device.price_source) == bool(device.price_class), device.id


# ------------------------------------------------------------------ energy


def test_a_node_of_eight_h100_draws_what_mlperf_measured():
    """SMC, MLPerf Training 4.0, llama2-70b LoRA: 12,127,904 J (AC) in 29.10 min: 6.95 kW, in immersion; an
    air-cooled one drew 8.4 kW at most (Newkirk et al. 2024, arXiv 2412.08602)."""
    request = Request(
        shape=named_shape("llama2-70b", named_models()),
        tokens=25.2e6,
        seq_len=8192,
        finetuning_type="lora",
        precisions=("fp8",),
        devices=("h100-sxm",),
        max_devices=8,
    )
    p = plan(request, catalogue(), CONSTANTS).plans[0]
    assert p.devices == 8 and p.energy_kwh and p.time_s
    per_h = p.time_s.value / 3600
    assert p.energy_kwh.value / per_h == pytest.approx(6.95, rel=0.1)
    assert p.energy_kwh.low / (p.time_s.low / 3600) < 6.95
    assert p.energy_kwh.high / (p.time_s.high / 3600) > 8.0


def test_a_host_draws_beside_its_devices():
    for device in catalogue():
        if device.tdp_w:
            watts = host_w(device)
            assert watts is not None and 0.1 * device.tdp_w < watts < 0.8 * device.tdp_w, device.id


@given(st.sampled_from([d for d in catalogue() if d.tdp_w]), st.integers(1, 64), st.floats(1, 1e6))
def test_energy_is_between_an_idle_host_and_the_rating(device, devices, seconds):
    time = Figure(seconds, seconds, seconds, "s", "modelled")
    calm = energy_kwh(device, devices, time, {"waiting": 1.0})
    busy = energy_kwh(device, devices, time, {"gemm": 1.0})
    assert calm and busy and calm.value < busy.value
    rated = (device.tdp_w + 2 * host_w(device)) * devices * seconds / 3.6e6
    assert busy.low < busy.value < busy.high <= rated * 1.0001
