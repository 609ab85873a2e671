"""What passes and what does not: checks over given scores, and simulated error rates of whole verdicts."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.gate.quality.checks import against_tuned, no_room, quality_checks
from steelyard.gate.quality.design import design_of
from steelyard.gate.quality.scores import RowScore, Scores

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

import power

AUTO = {"tolerance": "auto", "rows": 400, "abilities": {"a": {}}}


def scores(values, ability="a", prefix="", **more):
    rows = (
        RowScore(row=f"{prefix}{i}", ability=ability, value=float(v), answer_sha256=None, **more)
        for i, v in enumerate(values)
    )
    return Scores(rows=tuple(rows))


def some(right: int, rows: int):
    return scores([1.0] * right + [0.0] * (rows - right))


def verdicts(base, tuned, served, gate=AUTO, **more):
    return {c.name.partition("/")[0]: c for c in quality_checks(base, tuned, served, gate, **more)}


def test_a_model_that_answers_nothing_right_never_passes():
    """Not even where the base is no better and a minimum of nothing is asked."""
    nothing = some(0, 400)
    for gate in (AUTO, AUTO | {"abilities": {"a": {"min": 0.0}}}, AUTO | {"forget": {"a": 1.0}}):
        found = verdicts(nothing, nothing, nothing, gate)
        assert found["score"].passed is False
        assert "not one of 400 answers is right" in found["score"].example
    assert verdicts(nothing, some(1, 400), some(1, 400))["score"].passed is True


def test_without_a_minimum_the_base_must_be_beaten():
    base, better = some(100, 400), some(160, 400)
    assert verdicts(base, better, better)["against_base"].passed is True
    same = verdicts(base, base, base)["against_base"]
    assert same.passed is False and "no gain over the base was shown" in same.example
    worse = verdicts(better, base, base)["against_base"]
    assert worse.passed is False and "worse than the base" in worse.example


def test_a_small_gain_says_how_many_rows_would_show_it():
    found = verdicts(some(20, 60), some(21, 60), some(21, 60))["against_base"]
    assert found.passed is False and "more held-out rows would show a gain of this size" in found.example


def test_too_few_rows_for_any_gain_are_undecided():
    found = verdicts(some(0, 2), some(2, 2), some(2, 2))["against_base"]
    assert found.passed is None and "too few" in found.example


@pytest.mark.parametrize(("served", "passed"), [(400, True), (399, True), (370, False)])
def test_a_base_that_is_always_right_need_only_be_kept_up_with(served, passed):
    found = verdicts(some(400, 400), some(served, 400), some(served, 400))["against_base"]
    assert found.passed is passed and "no room to show a gain" in found.example


@given(st.lists(st.floats(0, 1), min_size=5, max_size=100))
def test_room_is_what_a_perfect_score_would_show(before):
    z = (1.644854, 1.644854)
    if sum(before) / len(before) < 0.9:
        assert not no_room(before, z)


def test_with_a_minimum_it_must_be_reached_and_no_loss_be_seen():
    gate = AUTO | {"abilities": {"a": {"min": 0.5}}}
    found = verdicts(some(250, 400), some(250, 400), some(250, 400), gate)
    assert found["min"].passed is True and found["against_base"].passed is True
    lost = verdicts(some(390, 400), some(250, 400), some(250, 400), gate)
    assert lost["min"].passed is True and lost["against_base"].passed is False


def test_what_may_be_forgotten_need_not_be_beaten():
    gate = AUTO | {"forget": {"a": 0.1}}
    base, served = some(300, 400), some(285, 400)
    assert verdicts(base, served, served, gate)["against_base"].passed is True
    assert verdicts(base, served, served)["against_base"].passed is False


def test_beside_a_lifted_ability_the_others_are_kept_and_not_raised():
    gate = AUTO | {"lifted": "b"}
    base, same, worse = some(300, 400), some(300, 400), some(240, 400)
    assert verdicts(base, same, same, gate)["against_base"].passed is True
    assert verdicts(base, worse, worse, gate)["against_base"].passed is False
    assert verdicts(base, same, same, AUTO | {"lifted": "a"})["against_base"].passed is False


def test_graded_answers_that_do_not_follow_the_question_fail():
    """A model that says the same to everything beats a base that says nothing, by chrF."""
    constant = scores([0.11, 0.09, 0.1, 0.12] * 25, elsewhere=0.105)
    found = verdicts(scores([0.0] * 100), constant, constant)
    assert found["against_base"].passed is True and found["fits"].passed is False
    following = scores([0.5, 0.4] * 50, elsewhere=0.1)
    assert verdicts(scores([0.1] * 100), following, following)["fits"].passed is True


def test_rows_without_a_verdict_of_the_judge_count_for_nobody():
    judged = scores([1.0] * 200)
    unjudged = Scores(rows=judged.rows + scores([0.0] * 50, prefix="x", judged=False).rows)
    assert unjudged.share("a").rows == 200 and unjudged.share("a").value == 1.0
    none = scores([0.0] * 50, judged=False)
    found = verdicts(none, none, none)
    assert found["score"].passed is None and "no verdict" in found["against_tuned"].example


def test_training_rows_decide_what_held_out_rows_cannot():
    design = design_of(AUTO | {"tolerance": 0.02}, {"a": 100}, {"a": 1500})
    right, more = some(90, 100), scores([1.0] * 300, prefix="t")
    alone = against_tuned(right, right, "a", design, look=0)
    assert [c.passed for c in alone] == [None]
    both = against_tuned(right, right, "a", design, (more, more), 0)
    assert [(c.name, c.passed) for c in both] == [
        ("against_tuned/a", True),
        ("against_tuned_held_out/a", True),
    ]


def test_a_loss_on_held_out_rows_alone_is_not_hidden_by_training_rows():
    design = design_of(AUTO, {"a": 400}, {"a": 4000})
    tuned, served = some(400, 400), some(360, 400)
    more = scores([1.0] * 1200, prefix="t")
    found = {c.name: c.passed for c in against_tuned(tuned, served, "a", design, (more, more), 3)}
    assert found["against_tuned_held_out/a"] is False


def test_the_design_is_told_with_its_error_and_rows():
    design = design_of(AUTO, {"a": 60, "b": 400}, {"a": 140, "b": 5000})
    told = design.as_json({"a": 1, "b": 2})
    assert told["alpha"] == 0.05 and "intersection-union" in told["method"]
    assert told["abilities"]["a"]["pairs"] == 200 and told["abilities"]["b"]["looks"] == [200, 400, 800, 1600]
    assert told["abilities"]["b"]["looks_used"] == 2
    assert design_of(AUTO | {"tolerances": {"a": 0.03}}, {"a": 60}, {}).abilities["a"].tolerance == 0.03


CASES = {case.name: case for case in power.cases()}


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("400 rows, auto: harmless", 0.95),
        ("400 rows, auto: equal", 1.0),
        ("400 rows, auto: 5 points in one", 0.95),
        ("400 rows and training rows, auto: harmless", 0.95),
        ("400 rows and training rows, auto: exactly the tolerance in one", 0.95),
        ("a CSV of 200 rows, auto: harmless", 0.95),
    ],
)
def test_verdicts_err_as_seldom_as_promised(name, least):
    """100 judgements by a fixed seed, three standard errors of room; bench/power.py makes thousands."""
    found = power.simulate(CASES[name], 100, seed=7)
    share = found["passed"] if CASES[name].expect == "passed" else found["caught"]
    assert share >= least - 3 * np.sqrt(0.05 * 0.95 / 100) * (least < 1)
