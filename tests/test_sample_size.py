"""Rows, tolerances and looks: published boundaries, simulated errors, and properties of any counts."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from steelyard.sample_size import (
    ALPHA,
    LEAST_TOLERANCE,
    LOOK_FACTOR,
    MOST_TOLERANCE,
    ability_rows,
    auto_tolerance,
    boundaries,
    guard_tolerance,
    held_out_needed,
    look_sizes,
    pairs_needed,
    restricted_variance,
    rows_to_hold_out,
    spending_boundaries,
    tolerance_shown,
)

NORMAL = NormalDist()


def test_boundaries_equal_the_published_ones():
    """O'Brien-Fleming-like spending, five equal looks, one-sided 2.5 % (Reboussin et al. 2000, LanDeM)."""
    shares = tuple(k / 5 for k in range(1, 6))
    spent = tuple(2 - 2 * NORMAL.cdf(NORMAL.inv_cdf(1 - 0.025 / 2) / math.sqrt(t)) for t in shares)
    assert spending_boundaries(shares, spent) == pytest.approx((4.877, 3.357, 2.680, 2.290, 2.031), abs=2e-3)


def test_one_look_has_the_whole_error():
    assert boundaries((400,)) == (pytest.approx(1.644854, abs=1e-6),)


@pytest.mark.parametrize("sizes", [(400, 800, 1600), (48, 96, 144, 192, 240), (60, 200)])
def test_all_looks_together_err_as_often_as_one_may(sizes):
    """Sums of normal rows without any effect cross a boundary at some look."""
    draw = np.random.default_rng(0)
    parts = np.diff([0, *sizes])
    paths = np.cumsum(draw.standard_normal((200_000, len(sizes))) * np.sqrt(parts), axis=1)
    crossed = (paths / np.sqrt(sizes) >= np.array(boundaries(sizes))).any(axis=1).mean()
    assert crossed == pytest.approx(ALPHA, abs=4 * math.sqrt(ALPHA * (1 - ALPHA) / 200_000))


@given(st.integers(1, 5000), st.integers(1, 1000))
def test_looks_grow_and_end_with_all_rows(pairs, first):
    sizes = look_sizes(pairs, first)
    assert sizes[-1] == pairs and list(sizes) == sorted(set(sizes)) and len(sizes) <= 4


@given(st.floats(0, 0.4), st.floats(0, 0.4), st.floats(-0.4, 0.0))
@settings(deadline=None)
def test_the_restricted_variance_is_that_of_the_likeliest_pair(gained, lost, delta):
    """Closed form against the score equation of the restricted likelihood, solved by bisection."""
    same, low, high = 1 - gained - lost, max(0.0, -delta), (1 - delta) / 2

    def slope(q: float) -> float:
        least = 1e-12
        moved = gained / max(q + delta, least) + lost / max(q, least)
        return moved - 2 * same / max(1 - 2 * q - delta, least)

    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    expected = 2 * low + delta - delta**2
    assert restricted_variance(gained, lost, delta) == pytest.approx(expected, abs=1e-6)


@given(st.integers(20, 3000), st.integers(1, 6))
@example(238, 2)  # 250 pairs are compared in one look less than 251, and so rule out less than these
@settings(deadline=None, max_examples=40)
def test_the_pairs_needed_for_what_some_pairs_show_are_about_as_many(pairs, abilities):
    shown = tolerance_shown(pairs, abilities)
    assert pairs_needed(shown, abilities) <= pairs
    if shown > 0.01:
        assert pairs_needed(shown - 0.002, abilities) > pairs * 0.8


@given(st.integers(1, 4000), st.integers(1, 6))
@settings(deadline=None, max_examples=40)
def test_the_automatic_tolerance_stays_in_its_range_and_falls_with_rows(pairs, abilities):
    some, more = auto_tolerance(pairs, abilities), auto_tolerance(2 * pairs, abilities)
    assert LEAST_TOLERANCE <= more <= some <= MOST_TOLERANCE


def test_what_the_gate_promises_about_common_sizes():
    assert tolerance_shown(400, 3) < 0.05  # three abilities of 400 rows rule out five points
    assert auto_tolerance(1600, 1) == LEAST_TOLERANCE
    assert auto_tolerance(200, 1) < MOST_TOLERANCE  # a CSV of 200 rows
    assert pairs_needed(0.02, 3) > LOOK_FACTOR * 400  # so that auto says 2.1 points there, not 2.0
    assert guard_tolerance(400, 3) == pytest.approx(0.053, abs=0.002)


def test_more_is_held_out_where_a_tenth_is_too_few():
    assert [rows_to_hold_out(n) for n in (0, 10, 200, 1000, 2000, 10_000)] == [0, 2, 40, 168, 200, 400]
    assert rows_to_hold_out(200, needed=20) == 20
    assert held_out_needed() == 168 and held_out_needed(0.05) > held_out_needed(0.1)


@given(st.integers(0, 100_000), st.integers(1, 400))
def test_at_most_a_fifth_of_the_rows_is_held_out(rows, most):
    held = rows_to_hold_out(rows, most)
    assert 0 <= held <= min(most, rows * 0.2 + 1)


def test_training_rows_make_up_the_pairs_up_to_four_looks():
    found = ability_rows(held_out=60, train=140, rows=400, abilities=1)
    assert (found.held_out, found.pairs, found.auto) == (60, 200, True)
    assert found.pairs_needed <= found.pairs and not found.enough  # held-out rows are still few
    assert ability_rows(900, 10_000, 400, 1).pairs == 1600
    strict = ability_rows(60, 140, 400, 1, tolerance=0.02)
    assert strict.tolerance == 0.02 and not strict.auto and strict.pairs_needed > 1000
    assert ability_rows(60, 140, 400, 1, tolerance=0.0).enough is False
