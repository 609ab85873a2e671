"""Rated answers: which count, what they teach. No rater decides alone, and each rating is accounted for."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.data import Line, Rules, ratings_of, weigh

NOW_S = 2_000_000_000.0


def rules(**more: Any) -> Rules:
    given = {"per_rater": 100, "abilities": ("main",), "teaches": frozenset({"chats"}), "now_s": NOW_S}
    return Rules(**(given | more))


def one(prompt: str = "q", answer: str = "a", rating: Any = "good", **more: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": prompt}],
        "answer": answer,
        "rating": rating,
        "rater": "r",
        **more,
    }


def read(*lines: Any, whole: bool = True) -> Any:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    count = len(texts)
    return ratings_of(
        Line(file="f.jsonl", number=n, text=t, whole=whole or n < count) for n, t in enumerate(texts, 1)
    )


def taught(*lines: Any, **more: Any) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """((prompt, answer) of each row, why others count for nothing)."""
    weighed = weigh(*read(*lines), rules(**more))
    account = weighed.account
    assert account["read"] == account["kept"] + account["dropped"]
    assert account["dropped"] == sum(account["reasons"].values())
    chats = [row.fields["messages"] for row in weighed.rows]
    return sorted((chat[0]["content"], chat[-1]["content"]) for chat in chats), account["reasons"]


@pytest.mark.parametrize(
    "line, kind",
    [
        ("{", "broken"),
        ("[1]", "broken"),
        ({"rating": "good"}, "unknown_answer"),
        ({"rating": "good", "id": "x"}, "unknown_answer"),
        (one(rating="fine"), "no_rating"),
        (one(rating=5), "no_rating"),
        ({"messages": []}, "no_rating"),
        (one(answer=7), "no_chat"),
        (one(answer=" "), "no_chat"),
        (one(correction=""), "no_chat"),
        (one(at="yesterday"), "no_chat"),
        (one() | {"messages": "q"}, "no_chat"),
        (one() | {"messages": [{"role": "nobody", "content": "q"}]}, "no_chat"),
    ],
)
def test_a_line_that_is_no_rating_says_why_and_quotes_nothing(line, kind):
    ratings, (fault,) = read(line)
    assert not ratings and fault.kind == kind and fault.why and '"q"' not in fault.why


def test_a_torn_last_line_is_left_for_the_next_time():
    ratings, (fault,) = read(one(), '{"messages": [{"ro', whole=False)
    assert len(ratings) == 1 and fault.kind == "unfinished"


@pytest.mark.parametrize("word, good", [("up", True), (True, True), (1, True), ("Bad", False), (-1, False)])
def test_thumbs_have_many_words(word, good):
    (rating,), _ = read(one(rating=word))
    assert rating.good is good


def test_an_answer_may_be_rated_by_its_id():
    answer = {"id": "7", "messages": [{"role": "user", "content": "q"}], "answer": "a"}
    assert taught(answer, {"id": "7", "rating": "good"}) == ([("q", "a")], {})


def test_good_and_corrected_answers_are_taught_and_bad_ones_are_not():
    rows, reasons = taught(one("1", "a"), one("2", "b", "bad", correction="c"), one("3", "d", "bad"))
    assert rows == [("1", "a"), ("2", "c")] and reasons == {"teaches_nothing": 1}


def test_pairs_and_labels_where_a_stage_teaches_them():
    lines = [one("1", "a"), one("1", "b", "bad"), one("2", "c", "bad")]
    pairs = weigh(*read(*lines), rules(teaches=frozenset({"pairs"})))
    (pair,) = pairs.rows
    assert (pair.fields["chosen"][0]["content"], pair.fields["rejected"][0]["content"]) == ("a", "b")
    assert pairs.account["reasons"] == {"teaches_nothing": 1}
    labels = weigh(*read(*lines), rules(teaches=frozenset({"labels"})))
    assert Counter(row.fields["label"] for row in labels.rows) == {True: 1, False: 2}


def test_raters_against_each_other():
    good, bad = one(rater="x"), one(rater="y", rating="bad")
    assert taught(good, bad) == ([], {"contradiction": 2})
    assert taught(good, one(rater="z"), bad) == ([("q", "a")], {"outvoted": 1})
    fixes = [one(rating="bad", correction=text, rater=text) for text in ("b", "c")]
    assert taught(*fixes) == ([], {"contradiction": 2})
    wrong = one(answer="b", rating="bad", rater="x")
    assert taught(one(rating="bad", correction="b", rater="y"), wrong)[0] == []


def test_one_rater_outvotes_nobody_by_many_answers_of_his_own():
    honest = [one(answer="a", rating="bad", correction="right", rater=f"r{n}") for n in range(4)]
    made_up = [one(answer=f"x{n}", rating="bad", correction="wrong", rater="evil") for n in range(30)]
    assert taught(*honest, *made_up) == ([("q", "right")], {"outvoted": 30})
    assert taught(*honest, one(answer="right", rating="bad", rater="evil"))[0] == [("q", "right")]


def test_who_is_outvoted_elsewhere_leaves_no_two_words_on_an_answer():
    yes = [one(rater=rater) for rater in "ab"]
    no = [one(rating="bad", correction=f"c{rater}", rater=rater) for rater in "df"]
    others = [one(answer="x", rating="bad", correction="cd", rater=rater) for rater in "gh"]
    labels = weigh(*read(*yes, *no, *others), rules(teaches=frozenset({"labels"})))
    said = {row.fields["messages"][-1]["content"]: row.fields["label"] for row in labels.rows}
    assert said == {"a": True, "cd": True, "x": False}
    assert labels.account["reasons"] == {"contradiction": 1, "outvoted": 1}


def test_a_rater_has_one_voice_the_last():
    first, last = one(at="2030-01-01T00:00:00Z"), one(rating="bad", at="2030-01-02")
    assert taught(last, first)[1] == {"rated_again": 1, "teaches_nothing": 1}


def test_old_ratings_and_those_of_other_abilities_count_for_nothing():
    old = one(at=NOW_S - 90 * 86400 - 1)
    assert taught(old, keep_s=90 * 86400.0) == ([], {"too_old": 1})
    assert taught(one(ability="poems")) == ([], {"other_ability": 1})


@given(st.lists(st.tuples(*(st.integers(0, n) for n in (3, 4, 2, 1))), max_size=40), st.integers(1, 5))
def test_no_rater_weighs_more_than_he_may_in_whatever_order(said, per_rater):
    lines = [
        one(f"p{p}", f"a{a}", "good" if good else "bad", correction=None if good else "right", rater=f"r{r}")
        for r, p, a, good in said
    ]
    rows, _ = taught(*lines, per_rater=per_rater)
    assert len(rows) <= per_rater * len({r for r, *_ in said})
    one_voice = list(
        {(line["rater"], str(line["messages"]), line["answer"]): line for line in lines}.values()
    )
    assert (
        taught(*one_voice, per_rater=per_rater)[0] == taught(*one_voice[::-1], per_rater=per_rater)[0] == rows
    )
    flood = [one(f"flood{n}", "x", rater="flooder") for n in range(30)]
    assert sum(p.startswith("flood") for p, _ in taught(*lines, *flood, per_rater=per_rater)[0]) <= per_rater
