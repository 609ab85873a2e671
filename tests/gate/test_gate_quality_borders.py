"""Every check of quality on both sides of its border; the statistics under it by properties and tables."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.chances import at_least, at_most, two_sided
from steelyard.gate.quality.checks import against_base, against_tuned, base_look, pairs, quality_checks
from steelyard.gate.quality.design import Design, design_of
from steelyard.gate.quality.scores import RowScore, Scores
from steelyard.gate.quality.statistics import (
    Difference,
    difference,
    of_counts,
    of_gaps,
    quantile,
    rows_needed,
    share,
    share_of,
    student,
    verdict_on,
)
from steelyard.gate.step import GateFailed, _hint

GATE = {"tolerance": 0.02, "abilities": {"a": {}}}
ONE_SIDED = 1.6448536269514722


def scores(values, ability="a", prefix="", **more) -> Scores:
    rows = (
        RowScore(row=f"{prefix}{i}", ability=ability, value=float(v), answer_sha256=None, **more)
        for i, v in enumerate(values)
    )
    return Scores(rows=tuple(rows))


def some(right: int, rows: int) -> Scores:
    return scores([1.0] * right + [0.0] * (rows - right))


def checked(base, tuned, served, gate=GATE, **more):
    return {c.name: c for c in quality_checks(base, tuned, served, gate, **more)}


# ------------------------------------------------------------------ statistics

TABLE = [
    # scipy 1.17.1, t.ppf(norm.cdf(z), freedom)
    (1.0, 2, 1.32128), (1.644854, 3, 2.35336), (1.959964, 4, 2.77645), (2.326348, 8, 2.89646),
    (1.644854, 59, 1.67109), (2.575829, 399, 2.58821), (2.241403, 24, 2.39095),
]  # fmt: skip


@pytest.mark.parametrize(("z", "freedom", "expected"), TABLE)
def test_students_quantile_is_near_the_exact_one(z, freedom, expected):
    """The series is short of it by 0.1 % at two degrees of freedom, by half of that at three."""
    assert student(z, freedom) == pytest.approx(expected, rel=0.0011)
    assert student(z, freedom) >= z


@pytest.mark.parametrize(
    ("count", "n", "p", "below", "above"),
    # scipy 1.17.1, binom.cdf(count, n, p) and binom.sf(count - 1, n, p)
    [
        (0, 10, 0.3, 0.0282475249, 1.0),
        (3, 20, 0.1, 0.86704667657, 0.32307319481),
        (15, 48, 0.5, 0.00664164078, 0.99724239926),
        (2, 600, 0.02, 0.00047925393, 0.99992794004),
        (40, 48, 0.7, 0.98882455885, 0.02693829449),
    ],
)
def test_tails_of_a_count_equal_the_table(count, n, p, below, above):
    assert at_most(count, n, p) == pytest.approx(below, rel=1e-8)
    assert at_least(count, n, p) == pytest.approx(above, rel=1e-8)


def test_a_chance_of_nothing_or_of_all_tests_nothing():
    assert at_least(0, 9, 0.0) == at_most(9, 9, 1.0) == 1.0
    assert two_sided(0.0) == two_sided(-3.0) == 1.0
    # scipy 1.17.1: 2 * norm.sf(1.3), 2 * norm.sf(3)
    assert (two_sided(1.3), two_sided(3.0)) == pytest.approx((0.1936009692, 0.0026997961))


def test_quantiles_are_two_sided():
    assert [quantile(c) for c in (0.9, 0.95, 0.98)] == pytest.approx([1.644854, 1.959964, 2.326348], abs=1e-6)


@given(st.integers(2, 500), st.data(), st.floats(0.8, 3.5))
def test_one_row_better_never_lowers_a_bound(rows, data, z):
    """From a lost row to one that did not move, and on to a gained one; also where none moved at all."""
    lost = data.draw(st.integers(0, rows - 1))
    gained = data.draw(st.integers(0, rows - 1 - lost))
    now = of_counts(gained, lost, rows, z=(z, z))
    better = [of_counts(gained + 1, lost, rows, z=(z, z))]
    better += [of_counts(gained, lost - 1, rows, z=(z, z))] if lost else []
    for d in better:
        assert d.low >= now.low - 1e-9 and d.high >= now.high - 1e-9, (d, now)


@given(st.integers(1, 500), st.integers(0, 30), st.integers(0, 30), st.floats(0.8, 3.5), st.floats(0.8, 3.5))
def test_each_bound_has_its_own_level(rows, gained, lost, z, other):
    gained, lost = min(gained, rows), min(lost, max(0, rows - gained))
    one, two = of_counts(gained, lost, rows, z=(z, other)), of_counts(gained, lost, rows, z=(other, z))
    both = of_counts(gained, lost, rows, z=(z, z))
    assert (one.low, two.high) == (both.low, both.high)


@given(st.integers(1, 400), st.floats(0.01, 0.4))
def test_where_no_row_moved_the_bound_is_the_exact_one(rows, level):
    """A share of `-low` lost would leave all rows as they are in exactly that part of the cases."""
    z = NormalDist().inv_cdf(1 - level)
    d = of_counts(0, 0, rows, z=(z, z))
    assert (1 + d.low) ** rows == pytest.approx(level, rel=1e-6) and d.high == -d.low


@pytest.mark.parametrize(("gained", "lost"), [(1, 0), (3, 0)])
def test_a_gained_row_costs_nothing_at_the_levels_of_early_looks(gained, lost):
    """It used to: at z = 2.4 equal answers to 200 rows ruled out 2.4 points, with one row more 2.8."""
    for z in (2.0, 2.4, 3.0):
        same, better = (of_counts(g, lost, 200, z=(z, z)) for g in (0, gained))
        assert better.low >= same.low and -of_counts(0, gained, 200, z=(z, z)).high == better.low


@pytest.mark.parametrize("z", [2.0, 3.0])
@pytest.mark.parametrize("rows", [24, 100])
def test_the_bound_of_an_early_look_keeps_its_level(rows, z):
    """Every pair of counts by its exact probability, at the loss that equal answers just rule out."""
    level = 1 - NormalDist().cdf(z)
    tolerance = 1.0001 * (1 - level ** (1 / rows))
    passing = [
        (g, n)
        for n in range(6)
        for g in range(20)
        if verdict_on(of_counts(g, n, rows, z=(z, z)), tolerance) == "passed"
    ]
    for share_gained in (1e-9, 0.005, 0.02):
        share_lost = share_gained + tolerance
        chance = sum(
            math.comb(rows, n) * math.comb(rows - n, g) * share_lost**n * share_gained**g
            * (1 - share_lost - share_gained) ** (rows - n - g)
            for g, n in passing
        )  # fmt: skip
        assert chance <= level, share_gained


def test_a_difference_without_rows_is_open():
    assert (of_counts(0, 0, 0).low, of_counts(0, 0, 0).high) == (-1.0, 1.0)
    assert (difference([], []).low, difference([], []).rows) == (-1.0, 0)
    assert (of_gaps([0.3], (2.0, 2.0)).low, of_gaps([0.3], (2.0, 2.0)).high) == (-1.0, 1.0)
    assert (share(0, 0).low, share(0, 0).high, share_of([]).rows) == (0.0, 1.0, 0)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=60), st.floats(0.8, 2.5))
def test_a_graded_bound_is_written_out(gaps, z):
    """Student's t over the gaps and z**2 / 2 more at either end of the range, half the largest gap wider."""
    n = len(gaps) + z * z
    mean = sum(gaps) / n
    spread = math.sqrt(max(0.0, (sum(g * g for g in gaps) + z * z) / n - mean * mean) / n)
    half = student(z, len(gaps) - 1) * spread + 0.5 * max(map(abs, gaps)) / n
    d = of_gaps(gaps, (z, z))
    value = sum(gaps) / len(gaps)
    assert d.low == pytest.approx(max(-1.0, min(mean - half, value)), abs=1e-9)
    assert d.high == pytest.approx(min(1.0, max(mean + half, value)), abs=1e-9)
    assert d.gained - d.lost == pytest.approx(sum(gaps), abs=1e-9) and d.gained >= 0 and d.lost >= 0


