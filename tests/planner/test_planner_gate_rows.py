"""What the plan says of the gate before the start: rows that are there and needed, and the loss ruled out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.planner import DataFacts, gate_document, gate_rows
from steelyard.planner.job.gate_rows import first_look, gate_settings
from steelyard.recipe import Compress, Gate, Recipe

RECIPE = Recipe(path=Path("r.yaml"), root=Path("."), name="r", model="demo")


def facts(**abilities):
    """`name=(train, held out)`."""
    return DataFacts(
        abilities={a: train for a, (train, _) in abilities.items()},
        held_out_by={a: held for a, (_, held) in abilities.items()},
        held_out=sum(held for _, held in abilities.values()),
    )


def test_a_csv_of_two_hundred_rows_is_told_what_its_gate_can_rule_out():
    found = gate_document(RECIPE, facts(replies=(160, 40)))
    one = found["abilities"]["replies"]
    assert (one["held_out"], one["held_out_needed"], one["pairs"]) == (40, 168, 200)
    assert 0.05 < one["tolerance"] <= 0.06 and one["pairs_needed"] <= 200
    assert found["notes"] == [
        "replies: 200 rows rule out a loss of 5.9 points by the served form (gate.tolerance: auto)",
        "replies: 40 held-out rows, 168 would show a gain of 10 points over the base: "
        "a smaller true gain may not show",
    ]


def test_many_rows_have_nothing_to_choose():
    found = gate_document(RECIPE, facts(a=(4000, 400)))
    assert found["enough"] and len(found["notes"]) == 1 and "2.0 points" in found["notes"][0]


def test_too_few_rows_name_the_wider_tolerance_as_the_users_choice():
    notes = gate_document(RECIPE, facts(a=(60, 15), b=(60, 15)))["notes"]
    few = next(n for n in notes if "too few rows" in n)
    assert "write gate: {tolerance: 0.119}" in few and "a wider loss that you accept" in few


def test_a_written_tolerance_is_kept_and_its_rows_are_named():
    recipe = replace(RECIPE, gate=Gate(tolerance=0.02))
    found = gate_document(recipe, facts(a=(500, 100)))
    assert found["abilities"]["a"]["tolerance"] == 0.02 and not found["enough"]
    assert any("rows are needed, or write gate: {tolerance: 0.032}" in n for n in found["notes"])
    assert gate_settings(recipe, facts(a=(500, 100)))["tolerances"] == {"a": 0.02}


def test_what_serving_may_lose_goes_before_the_gates_own_tolerance():
    recipe = replace(RECIPE, compress=Compress(max_quality_loss=0.01), gate=Gate(tolerance=0.05))
    assert gate_settings(recipe, facts(a=(500, 100)))["tolerances"] == {"a": 0.01}


@pytest.mark.parametrize("forget", [0.02, 0.05])
def test_what_may_be_forgotten_needs_rows_of_its_own(forget):
    recipe = replace(RECIPE, gate=Gate(forget={"a": forget}))
    assert gate_rows(recipe, facts(a=(5000, 100)))["a"].held_out_needed > 168


def test_without_training_there_is_no_gate():
    assert gate_rows(replace(RECIPE, train=()), facts(a=(0, 100))) == {}


def test_counts_of_before_give_each_ability_its_share():
    old = DataFacts(abilities={"a": 600, "b": 300}, held_out=100)
    assert {a: r.held_out for a, r in gate_rows(RECIPE, old).items()} == {"a": 50, "b": 50}


@given(st.integers(1, 1000), st.integers(0, 5000), st.integers(1, 800))
def test_a_first_look_asks_what_is_there_and_not_much_more_than_is_written(held_out, train, rows):
    look = first_look(rows, facts(a=(train, held_out)))
    assert min(held_out + train, max(1, rows // 2)) <= look <= min(held_out + train, 1.26 * rows + 1)


def test_half_of_the_rows_are_asked_where_there_are_enough():
    assert first_look(400, facts(a=(200, 400), b=(20, 100))) == 200 + 120
