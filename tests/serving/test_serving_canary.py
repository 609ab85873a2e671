"""What decides over a canary: properties of the rule, and its error where nothing is wrong."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.serving.rolling.comparing import Said, broken, pair, said_in
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
from steelyard.serving.rolling.mirror import MOST_BYTES, WAITING, Follower, Mirror

BUDGET = Budget(requests=40, errors=0.1)
GOOD = Pair(failed=False, ratio=1.0, agreement=0.9)
BAD = Pair(failed=True, ratio=None, agreement=None)
SLOW = replace(GOOD, ratio=3.0)
OTHER = replace(GOOD, agreement=0.1)
PAIRS = st.lists(st.sampled_from([GOOD, BAD, SLOW, OTHER]), max_size=200)


def run(pairs: list[Pair], budget: Budget = BUDGET) -> Tally:
    tally = Tally()
    for one in pairs:
        tally = tally.with_pair(one, budget)
    return tally


@given(PAIRS)
@settings(deadline=None)
def test_a_decision_comes_in_time_stays_and_is_never_early(pairs):
    tally = Tally()
    for one in pairs:
        before, tally = tally, tally.with_pair(one, BUDGET)
        if before.word != "wait":
            assert tally == before, "a decision stays"
    assert tally.word != "promote" or tally.pairs >= BUDGET.requests
    assert tally.word != "wait" or tally.pairs < LOOKS[-1] * BUDGET.requests
    assert tally.word != "back" or tally.why


@given(PAIRS, st.randoms())
@settings(deadline=None)
def test_no_pair_that_is_worse_brings_a_promotion(pairs, draw):
    """Where good answers fail in place of coming, no candidate is promoted that was sent back before."""
    worse = [BAD if one is GOOD and draw.random() < 0.2 else one for one in pairs]
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


# ------------------------------------------------------------------ two answers


@pytest.mark.parametrize(
    "standing, candidate, worse",
    [
        (Said("yes", "stop"), Said("no", "stop"), False),
        (Said("yes", "stop"), Said(" ", "stop"), True),
        (Said("yes", "stop"), Said("", "tool_calls", calls=True), False),
        (Said("", "stop"), Said("", "stop"), False),
        (Said("yes", "stop"), Said("yes " * 100, "length"), True),
        (Said("yes", "length"), Said("yes " * 100, "length"), False),
        (Said('{"a": 1}', "stop"), Said('{"a": 2}', "stop"), False),
        (Said('{"a": 1}', "stop"), Said("a is 1", "stop"), True),
        (Said("3", "stop"), Said("three", "stop"), False),
    ],
)
def test_worse_in_form(standing, candidate, worse):
    assert broken(standing, candidate) is worse


def whole(text: str) -> dict:
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}


def copied(answer: str, status: int = 200, streamed: bool = False) -> dict:
    return {"status": status, "answer": answer, "streamed": streamed, "whole_s": 2.0}


STREAM = """data: {"choices":[{"index":0,"delta":{"content":"good "}}]}

: a comment
data: {"choices":[{"index":1,"delta":{"content":"other"}}]}
data: {"choices":[{"index":0,"delta":{"content":"day"},"finish_reason":"stop"}]}
data: {"choices":[],"usage":{}}
data: [DONE]
"""


def test_a_pair_of_answers():
    assert said_in(STREAM, streamed=True) == Said("good day", "stop")
    assert said_in('data: {"error": {}}', streamed=True) is None and said_in("{", streamed=False) is None
    alike = pair(copied(STREAM, streamed=True), 200, whole("good day"), 4.0)
    assert alike == Pair(failed=False, ratio=2.0, agreement=1.0)
    assert pair(copied(STREAM, streamed=True), 200, whole("bad night"), 1.0).agreement < 0.5
    assert pair(copied(STREAM, streamed=True), 500, None, 1.0).failed
    assert pair(copied(STREAM, streamed=True), 200, {"choices": []}, 1.0).failed
    assert pair(copied("", 503), 500, None, 1.0) is None, "both failed: it says nothing"
    assert not pair(copied("", 503), 200, whole("good"), 1.0).failed


# ------------------------------------------------------------------ copies


async def asked(
    mirror: Mirror, body: bytes, server: str = "127.0.0.1", path: str = "/v1/completions"
) -> None:
    async def receive() -> dict:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict) -> None:
        """A client that reads."""

    await mirror({"type": "http", "method": "POST", "path": path, "server": (server, 1)}, receive, send)


async def answering(scope, receive, send) -> None:
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body, "more_body": False})


@given(st.floats(0.01, 1.0), st.integers(1, 200))
def test_a_share_is_kept_to_one_request(share, count):
    follower = Follower(share)
    taken = sum(follower.wants() for _ in range(count))
    assert abs(taken - share * count) <= 1.0 + 1e-6


def test_only_whole_live_requests_are_copied_and_a_slow_follower_loses_some():
    async def go() -> list[str]:
        mirror, follower = Mirror(answering), Follower(1.0)
        await asked(mirror, b"before")
        mirror.followers.add(follower)
        await asked(mirror, b"inside", server="inside")
        await asked(mirror, b"x" * (MOST_BYTES + 1))
        await asked(mirror, b"another route", path="/v1/embeddings")
        for number in range(WAITING + 5):
            await asked(mirror, str(number).encode())
        return [follower.queue.get_nowait()["body"] for _ in range(follower.queue.qsize())]

    assert asyncio.run(go()) == [str(number) for number in range(WAITING)]