@given(st.lists(st.integers(0, 1000).map(lambda n: n / 1000), min_size=2, max_size=80))
def test_a_mean_of_grades_lies_in_its_interval_and_answers_turned_round_in_theirs(values):
    s, turned = share_of(values), share_of([1 - v for v in values])
    assert 0 <= s.low <= s.value <= s.high <= 1 and s.rows == len(values)
    assert (s.low, s.high) == pytest.approx((1 - turned.high, 1 - turned.low), abs=1e-9)


def test_wilson_lies_inside_0_and_1_and_shrinks():
    for right, rows in ((0, 7), (7, 7), (3, 7)):
        few, many = share(right, rows), share(right * 100, rows * 100)
        assert 0 <= few.low <= many.low <= few.value <= many.high <= few.high <= 1


def at(low: float, high: float, rows: int = 100) -> Difference:
    return Difference(value=(low + high) / 2, low=low, high=high, rows=rows, gained=1, lost=1)


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (-0.02, 0.1, "passed"),  # as much as the tolerance is within it
        (-0.0200001, 0.1, "undecided"),
        (-0.1, -0.02, "undecided"),
        (-0.1, -0.0200001, "failed"),
    ],
)
def test_a_bound_on_the_tolerance_lies_within_it(low, high, outcome):
    assert verdict_on(at(low, high), 0.02) == outcome


