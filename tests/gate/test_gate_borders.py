"""Every check of parity on both sides of its border, over samples made by hand: no server, no model."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.gate.base.endpoint import Answer, Token
from steelyard.gate.base.modes import LIMITS, MODES
from steelyard.gate.base.verdict import CAUSES, Check, Verdict
from steelyard.gate.parity.checks import (
    COARSE_FAR,
    CUT_MARGIN,
    DRAWS,
    FEWEST_FAR,
    FEWEST_TOKENS,
    LEAST_MARGIN,
    OPEN,
    SHIFT_OF_SURE,
    Draws,
    Observation,
    Open,
    Sample,
    checks,
    end_id,
    long_checks,
    measure,
    open_probe,
    spells,
    text_checks,
)
from steelyard.gate.parity.judgement import CAUSE_OF_CHECK
from steelyard.gate.parity.probes import Probe
from steelyard.gate.reference.deviation import LEAST_CHANGE, SURE_T, Deviation, Direction

NOTHING = np.array([])
QUESTION = ({"role": "user", "content": "?"},)


def probe(name="p", kind="plain", max_tokens=4, messages=QUESTION) -> Probe:
    return Probe(name=name, kind=kind, messages=messages, max_tokens=max_tokens)


def sample(
    delta=(), own=None, margin=(), top=None, *, answer=(), prompt=(1, 2, 3), name="p", kind="plain", ids=None,
    max_tokens=4, end_margin=None, error=None, text="", finish=None, prompt_tokens=None,
    completion_tokens=None, tokens=None,
) -> Sample:  # fmt: skip
    said = Answer(
        text=text, finish=finish, error=error, prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens, tokens=tokens,
    )  # fmt: skip
    return Sample(
        observed=Observation(probe=probe(name, kind, max_tokens), answer=said, ids=ids),
        prompt=prompt,
        answer=answer,
        delta=np.array(delta, float),
        margin=np.array(margin, float),
        top=np.array(top if top is not None else [m == 0 for m in margin], float),
        own=np.full(len(delta), -1.0) if own is None else np.array(own, float),
        end_margin=end_margin,
    )


def found(*samples, mode="fast", **more) -> dict[str, Check]:
    return {c.name: c for c in checks(samples, mode, **more)}


def spelt(*texts) -> tuple[Token, ...]:
    return tuple(Token(text=t, logprob=-1.0) for t in texts)


# ------------------------------------------------------------------ prompts, counts, texts


def test_one_answer_that_did_not_come_fails_whatever_else_was_right():
    assert found(sample())["answered"].passed is True
    check = found(sample(), sample(name="late", error="HTTP 503"))["answered"]
    assert (check.passed, check.value, check.example) == (False, 1, "late: HTTP 503")
    assert found(sample(), others=[sample(error="HTTP 400")])["answered"].passed is False


@pytest.mark.parametrize(
    ("ids", "passed", "example"),
    [
        (None, None, None),  # the server shows none: no check
        ((1, 2, 3), True, None),
        ((1, 9, 3), False, "p: 3 ids, 3 expected, the first difference at 1"),
        ((1, 2), False, "p: 2 ids, 3 expected, the first difference at 2"),
        ((1, 2, 3, 4), False, "p: 4 ids, 3 expected, the first difference at 3"),
    ],
)
def test_shown_ids_must_be_the_own_ones(ids, passed, example):
    check = found(sample(ids=ids)).get("token_ids")
    assert (check and check.passed, check and check.example) == (passed, example)


def test_prompt_tokens_are_compared_everywhere_and_the_worst_is_told():
    assert "prompt_tokens" not in found(sample())
    assert found(sample(prompt_tokens=3))["prompt_tokens"].passed is True
    check = found(
        sample(prompt_tokens=3), sample(name="b", prompt_tokens=2), others=[sample(prompt_tokens=8)]
    )
    assert (check["prompt_tokens"].passed, check["prompt_tokens"].value) == (False, 5)
    assert check["prompt_tokens"].example == "b: 2 prompt tokens, 3 expected"


@pytest.mark.parametrize(
    ("finish", "stated", "passed"),
    [
        ("length", 4, True), ("length", 5, False), ("length", 3, False),
        ("stop", 4, True), ("stop", 5, True), ("stop", 6, False), ("stop", 3, False),
    ],
)  # fmt: skip
def test_the_end_token_may_count_where_the_answer_ended_by_itself(finish, stated, passed):
    check = found(sample(answer=(5, 6, 7, 8), finish=finish, completion_tokens=stated))["usage"]
    assert check.passed is passed
    assert (check.example == f"p: says {stated}, made 4") is not passed


def test_tokens_that_cannot_be_counted_say_nothing_of_the_count():
    """llama-server reports the tokens of one character as one: only ASCII, or what aligned, is counted."""
    odd = sample(text="é", tokens=spelt("é"), finish="length", completion_tokens=2)
    assert odd.produced is None and "usage" not in found(odd)
    plain = sample(text="ab", tokens=spelt("a", "b"), finish="length", completion_tokens=2)
    assert plain.produced == 2 and found(plain)["usage"].passed is True
    aligned = sample(text="é", tokens=spelt("é"), answer=(7,), finish="length", completion_tokens=2)
    assert aligned.produced == 1 and found(aligned)["usage"].passed is False
    assert sample(answer=(7, 8)).produced == 2 and sample().produced is None


@pytest.mark.parametrize(("made", "passed"), [(3, False), (4, True), (5, False)])
def test_an_answer_that_the_length_ended_has_that_length(made, passed):
    cut = sample(answer=(9,) * made, finish="length", max_tokens=4)
    assert found(cut)["max_tokens"].passed is passed
    assert "max_tokens" not in found(sample(answer=(9,) * made, finish="stop", max_tokens=4))


@pytest.mark.parametrize(
    ("text", "tokens", "same"),
    [
        ("a b", ("a", " b"), True),
        (" a b ", ("a", " b"), True),  # white space at the ends is the server's
        ("a b", ("a", " b", "<|im_end|>"), True),
        ("a<|im_end|>", ("a", "<|im_end|>"), True),
        ("a b", ("a", " b", "</s>"), True),
        ("a b", ("a", " c"), False),
        ("a", ("a", " b"), False),
        ("a b", ("a",), False),
        ("x\ufffd", ("x", "\ufffd", "\ufffd"), True),  # part of a character shows in neither
        ("", ("<|im_end|>",), True),
    ],
)
def test_a_text_is_what_its_tokens_spell(text, tokens, same):
    answer = Answer(text=text, tokens=spelt(*tokens))
    assert spells(answer) is same
    check = found(sample(text=text, tokens=spelt(*tokens)))["text"]
    assert (check.passed, check.value) == (same, int(not same))


@pytest.mark.parametrize(
    ("trailing", "passed"), [(0.0, True), (CUT_MARGIN, True), (CUT_MARGIN + 0.01, False)]
)
def test_an_end_that_the_model_would_not_have_chosen_is_a_cut(trailing, passed):
    check = found(sample(end_margin=0.1), sample(name="cut", end_margin=trailing, answer=(1, 2)))["stop"]
    assert check.passed is passed and check.value == max(0.1, trailing)
    assert check.example == (None if passed else "cut: cut after 2 tokens")
    assert "stop" not in found(sample())


# ------------------------------------------------------------------ draws without a temperature


def drawn(count, n=DRAWS, chance=0.5) -> Draws:
    return Draws(
        of=Open(probe=probe(), text="yes", chance=chance), texts=(" yes",) * count + ("no",) * (n - count)
    )


def default(draws, declared) -> Check | None:
    return found(sample(), draws=draws, declared=declared).get("generation_default")


@pytest.mark.parametrize(
    ("declared", "count", "passed"),
    [
        (None, 48, True), (None, 0, True),  # nothing declared: any default is as good
        (0, 48, True), (0, 47, False),
        (1, 24, True), (1, 48, False), (1, 0, False),
        (0.6, 48, True), (0.6, 24, True), (0.6, 3, False),  # colder raises the likeliest
        (1.5, 3, True), (1.5, 24, True), (1.5, 48, False),  # hotter lowers it
    ],
)  # fmt: skip
def test_draws_must_look_like_the_declared_temperature(declared, count, passed):
    check = default(drawn(count), declared)
    assert check.passed is passed and check.value == count / DRAWS
    assert (check.example is None) is passed


def test_the_border_of_chance_is_the_exact_binomial_one():
    """scipy 1.17.1: 2 * binom.cdf(k, 48, 0.5) is 0.00006 for 10 and 0.00022 for 11: the level is 0.0001."""
    assert [default(drawn(k), 1).passed for k in (10, 11, 37, 38)] == [False, True, True, False]


def test_too_few_draws_say_nothing():
    assert default(None, 1) is None and default(drawn(0, DRAWS // 2 - 1), 1) is None
    assert default(drawn(0, DRAWS // 2), 1).passed is False


# ------------------------------------------------------------------ log-probabilities


def test_below_five_and_twenty_open_tokens_nothing_is_said():
    def names(tokens, own=-1.0):
        return set(found(sample(np.full(tokens, 9.0), own=np.full(tokens, own))))

    assert "logprob_mean" not in names(FEWEST_TOKENS - 1) and "logprob_mean" in names(FEWEST_TOKENS)
    assert "logprob_mean" not in names(500, own=OPEN)  # the reference is sure of each
    assert "logprob_mean" in names(FEWEST_TOKENS, own=OPEN - 1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_each_limit_is_the_last_value_that_passes(mode):
    limits = LIMITS[mode]
    signs = np.tile([1.0, -1.0], 20)  # no shift
    assert found(sample(limits.mean * 0.999 * signs), mode=mode)["logprob_mean"].passed is True
    over = found(sample(limits.mean * 1.001 * signs), mode=mode)
    assert over["logprob_mean"].passed is False and over["logprob_shift"].passed is True
    for value, passed in ((limits.worst, True), (limits.worst * 1.001, False)):
        for sign in (1, -1):
            deltas = np.append(np.zeros(400), sign * value)
            assert found(sample(deltas), mode=mode)["logprob_worst"].passed is passed
    for value, passed in ((limits.shift * 0.999, True), (limits.shift * 1.001, False)):
        for sign in (1, -1):
            assert found(sample(np.full(40, sign * value)), mode=mode)["logprob_shift"].passed is passed


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -9999.0])
def test_log_probabilities_that_are_no_numbers_never_pass(value):
    deltas = np.append(np.zeros(39), value)
    failed = {c.name for c in found(sample(deltas)).values() if c.passed is False}
    assert {"logprob_mean", "logprob_worst", "logprob_shift"} <= failed


@pytest.mark.parametrize(("tokens", "value", "passed"), [
    (12, SHIFT_OF_SURE, True), (12, SHIFT_OF_SURE * 1.01, False), (12, -SHIFT_OF_SURE * 1.01, False),
    (11, 1.0, None), (12, math.nan, False),
])  # fmt: skip
def test_tokens_of_which_the_model_is_sure_show_an_offset(tokens, value, passed):
    sure, open_ = np.zeros(tokens), np.full(FEWEST_TOKENS, -1.0)
    deltas = np.append(np.full(tokens, value), np.zeros(FEWEST_TOKENS))
    check = found(sample(deltas, own=np.append(sure, open_))).get("logprob_sure")
    assert (check and check.passed) is passed


def test_one_sure_token_far_off_is_no_offset_of_all():
    deltas = np.append([5.0], np.zeros(40))
    own = np.append(np.zeros(15), np.full(26, -1.0))
    assert found(sample(deltas, own=own))["logprob_sure"].passed is True


@given(st.lists(st.lists(st.floats(-1, 1), min_size=3, max_size=9), min_size=9, max_size=12))
def test_the_interval_of_a_mean_is_that_of_a_ratio_between_probes(rows):
    """Cochran 1977, 6.4, term by term; the value is the plain mean over all tokens."""
    check = found(*[sample(r) for r in rows], mode="int4")["logprob_shift"]
    every = [x for r in rows for x in r]
    mean = sum(every) / len(every)
    squares = sum((sum(r) - mean * len(r)) ** 2 for r in rows)
    error = math.sqrt(len(rows) / (len(rows) - 1) * squares) / len(every)
    assert check.value == pytest.approx(mean, abs=1e-12)
    assert (check.low, check.high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=1e-9)


def test_one_probe_has_no_interval():
    check = found(sample(np.zeros(30)))["logprob_mean"]
    assert (check.low, check.high) == (None, None)


# ------------------------------------------------------------------ after long prompts


@pytest.mark.parametrize(
    ("mode", "limit"),
    [("exact", 0.012), ("fast", 0.25), ("int8", 0.3), ("int8_form", 0.25), ("int4", 1.4)],
)
def test_long_prompts_have_room_for_rounding_on_the_way(mode, limit):
    """Six times the limit of short prompts, at most a quarter nat, and never below twice that limit."""
    for value, passed in ((limit * 0.999, True), (limit * 1.001, False)):
        (check,), cause = long_checks([sample(np.full(FEWEST_FAR, value), prompt=(0,) * 700)], mode)
        assert check.passed is passed and check.limit == pytest.approx(limit)
        assert check.example == "after 700 tokens"
        assert cause == {"logprob_far": "context" if value > COARSE_FAR else "precision"}


def test_too_few_tokens_after_long_prompts_say_nothing():
    assert long_checks([], "fast") == ([], {})
    assert long_checks([sample(np.full(FEWEST_FAR - 1, 9.0))], "fast") == ([], {})
    assert long_checks([sample(np.full(50, 9.0), own=np.zeros(50))], "fast") == ([], {})


@pytest.mark.parametrize(
    ("sure", "change", "passed"),
    [
        (SURE_T, LEAST_CHANGE, False),
        (-SURE_T, -LEAST_CHANGE, False),
        (SURE_T - 0.01, 1.0, True),
        (50.0, LEAST_CHANGE - 1e-4, True),
    ],
)
def test_a_direction_must_be_sure_and_large_enough(sure, change, passed):
    way = Direction(name="layer 1", change=change, sure=sure, explained=0.4)
    deviation = Deviation(delta=NOTHING, own=NOTHING, sensitivity=NOTHING, block=NOTHING, directions=(way,))
    (check,) = text_checks(deviation)
    assert check.passed is passed and check.value == abs(sure)
    assert (check.example is None) is passed and (passed or "layer 1" in check.example)


def test_the_direction_that_explains_most_is_named_among_those_that_are_sure():
    ways = tuple(
        Direction(name=n, change=c, sure=t, explained=e)
        for n, c, t, e in [("loud", 0.5, 1.0, 0.9), ("sure", 0.1, 6.0, 0.2), ("surer", 0.1, 9.0, 0.1)]
    )
    deviation = Deviation(delta=NOTHING, own=NOTHING, sensitivity=NOTHING, block=NOTHING, directions=ways)
    assert deviation.best.name == "sure"


# ------------------------------------------------------------------ greedy tokens


def test_without_one_aligned_answer_the_greedy_check_is_undecided():
    check = found(sample())["answers"]
    assert check.passed is None and "aligned" in check.example
    assert Verdict(checks=(check,)).verdict == "undecided"


@pytest.mark.parametrize("mode", MODES)
def test_margins_are_held_to_mean_and_worst(mode):
    limits, tokens = LIMITS[mode], 100
    mean = limits.margin_mean
    assert found(sample(margin=np.full(tokens, mean * 0.99)), mode=mode)["greedy_margin_mean"].passed is True
    assert found(sample(margin=np.full(tokens, mean * 1.01)), mode=mode)["greedy_margin_mean"].passed is False
    for value, passed in ((limits.margin_worst, True), (limits.margin_worst * 1.001, False)):
        check = found(sample(margin=np.append(np.zeros(9), value)), mode=mode)["greedy_margin_worst"]
        assert check.passed is passed and check.value == value


@pytest.mark.parametrize(
    ("deviation", "margin", "passed"),
    [
        (0.0, LEAST_MARGIN, True),
        (0.0, LEAST_MARGIN + 0.01, False),
        (0.125, 0.375, True),
        (0.125, 0.376, False),
    ],
)
def test_a_margin_is_explained_by_three_times_the_worst_deviation(deviation, margin, passed):
    margins = np.append(np.zeros(FEWEST_TOKENS - 1), margin)
    deltas = np.full(FEWEST_TOKENS, deviation)
    assert found(sample(deltas, margin=margins), mode="int4")["greedy_margin_worst"].passed is passed
    # With fewer log-probabilities nothing is known of the deviations: the mode's own limit holds.
    few = found(sample(deltas[1:], margin=margins[1:], own=deltas[1:] - 1), mode="int4")
    assert few["greedy_margin_worst"].limit == LIMITS["int4"].margin_worst


def test_each_greedy_answer_is_a_proof_in_exact_arithmetic_alone():
    good, bad = sample(margin=[0.0, 0.0]), sample(name="bad", margin=[0.0, 0.02])
    check = found(good, bad, mode="exact")["answers"]
    assert (check.passed, check.value, check.example) == (False, 0.5, "bad")
    assert found(good, mode="exact")["answers"].passed is True
    assert "answers" not in found(good, bad, mode="fast")
    assert found(good, bad)["top1"].value == 0.75


# ------------------------------------------------------------------ beside the reference


def reference_of(pairs) -> list[np.ndarray]:
    """The log-probability of id n is -n / 10, the likeliest id is 1."""
    arrays = []
    for _, answer in pairs:
        array = np.zeros((len(answer) + 1, 4))
        array[:-1, 0] = [-n / 10 for n in answer]
        array[:, 1], array[:, 2] = 1, -0.1
        array[:-1, 3] = 0.25
        arrays.append(array)
    return arrays


def test_an_answer_lies_beside_its_own_rows_of_the_reference(tokenizer_folder):
    from steelyard.model import Tokenizer

    tokenizer = Tokenizer(tokenizer_folder)
    ids = tokenizer.encode("answers")
    tokens = tuple(Token(text=tokenizer.decode([i]), logprob=-i / 10 + 0.5) for i in ids)
    said = Answer(text="answers", tokens=tokens, finish="stop")
    (s,) = measure([Observation(probe=probe(), answer=said)], tokenizer, reference_of)
    assert s.prompt == tuple(tokenizer.chat_ids(list(QUESTION))) and s.answer == tuple(ids)
    assert s.delta == pytest.approx(np.full(len(ids), 0.5))
    assert s.own == pytest.approx([-i / 10 for i in ids])
    assert s.margin == pytest.approx([i / 10 - 0.1 for i in ids])
    assert s.top.tolist() == [float(i == 1) for i in ids]
    end = end_id(tokenizer)
    assert s.end_own == -end / 10 and s.end_margin == pytest.approx(end / 10 - 0.1)
    assert len(s.above) == len(ids) + 1  # the end token's too
    (open_,) = measure([Observation(probe=probe(), answer=Answer(text="answers"))], tokenizer, reference_of)
    assert open_.end_own is None and len(open_.delta) == 0 and len(open_.above) == len(ids)


@pytest.mark.parametrize(
    ("chances", "picked"),
    [((0.19, 0.81), None), ((0.21, 0.81), "a"), ((0.19, 0.79), "b"), ((0.45, 0.6), "a"), ((0.3, 0.52), "b")],
)
def test_the_open_probe_is_the_one_nearest_an_even_chance(tokenizer_folder, chances, picked):
    from steelyard.model import Tokenizer

    tokenizer = Tokenizer(tokenizer_folder)
    word = tokenizer.encode("a")[0]
    chance_of = dict(zip(((10,), (11,)), chances, strict=True))

    def reference(pairs):
        prompts = [p for p, _ in pairs]
        assert (12,) not in prompts  # a task's own kind of answer is not asked
        rows = [[0.0, word, math.log(max(chance_of[p], 1e-9)), 0.0] for p in prompts]
        return [np.array([row]) for row in rows]

    samples = [sample(name="a", prompt=(10,)), sample(name="b", prompt=(11,))]
    of = open_probe([*samples, sample(kind="task", prompt=(12,))], tokenizer, reference)
    assert (of and of.probe.name) == picked
    assert of is None or (
        of.text == "a" and of.chance == pytest.approx(chance_of[(10 if picked == "a" else 11,)])
    )


# ------------------------------------------------------------------ the verdict

STATES = st.lists(st.sampled_from([True, False, None]), max_size=6)


@given(STATES)
def test_a_verdict_is_its_worst_check(states):
    verdict = Verdict(checks=tuple(Check(name=str(i), passed=s) for i, s in enumerate(states)))
    expected = "failed" if False in states else "undecided" if None in states else "passed"
    assert verdict.verdict == verdict.as_json()["verdict"] == expected
    worst = verdict.worst()
    if expected == "passed":
        assert worst is None
    else:
        assert worst.name == str(states.index(False if expected == "failed" else None))


def test_every_cause_that_a_check_proves_is_one_of_the_contract():
    assert set(CAUSE_OF_CHECK.values()) <= set(CAUSES)
    assert len(set(CAUSES)) == len(CAUSES)
