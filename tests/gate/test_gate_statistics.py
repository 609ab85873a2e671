"""Intervals and the verdict rule: published values, coverage, and properties that any data must keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.gate import Difference, difference, rows_needed, share, verdict_on
from steelyard.gate.quality.checks import quality_checks
from steelyard.gate.quality.scores import RowScore, Scores
from steelyard.gate.quality.statistics import of_counts, of_gaps, share_of, student

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


@pytest.mark.parametrize(("gained", "lost", "rows"), [(1, 7, 21), (1, 1, 40), (9, 2, 400), (0, 5, 60)])
def test_the_bounds_are_where_the_score_test_turns(gained, lost, rows):
    """Tango's definition, the restricted likelihood maximised by brute force instead of his closed form."""
    found = of_counts(gained, lost, rows, confidence=0.95)
    for delta, z in ((found.low, 1.959964), (found.high, -1.959964)):
        assert score_by_grid(gained, lost, rows, delta) == pytest.approx(z, abs=0.01)


def score_by_grid(gained: int, lost: int, rows: int, delta: float) -> float:
    """With the continuity correction of half a row."""
    q = np.linspace(max(0.0, -delta), (1 - delta) / 2, 2_000_001)[1:-1]  # P(lost); P(gained) = q + delta
    same = rows - gained - lost
    likelihood = gained * np.log(q + delta) + lost * np.log(q) + same * np.log1p(-2 * q - delta)
    best = q[likelihood.argmax()]
    gap = gained - lost - rows * delta
    return (gap - np.copysign(0.5, gap)) / np.sqrt(rows * (2 * best + delta - delta**2))


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
        less = (rows + more - 1) / rows
        assert verdict_on(of_counts(gained * less, lost * less, rows + more - 1), tolerance) == "undecided"


def test_two_points_cannot_be_told_with_few_rows_and_can_with_400():
    assert verdict_on(of_counts(0, 0, 100), 0.02) == "undecided"
    assert rows_needed(of_counts(0, 0, 100), 0.02) == 49  # 0.98 ** 149 < 0.05
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


@pytest.mark.parametrize("tolerance", [0.02, 0.05])
def test_a_loss_of_the_whole_tolerance_passes_in_at_most_one_case_in_twenty(tolerance):
    """Every pair of counts, weighed by its exact probability, over the shares gained that a form may have."""
    for rows in (60, 150, 171, 230, 400):
        for share_gained in (0.0, 0.01, 0.05):
            assert passing_chance(rows, share_gained, share_gained + tolerance, tolerance) <= 0.05


def passing_chance(rows: int, share_gained: float, share_lost: float, tolerance: float) -> float:
    most = rows // 3
    chance = 0.0
    for lost in range(most):
        for gained in range(most if share_gained else 1):
            weight = multinomial(rows, gained, lost, share_gained, share_lost)
            if weight > 1e-7 and verdict_on(of_counts(gained, lost, rows), tolerance) == "passed":
                chance += weight
    return chance


def multinomial(rows: int, gained: int, lost: int, share_gained: float, share_lost: float) -> float:
    same = rows - gained - lost
    log = math.lgamma(rows + 1) - sum(math.lgamma(n + 1) for n in (gained, lost, same))
    parts = ((gained, share_gained), (lost, share_lost), (same, 1 - share_gained - share_lost))
    return math.exp(log + sum(n * math.log(p) for n, p in parts if n))


def test_no_gain_at_all_is_taken_for_one_in_at_most_one_case_in_twenty():
    draw = np.random.default_rng(1)
    for rows, moved in ((10, 0.8), (20, 0.3), (60, 0.2), (400, 0.5)):
        found = draw.multinomial(rows, [moved / 2, moved / 2, 1 - moved], size=2000)
        hits = np.mean([of_counts(int(g), int(l), rows).low > 0 for g, l, _ in found])
        assert hits <= 0.05 + 3 * 0.005


GRADED = {
    "alike": (lambda draw, n: draw.normal(0.1, 0.15, n).clip(-1, 1), 0.1),
    "rare large losses": (lambda draw, n: np.where(draw.random(n) < 0.021, -0.95, 0.0), -0.01995),
    "rare losses": (lambda draw, n: np.where(draw.random(n) < 0.0667, -0.3, 0.0), -0.02001),
    "skewed": (lambda draw, n: -draw.beta(0.2, 5, n), -0.2 / 5.2),
    "grades of five": (lambda draw, n: (draw.integers(0, 5, n) - draw.integers(0, 5, n)) / 4, 0.0),
}


@pytest.mark.parametrize("kind", GRADED)
@pytest.mark.parametrize("rows", [20, 60, 150, 400])
def test_the_bound_of_graded_scores_holds_its_level(kind, rows):
    """2,000 samples: the lower bound lies above the truth in at most 5 %, four standard errors more."""
    sample, truth = GRADED[kind]
    draw = np.random.default_rng(rows)
    z = (1.644854, 1.644854)
    missed = np.mean([of_gaps(sample(draw, rows).tolist(), z).low > truth for _ in range(2000)])
    assert missed <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 2000)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=200), st.floats(1.0, 3.0))
def test_a_graded_interval_holds_its_mean_and_turns_round(gaps, z):
    d, swapped = of_gaps(gaps, (z, z)), of_gaps([-g for g in gaps], (z, z))
    assert -1 <= d.low <= d.value <= d.high <= 1
    assert (d.low, d.high) == pytest.approx((-swapped.high, -swapped.low), abs=1e-9)


def test_graded_scores_that_did_not_move_have_the_width_of_answers_that_did_not():
    d = difference([0.3, 0.7] * 200, [0.3, 0.7] * 200)
    assert d.low == of_counts(0, 0, 400).low == pytest.approx(-0.00746, abs=1e-5)
    assert of_gaps([0.0] * 399 + [-0.1], (1.644854, 1.644854)).low < -0.006


def test_students_quantiles_equal_the_table():
    # t at 95 % one-sided with 5, 10 and 30 degrees of freedom, at 99 % with 19 (any table).
    found = [student(1.644854, n) for n in (5, 10, 30)] + [student(2.326348, 19)]
    assert found == pytest.approx([2.015, 1.812, 1.697, 2.539], abs=1e-3)


def test_the_mean_of_graded_scores_has_an_interval():
    s = share_of([0.2, 0.4, 0.6, 0.5] * 25)
    assert s.value == pytest.approx(0.425) and 0.35 < s.low < 0.40 < 0.45 < s.high < 0.5
    assert share_of([1.0] * 5 + [0.0] * 5) == share(5, 10)


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
    against = [c for c in quality_checks(unanswered, unanswered, unanswered, gate) if "against" in c.name]
    assert len(against) == 2
    for check in against:
        assert check.passed is None and "no row to compare" in check.example
    tuned = _scores([0.0] * 150 + right[150:], errors=range(150))  # its rows that failed count for nobody
    served = _scores([0.0] * 150 + [0.7] * 250)
    against = {c.name: c.passed for c in quality_checks(tuned, tuned, served, gate)}
    assert (against["against_base/a"], against["against_tuned/a"]) == (False, False)