def test_rows_beyond_a_million_are_not_promised():
    d = of_counts(40, 48, 400)  # a loss of exactly the tolerance never decides
    assert verdict_on(d, 0.02) == "undecided" and rows_needed(d, 0.02) == 1_000_000


# ------------------------------------------------------------------ the score itself


@pytest.mark.parametrize(("right", "passed"), [(0, False), (1, True)])
def test_one_right_answer_is_more_than_none(right, passed):
    check = checked(some(0, 50), some(right, 50), some(right, 50))["score/a"]
    assert check.passed is passed and check.value == right / 50 and check.limit == 0.0


@pytest.mark.parametrize(("right", "passed"), [(45, True), (44, False)])
def test_a_minimum_is_reached_by_the_score_itself(right, passed):
    gate = {"tolerance": 0.02, "abilities": {"a": {"min": 0.9}}}
    check = checked(some(1, 50), some(right, 50), some(right, 50), gate)["min/a"]
    assert check.passed is passed and check.limit == 0.9 and check.low < 0.9 < check.high


@pytest.mark.parametrize(
    ("gate", "name"),
    [({"abilities": {"b": {"min": 0.5}}}, "min/b"), ({"forget": {"b": 0.1}}, "against_base/b")],
)
def test_what_is_demanded_of_an_ability_without_rows_is_open(gate, name):
    """It used to be passed over: a recipe with `min: 0.5` was served without one row that shows it."""
    found = checked(some(10, 400), some(300, 400), some(300, 400), GATE | gate)
    assert found[name].passed is None and "no held-out row" in found[name].example
    assert found["against_base/a"].passed is True
    assert set(found) - {name} == set(checked(some(10, 400), some(300, 400), some(300, 400)))


@pytest.mark.parametrize(("own", "passed"), [(0.6, True), (0.5, False), (0.4, False)])
def test_answers_must_fit_their_own_question_better(own, passed):
    served = scores([own] * 60, elsewhere=0.5)
    check = checked(scores([0.1] * 60), served, served)["fits/a"]
    assert check.passed is passed and check.limit == 0.0
    assert ("do not follow" in check.example) is not passed


def test_rows_without_another_row_beside_them_are_left_out():
    rows = scores([0.6] * 30, elsewhere=0.1).rows + scores([0.0] * 30, prefix="x").rows
    check = checked(scores([0.0] * 60), Scores(rows=rows), Scores(rows=rows))["fits/a"]
    assert check.value == pytest.approx(0.5)
    assert "fits/a" not in checked(some(1, 60), some(9, 60), some(9, 60))


# ------------------------------------------------------------------ against the base


