"""What decides over a canary: properties of the rule, and its error where nothing is wrong."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.serving.rolling.deciding import (
    ERROR,
    LOOKS,
    Budget,
    Pair,
    Tally,
    Watch,
    at_least,
    at_most,
    late_after,
)

BUDGET = Budget(requests=40, errors=0.1)
GOOD = Pair(failed=False, ratio=1.0, agreement=0.9)
BAD = Pair(failed=True, ratio=None, agreement=None)
SLOW = replace(GOOD, ratio=3.0)
OTHER = replace(GOOD, agreement=0.1)
PAIRS = st.lists(st.sampled_from([GOOD, BAD, SLOW, OTHER]), max_size=200)


def run(pairs: list[Pair], budget: Budget = BUDGET) -> Tally:
    tally = Tally()
    for pair in pairs:
        tally = tally.with_pair(pair, budget)
    return tally


@given(PAIRS)
@settings(deadline=None)
def test_a_decision_comes_in_time_stays_and_is_never_early(pairs):
    tally = Tally()
    for pair in pairs:
        before, tally = tally, tally.with_pair(pair, BUDGET)
        if before.word != "wait":
            assert tally == before, "a decision stays"
    assert tally.word != "promote" or tally.pairs >= BUDGET.requests
    assert tally.word != "wait" or tally.pairs < LOOKS[-1] * BUDGET.requests
    assert tally.word != "back" or tally.why


@given(PAIRS, st.randoms())
@settings(deadline=None)
def test_no_pair_that_is_worse_brings_a_promotion(pairs, draw):
    """Where one answer fails in place of coming, no candidate is promoted that was sent back before."""
    worse = [BAD if pair is not BAD and draw.random() < 0.2 else pair for pair in pairs]
    if run(pairs).word == "back" and run(pairs).why.startswith("errors"):
        assert run(worse).word == "back"


def test_a_sound_one_is_promoted_and_each_fault_sends_back():
    assert run([GOOD] * 40).word == "promote"
    assert run([GOOD] * 39).word == "wait"
    assert run([BAD] * 8).word == "back" and "errors" in run([BAD] * 8).why
    assert "slower" in run([SLOW] * 40).why
    strict = replace(BUDGET, agreement=0.6)
    assert "agreement" in run([OTHER] * 40, strict).why
    assert run([GOOD] * 40, strict).word == "promote" and run([OTHER] * 40).word == "promote"
    mixed = [BAD if n % 10 == 0 else GOOD for n in range(160)]
    assert run(mixed).word == "back" and run(mixed).why.startswith("not shown")


@pytest.mark.parametrize("share, word", [(0.1, "back"), (0.02, "promote")])
def test_how_often_it_is_wrong(share, word):
    """At the limit itself no more than ERROR is sent back as faulty; far below nearly all are promoted."""
    draw, wrong, rounds = random.Random(1), 0, 300
    for _ in range(rounds):
        tally = run([BAD if draw.random() < share else GOOD for _ in range(160)])
        wrong += (
            (tally.word == "back" and tally.why.startswith("errors"))
            if word == "back"
            else (tally.word != "promote")
        )
    assert wrong / rounds <= ERROR + 0.02


@given(st.integers(0, 60), st.integers(1, 60), st.floats(0.01, 0.99))
@settings(deadline=None)
def test_tails_are_those_of_a_binomial(count, of, share):
    count = min(count, of)
    assert at_least(count, of, share) + at_most(count - 1, of, share) == pytest.approx(1.0, abs=1e-9)
    assert at_least(0, of, share) == at_most(of, of, share) == 1.0


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.1, 5.0, None])), max_size=120))
@settings(deadline=None)
def test_after_a_promotion_it_goes_back_or_stays_once(answers):
    watch = Watch(late_s=1.0)
    for failed, first_s in answers:
        before, watch = watch, watch.with_answer(failed, first_s, BUDGET)
        assert before.word == "wait" or watch == before
    assert watch.word != "promote" or watch.answers >= BUDGET.requests


def test_after_a_promotion_errors_and_late_answers_send_back():
    def after(*answers: tuple[bool, float | None]) -> Watch:
        watch = Watch(late_s=1.0)
        for failed, first_s in answers:
            watch = watch.with_answer(failed, first_s, BUDGET)
        return watch

    assert after(*[(False, 0.5)] * 40).word == "promote"
    assert after(*[(True, None)] * 8).word == "back"
    assert "late" in after(*[(False, 3.0)] * 20).why
    assert late_after([float(n) for n in range(100)]) == 90.0 and late_after([]) == float("inf")
