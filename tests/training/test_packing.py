"""Order, packing and the count of steps: pure, so by property."""

from __future__ import annotations

from array import array
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.training import schedule
from steelyard.training.packing import Schedule, learning_rate
from steelyard.training.rows import Rows, TrainingExample

SETTINGS = {
    "num_train_epochs": 1,
    "max_steps": 0,
    "max_length": 64,
    "packing": True,
    "micro_batch": 1,
    "grad_accum": 1,
    "seed": 0,
    "mix": {},
    "learning_rate": 1.0,
}
LENGTHS = st.lists(st.integers(1, 80), min_size=1, max_size=60)


def settings(**more):
    return {**SETTINGS, **more}


@given(LENGTHS, st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_every_row_stands_once_an_epoch_and_no_sequence_is_too_long(lengths, epochs, micro, accum):
    plan = schedule(lengths, settings(num_train_epochs=epochs, micro_batch=micro, grad_accum=accum))
    counted = Counter(row for step in plan.steps for batch in step for row in batch)
    usable = {row for row, length in enumerate(lengths) if length <= 64}
    assert counted == dict.fromkeys(usable, epochs)
    assert plan.tokens == epochs * sum(lengths[row] for row in usable)
    assert plan.too_long == len(lengths) - len(usable)
    for step in plan.steps:
        assert len(step) <= accum
        assert all(sum(lengths[row] for row in batch) <= 64 * micro for batch in step)


@given(LENGTHS, st.integers(1, 40))
def test_max_steps_is_kept(lengths, steps):
    plan = schedule(lengths, settings(max_steps=steps))
    assert len(plan.steps) == (steps if plan.rows else 0)


@given(LENGTHS, st.integers(0, 9))
def test_the_order_is_a_function_of_the_seed(lengths, seed):
    assert schedule(lengths, settings(seed=seed)) == schedule(lengths, settings(seed=seed))


def test_seeds_and_epochs_differ():
    first = schedule([8] * 40, settings(num_train_epochs=2))
    assert first != schedule([8] * 40, settings(num_train_epochs=2, seed=1))
    rows = [row for step in first.steps for batch in step for row in batch]
    assert rows[:40] != rows[40:]
    assert sorted(rows[:40]) == sorted(rows[40:])


def test_the_mix_is_met_all_along_the_way():
    abilities = ["a"] * 30 + ["b"] * 10
    plan = schedule([8] * 40, settings(mix={"a": 1.0, "b": 3.0}, num_train_epochs=2), abilities)
    drawn = [abilities[row] for step in plan.steps for batch in step for row in batch]
    assert len(drawn) == 80
    for cut in range(1, 81):
        assert abs(drawn[:cut].count("b") - 0.75 * cut) <= 1


def drawn_rows(plan):
    return [row for step in plan.steps for batch in step for row in batch]


def test_weights_of_rows_speak_inside_their_ability_alone():
    """9 to 1 among the sources of "a"; "a" and "b" stay 40 to 20, or as the mix has them."""
    abilities = ["a"] * 40 + ["b"] * 20
    weights = [0.9 * 40 / 10] * 10 + [0.1 * 40 / 30] * 30 + [1.0] * 20
    for mix, share in (({}, 40 / 60), ({"a": 1.0, "b": 3.0}, 0.25)):
        rows = drawn_rows(schedule([8] * 60, settings(mix=mix, num_train_epochs=10), abilities, weights))
        of_a = [row for row in rows if row < 40]
        assert len(rows) == 600 and len(of_a) == pytest.approx(600 * share, abs=2)
        assert sum(row < 10 for row in of_a) == pytest.approx(0.9 * len(of_a), abs=2)


def test_equal_weights_change_no_order():
    plain = schedule([8] * 40, settings(num_train_epochs=2), ["a"] * 20 + ["b"] * 20)
    assert plain == schedule([8] * 40, settings(num_train_epochs=2), ["a"] * 20 + ["b"] * 20, [1.0] * 40)


def test_a_row_beyond_the_packed_length_stands_alone():
    lengths = [8] * 16 + [60] + [8] * 16
    plan = schedule(lengths, settings(max_length=64, pack_length=32, micro_batch=1, grad_accum=1))
    parts = [batch for step in plan.steps for batch in step]
    assert sorted(row for part in parts for row in part) == list(range(33))
    assert all(sum(lengths[row] for row in part) <= 32 or part == (16,) for part in parts)


def test_without_packing_a_sequence_is_a_row():
    plan = schedule([8] * 10, settings(packing=False, micro_batch=4))
    assert [len(batch) for step in plan.steps for batch in step] == [4, 4, 2]


def test_the_rate_rises_then_falls_to_nothing():
    rates = [learning_rate(step, 100, settings(warmup_ratio=0.1)) for step in range(100)]
    assert max(rates) == rates[10] == 1.0
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001


def test_each_row_names_the_steps_in_which_it_was_taught():
    ids = array("i", [1, 2])
    examples = [TrainingExample(ids, b"\0\1", "", number) for number in (0, 0, 1, 2)]  # row 0 is in two parts
    rows = Rows(examples=examples, names=["a:1", "a:2", "a:3", "a:4"])
    plan = Schedule((((0,), (2,)), ((1,),), ((3,), (0,))), 0, 0, 0)
    assert list(rows.steps(plan)) == [
        {"id": "a:1", "steps": [1, 2, 3]}, {"id": "a:2", "steps": [1]}, {"id": "a:3", "steps": [3]},
    ]  # fmt: skip
    assert [one["id"] for one in rows.steps(plan, skipped=(2,))] == ["a:1", "a:2"]
