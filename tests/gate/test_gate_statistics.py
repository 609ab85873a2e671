"""Intervals and the verdict rule: published values, coverage, and properties that any data must keep."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.gate import Difference, difference, rows_needed, share, verdict_on
from steelyard.gate.quality import quality_checks
from steelyard.gate.scores import RowScore, Scores
from steelyard.gate.statistics import of_counts

pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=300)


def changed(rows: list[tuple[bool, bool]], **more) -> Difference:
    return difference([float(a) for a, _ in rows], [float(b) for _, b in rows], **more)


@pytest.mark.parametrize(
    ("right", "rows", "low", "high"),
    # Newcombe (1998, Statistics in Medicine 17:857), table I, method 3: Wilson without correction.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_the_published_table(right, rows, low, high):
    s = share(right, rows)
    assert (s.low, s.high) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("gained", "lost", "rows"), [(1, 7, 21), (0, 0, 40), (9, 2, 400), (0, 5, 60)])
def test_the_bounds_are_where_the_score_test_turns(gained, lost, rows):
    """Tango's definition, the restricted likelihood maximised by brute force instead of his closed form."""
    found = of_counts(gained, lost, rows, confidence=0.95)
    for delta, z in ((found.low, 1.959964), (found.high, -1.959964)):
        assert score_by_grid(gained, lost, rows, delta) == pytest.approx(z, abs=0.01)


def score_by_grid(gained: int, lost: int, rows: int, delta: float) -> float:
    q = np.linspace(max(0.0, -delta), (1 - delta) / 2, 2_000_001)[1:-1]  # P(lost); P(gained) = q + delta
    same = rows - gained - lost
    likelihood = gained * np.log(q + delta) + lost * np.log(q) + same * np.log1p(-2 * q - delta)
    best = q[likelihood.argmax()]
    return (gained - lost - rows * delta) / np.sqrt(rows * (2 * best + delta - delta**2))


@given(pairs)
def test_the_interval_holds_the_value_and_stays_in_range(rows):
    d = changed(rows)
    assert -1 <= d.low <= d.value <= d.high <= 1


@given(pairs)
def test_swapping_the_two_turns_the_interval_round(rows):
    d, swapped = changed(rows), changed([(b, a) for a, b in rows])
    assert (d.low, d.high) == pytest.approx((-swapped.high, -swapped.low), abs=1e-9)


@given(pairs, st.floats(0.5, 0.9))
def test_more_confidence_is_never_narrower(rows, confidence):
    narrow, wide = changed(rows, confidence=confidence), changed(rows, confidence=0.99)
    assert wide.low <= narrow.low + 1e-9
    assert narrow.high <= wide.high + 1e-9


@given(pairs, st.floats(0.0, 0.5))
def test_a_verdict_follows_the_interval(rows, tolerance):
    d = changed(rows)
    expected = {
        "failed": d.high < -tolerance,
        "passed": d.low >= -tolerance,
        "undecided": d.low < -tolerance <= d.high,
    }
    assert [v for v, holds in expected.items() if holds] == [verdict_on(d, tolerance)]


@given(st.integers(0, 30), st.integers(0, 30), st.integers(60, 400), st.floats(0.005, 0.1))
def test_the_rows_asked_for_decide_and_one_fewer_does_not(gained, lost, rows, tolerance):
    d = of_counts(gained, lost, rows)
    more = rows_needed(d, tolerance)
    if verdict_on(d, tolerance) != "undecided":
        assert more == 0
    elif more < 500_000:
        grown = (rows + more) / rows
        assert verdict_on(of_counts(gained * grown, lost * grown, rows + more), tolerance) != "undecided"


def test_two_points_cannot_be_told_with_few_rows_and_can_with_400():
    assert verdict_on(of_counts(0, 0, 100), 0.02) == "undecided"
    assert rows_needed(of_counts(0, 0, 100), 0.02) == pytest.approx(33, abs=3)
    assert verdict_on(of_counts(4, 4, 400), 0.02) == "passed"
    assert verdict_on(of_counts(2, 30, 400), 0.02) == "failed"


def test_the_interval_covers_the_truth_as_often_as_it_says():
    draw = np.random.default_rng(0)
    gained, lost = 0.02, 0.05
    hits = 0
    for g, l, _ in draw.multinomial(400, [gained, lost, 1 - gained - lost], size=1000):
        d = of_counts(g, l, 400)
        hits += d.low <= gained - lost <= d.high
    assert 0.87 <= hits / 1000 <= 0.93  # 90 % asked for; three standard errors


def test_scores_between_0_and_1_get_a_normal_interval():
    d = difference([0.2, 0.4, 0.6, 0.1], [0.3, 0.5, 0.7, 0.25])
    assert d.value == pytest.approx(0.1125)
    assert d.low < d.value < d.high


def test_unequal_lengths_do_not_pair():
    with pytest.raises(ValueError, match="pair"):
        difference([1.0], [1.0, 0.0])


def _scores(values, errors=()):
    rows = (
        RowScore(row=str(i), ability="a", value=v, answer_sha256=None, error="503" if i in errors else None)
        for i, v in enumerate(values)
    )
    return Scores(rows=tuple(rows))


def test_rows_that_the_other_side_did_not_answer_prove_nothing():
    gate = {"abilities": {"a": {}}, "tolerance": 0.02}
    right, wrong = [1.0] * 400, [0.0] * 400
    unanswered = _scores(wrong, errors=range(400))
    for check in quality_checks(unanswered, unanswered, unanswered, gate):
        assert check.passed is None and "no row to compare" in check.example
    tuned = _scores([0.0] * 150 + right[150:], errors=range(150))  # its rows that failed count for nobody
    served = _scores([0.0] * 150 + [0.7] * 250)
    against = {c.name: c.passed for c in quality_checks(tuned, tuned, served, gate)}
    assert against == {"against_base/a": False, "against_tuned/a": False}