@pytest.mark.parametrize("more", range(0, 40, 3))
def test_a_gain_is_shown_where_the_lower_bound_lies_above_nothing(more):
    base, served = some(100, 400), some(100 + more, 400)
    design = design_of(GATE, {"a": 400}, {})
    z = design.quantiles(*base_look(base, "a", design))
    change = of_counts(more, 0, 400, z=z)
    check = checked(base, served, served)["against_base/a"]
    assert check.passed is (change.low > 0) and (check.low, check.high) == (change.low, change.high)


@pytest.mark.parametrize("lost", range(0, 60, 4))
def test_what_may_be_forgotten_is_decided_by_the_interval(lost):
    base, served = some(300, 400), some(300 - lost, 400)
    check = checked(base, served, served, GATE | {"forget": {"a": 0.07}})["against_base/a"]
    outcome = verdict_on(at(check.low, check.high), 0.07)
    assert check.passed is {"passed": True, "failed": False, "undecided": None}[outcome]
    assert check.limit == -0.07 and check.value == pytest.approx(-lost / 400)


def test_nothing_may_be_forgotten_is_a_demand_too():
    same = some(300, 400)
    assert checked(same, same, same, GATE | {"forget": {"a": 0.0}})["against_base/a"].passed is None
    assert checked(same, same, some(340, 400), GATE | {"forget": {"a": 0.0}})["against_base/a"].passed is True


@pytest.mark.parametrize(("lost", "passed"), [(0, True), (8, True), (9, None), (40, False)])
def test_with_a_minimum_a_measured_loss_within_the_tolerance_passes(lost, passed):
    gate = {"tolerance": 0.02, "abilities": {"a": {"min": 0.1}}}
    check = checked(some(300, 400), some(300, 400), some(300 - lost, 400), gate)["against_base/a"]
    assert check.passed is passed and check.limit == -0.02 and "`min` is set" in check.example


def test_a_base_at_nine_tenths_leaves_no_room_only_where_a_perfect_score_would_not_show():
    few = checked(some(28, 30), some(28, 30), some(28, 30))["against_base/a"]
    assert few.passed is True and "no room" in few.example
    many = checked(some(372, 400), some(372, 400), some(372, 400))["against_base/a"]
    assert many.passed is False and "no gain" in many.example  # 28 rows more would have shown one


def test_each_look_at_the_base_has_a_bound_of_its_own():
    design = design_of(GATE, {"a": 400}, {})
    assert design.base_sizes("a") == (*range(48, 400, 48), 400)
    assert [base_look(some(1, n), "a", design)[1] for n in (1, 48, 49, 96, 399, 400)] == [0, 0, 1, 1, 8, 8]
    assert base_look(scores([1.0] * 60, ability="b"), "a", design)[1] == 0  # rows of another ability
    early, late = (design.quantiles(design.base_sizes("a"), look)[0] for look in (0, 8))
    assert early > late > ONE_SIDED
    # 8 of 48 rows gained are sure where 48 are all, and not where eight looks are still to come.
    base, served = some(0, 48), some(8, 48)
    assert against_base(base, served, "a", GATE, design_of(GATE, {"a": 48}, {})).passed is True
    assert against_base(base, served, "a", GATE, design).passed is not True


# ------------------------------------------------------------------ against the tuned model


@pytest.mark.parametrize("lost", range(0, 44, 4))
@pytest.mark.parametrize("look", [0, 1])
def test_served_is_held_to_the_bounds_of_its_look(lost, look):
    design = design_of(GATE | {"tolerance": 0.05, "rows": 200}, {"a": 200}, {"a": 200})
    rows = design.sizes("a")[look]
    (check, *_) = against_tuned(some(rows, rows), some(rows - lost, rows), "a", design, look=look)
    change = of_counts(0, lost, rows, z=design.quantiles(design.sizes("a"), look))
    expected = {"passed": True, "failed": False, "undecided": None}[verdict_on(change, 0.05)]
    assert check.passed is expected and (check.low, check.high) == (change.low, change.high)
    assert ("more rows needed" in check.example) is (expected is None)


