"""Which forms the plan proposes in which order, and what it expects each to lose."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_planner_local import FACTS, MACHINE, RECIPE, SMOL, weigh

from steelyard.forms import FORMS
from steelyard.planner import fill, form_order, nominal_speed, quality_loss, stored_bytes
from steelyard.recipe import Compress, Goal, Load
from steelyard.shape import Shape

LARGER = replace(SMOL, layers=28, hidden=2048, heads=16, kv_heads=8, ffn=6144, params=1_720_000_000,
                 active_params=1_720_000_000)  # fmt: skip
# The table of design/engines.md section 5: output tokens a second at 1, 8 and 32 streams.
MEASURED = {"bf16": (62, 292, 405), "int8": (80, 299, 379), "int4_rtn": (98, 342, 414)}


def order(shape: Shape = SMOL, machine=MACHINE, facts=FACTS, **words) -> tuple[str, ...]:
    return form_order(replace(RECIPE, **words), shape, machine, facts)


def load(users: int) -> Goal:
    return Goal(load=Load(users=users))


def test_forms_that_are_named_are_tried_as_they_stand() -> None:
    assert order(compress=Compress(weights="int4")) == ("int4",)
    assert order(compress=Compress(weights=("bf16", "int8"))) == ("bf16", "int8")


def test_auto_pays_with_quality_only_where_speed_is_asked_for() -> None:
    assert order() == ("bf16", "f32")
    assert order(goal=load(1))[0] == "int8" and order(goal=load(32))[0] == "bf16"
    assert order(goal=load(1))[-1] in ("bf16", "f32")


def test_a_larger_model_is_worth_a_smaller_form_at_more_streams() -> None:
    gain = [
        nominal_speed("int8", s, 2, {"users": 8, "prompt_tokens": 128, "output_tokens": 64}).output_tok_s
        / nominal_speed("bf16", s, 2, {"users": 8, "prompt_tokens": 128, "output_tokens": 64}).output_tok_s
        for s in (SMOL, LARGER)
    ]
    assert gain[1] > gain[0]


def test_latency_puts_forward_the_forms_that_keep_it() -> None:
    slow, fast = (
        nominal_speed(f, LARGER, 2, {"users": 1, "prompt_tokens": 128, "output_tokens": 64}).tpot_s
        for f in ("bf16", "int8")
    )
    assert fast < slow
    assert order(shape=LARGER, goal=Goal(tpot_s={"p95": (fast + slow) / 2}))[0] == "int8"


def test_max_quality_loss_opens_and_closes_forms() -> None:
    loose, tight = (order(compress=Compress(max_quality_loss=x)) for x in (0.5, 0.001))
    assert loose[0] == "int4" and tight[0] == "bf16"
    assert "int4" not in order(compress=Compress(max_quality_loss=0.5), facts=replace(FACTS, rows=0))


def test_without_a_gate_nothing_is_tried() -> None:
    assert order(train=(), goal=load(1)) == ("bf16",)


@given(st.sampled_from([1, 2, 8, 32, 200]), st.floats(0, 1), st.sampled_from([SMOL, LARGER]))
def test_a_form_is_followed_only_by_forms_that_lose_less(users: int, most: float, shape: Shape) -> None:
    found = order(shape=shape, goal=load(users), compress=Compress(max_quality_loss=most))
    losses = [quality_loss(form, shape.params).value for form in found]
    assert losses == sorted(losses, reverse=True) and len(set(losses)) == len(losses)
    assert {"bf16"} <= set(found) or found[-1] == "f32"


def test_the_order_never_depends_on_timings_or_free_memory() -> None:
    slower = replace(MACHINE, memory_free_bytes=2**30, fingerprint="other", share=0.5)
    assert order(goal=load(4)) == order(goal=load(4), machine=slower)


@pytest.mark.parametrize("form", MEASURED)
def test_the_fixed_table_is_within_15_percent_of_what_was_measured(form: str) -> None:
    for users, seen in zip((1, 8, 32), MEASURED[form], strict=True):
        told = {"users": users, "prompt_tokens": 128, "output_tokens": 64}
        assert nominal_speed(form, SMOL, 2, told).output_tok_s == pytest.approx(seen, rel=0.15)


@given(st.floats(1e7, 1e11))
def test_losses_have_intervals_and_exact_forms_lose_nothing(params: float) -> None:
    for form in FORMS:
        loss = quality_loss(form, params)
        assert 0 <= loss.low <= loss.value <= loss.high
    assert quality_loss("f32", params).value == 0
    assert quality_loss("bf16", params).value < quality_loss("int8", params).value
    assert quality_loss("int4", params).value < quality_loss("int4_rtn", params).value


@pytest.mark.parametrize("form", list(FORMS))
def test_every_form_can_be_planned(form: str) -> None:
    filled, local = weigh(replace(RECIPE, compress=Compress(weights=form)))
    assert filled.settings["serve"]["kv_precision"] == FORMS[form].kv_precision
    assert local.steps["serve"]["output_tok_s"].value > 0
    assert 0.25 < stored_bytes(SMOL, form) / SMOL.weight_bytes("bf16") <= 2


def test_a_form_after_the_first_says_why_it_was_its_turn() -> None:
    recipe = replace(RECIPE, compress=Compress(weights=("int8", "bf16")))
    assert fill(recipe, SMOL, MACHINE, FACTS).origins["compress.weights"] == "recipe"
    assert fill(recipe, SMOL, MACHINE, FACTS, "bf16").origins["compress.weights"] == "gate: int8 failed"


def test_replicas_each_hold_the_model() -> None:
    one, three = (
        weigh(replace(RECIPE, serve=replace(RECIPE.serve, replicas=n)))[1].raw["serve"]["peak_rss_bytes"]
        for n in (1, 3)
    )
    assert one + 2 * stored_bytes(SMOL, "bf16") < three < 3 * one