def test_to_fail_a_form_takes_more_than_to_pass_it():
    """Failing is shared out over all checks (Bonferroni), passing needs every one (intersection-union)."""
    design = Design(abilities=design_of(GATE, {"a": 400, "b": 400, "c": 400}, {}).abilities)
    low, high = design.quantiles((400,), 0)
    assert design.checks == 6 and low == pytest.approx(ONE_SIDED)
    assert high == pytest.approx(2.394, abs=1e-3)  # 0.05 / 6 one-sided
    assert Design(abilities={}).checks == 2


def test_held_out_rows_alone_fail_a_form_beyond_the_tolerance():
    design = design_of(GATE | {"tolerance": 0.05}, {"a": 60}, {"a": 600})
    assert design.guard("a") > 0.05
    more = scores([1.0] * 600, prefix="t")
    states = []
    for lost in range(21):
        guard = against_tuned(some(60, 60), some(60 - lost, 60), "a", design, (more, more), -1)[1]
        assert guard.name == "against_tuned_held_out/a" and guard.limit == -design.guard("a")
        states.append(guard.passed)
    turns = [s for i, s in enumerate(states) if i == 0 or s is not states[i - 1]]
    assert turns == [True, None, False]
    alone = against_tuned(some(60, 60), some(60, 60), "a", design)
    assert len(alone) == 1  # without training rows there is nothing to guard


def test_pairs_are_rows_that_the_first_answered_and_both_have_a_verdict_on():
    def row(name, value, **more):
        return RowScore(row=name, ability=more.pop("ability", "a"), value=value, answer_sha256=None, **more)

    first = Scores(
        rows=(
            row("1", 1.0), row("2", 0.0, error="HTTP 503"), row("3", 1.0), row("4", 0.5, judged=False),
            row("5", 1.0), row("6", 1.0, ability="b"), row("7", 0.25),
        )
    )  # fmt: skip
    second = Scores(
        rows=(
            row("7", 0.5), row("1", 0.0, error="HTTP 503"), row("2", 1.0), row("3", 1.0), row("4", 1.0),
            row("5", 1.0, judged=False), row("6", 1.0), row("8", 1.0),
        )
    )  # fmt: skip
    assert pairs(first, second, "a") == ([0.25, 1.0, 1.0], [0.5, 0.0, 1.0])


def test_abilities_are_judged_each_by_its_own_rows():
    def both(a, b):
        return Scores(rows=some(a, 400).rows + scores([1.0] * b + [0.0] * (400 - b), "b", "b").rows)

    found = checked(both(100, 100), both(300, 300), both(300, 200))
    assert found["against_tuned/a"].passed is True and found["against_tuned/b"].passed is False
    assert found["score/a"].value == 0.75 and found["score/b"].value == 0.5


# ------------------------------------------------------------------ what to do


@pytest.mark.parametrize(
    ("name", "passed", "words"),
    [
        ("against_base/a", None, "more held-out rows"),
        ("min/a", None, "more held-out rows"),
        ("against_tuned/a", None, "tolerance"),
        ("against_tuned/a", False, "weights: bf16"),
        ("against_tuned_held_out/a", False, "weights: bf16"),
        ("score/a", False, "compare"),
        ("fits/a", False, "compare"),
        ("min/a", False, "lower its min"),
        ("against_base/a", False, "gate.forget"),
        ("served/token_ids", False, "nothing was served"),
    ],
)
def test_a_failure_says_what_to_do(name, passed, words):
    from steelyard.gate.base.verdict import Check, Verdict
    from steelyard.gate.step import _failure

    check = Check(name=name, passed=passed, value=0.25, limit=0.5, example="why")
    verdict = Verdict(
        checks=(Check(name="fine", passed=True), check), cause="weights" if passed is False else None
    )
    assert words in _hint(check, verdict)
    error = _failure(verdict)
    assert isinstance(error, GateFailed) and error.exit_code == 4
    assert error.code == ("gate.failed" if passed is False else "gate.undecided")
    assert name in error.message and "is 0.25, the limit is 0.5" in error.message and "(why)" in error.message
