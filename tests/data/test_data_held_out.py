"""Held-out rows follow from content; the account adds up or says that it does not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.data.account import Account, FileAccount
from steelyard.data.held_out import first_groups, held_out, rows_to_hold
from steelyard.data.questions import Questions
from steelyard.data.row import Row, loose, prompt_key, row_key, tight

KEPT = st.lists(st.tuples(st.sampled_from("abc"), st.binary(min_size=1, max_size=1)), max_size=60)
SHARES = st.none() | st.floats(0.01, 0.5) | st.just(0)


@given(KEPT, st.sets(st.sampled_from("abc")), SHARES, st.randoms())
def test_the_choice_follows_from_content_alone(kept, own, share, dice):
    chosen = held_out(kept, own, share)
    shuffled = list(kept)
    dice.shuffle(shuffled)
    assert held_out(shuffled, own, share) == chosen


@given(KEPT, st.sets(st.sampled_from("abc")), SHARES)
def test_prompts_are_whole_and_each_ability_keeps_something_to_learn(kept, own, share):
    chosen = held_out(kept, own, share)
    assert chosen <= {prompt for ability, prompt in kept if ability not in own}
    assert not chosen & {prompt for ability, prompt in kept if ability in own}
    if share == 0:
        assert not chosen
    rows = Counter(ability for ability, _ in kept)
    for ability in set(rows) - own:
        mine = {prompt for a, prompt in kept if a == ability}
        others = {prompt for a, prompt in kept if a != ability}
        if not mine & others:
            assert mine - chosen


@given(st.integers(0, 5000), SHARES)
def test_never_all_rows_and_one_at_least(rows, share):
    held = rows_to_hold(rows, share)
    assert 0 <= held <= max(0, rows - 1)
    if rows > 1 and share != 0:
        assert held >= 1
    if share:
        assert held == min(max(round(rows * share), 1 if rows > 1 else 0), max(0, rows - 1))


@given(
    st.dictionaries(st.binary(min_size=1, max_size=3), st.integers(1, 9)), st.integers(0, 40), st.booleans()
)
def test_whole_groups_in_the_order_of_their_hash(groups, wanted, keep_one):
    chosen = first_groups(groups, wanted, keep_one)
    in_order = sorted(groups)
    assert chosen == set(in_order[: len(chosen)])
    if keep_one and groups:
        assert len(chosen) < len(groups)
    if chosen:
        assert sum(groups[p] for p in in_order[: len(chosen) - 1]) < wanted


# ------------------------------------------------------------------ the account


def files(read=5, kept=3, held_out=1, **reasons):
    file = FileAccount("a.jsonl", "x", Path("a.jsonl"), read=read, kept=kept, held_out=held_out)
    file.by_reason.update(reasons)
    return file


def test_the_sums_stand_in_the_account():
    account = Account([files(empty=2), files(read=4, kept=4, held_out=0)])
    body = account.as_json()
    assert (body["read"], body["kept"], body["dropped"]) == (9, 7, 2)
    assert (body["train"], body["held_out"], body["by_reason"]) == (6, 1, {"empty": 2})
    assert [file["train"] for file in body["sources"]] == [2, 4]


@pytest.mark.parametrize("wrong", [{"read": 6}, {"kept": 4}, {"held_out": 9}, {"held_out": -1}, {"empty": 1}])
def test_a_row_in_no_place_or_in_two_is_noticed(wrong):
    with pytest.raises(AssertionError):
        Account([files(**{"empty": 2, **wrong})]).as_json()


def test_a_row_with_two_reasons_counts_once_under_the_first():
    account = Account([files(read=1, kept=0, held_out=0)])
    account.drop(account.files[0], ("empty", "contamination"))
    assert account.as_json()["by_reason"] == {"empty": 1} and account.dropped == 1


# ------------------------------------------------------------------ keys and questions


def chat(*turns):
    roles = ("user", "assistant") * len(turns)
    return Row(
        "", "", 0, messages=tuple({"role": r, "content": c} for r, c in zip(roles, turns, strict=False))
    )


def text(words):
    return Row("", "", 0, text=words)


WORDS = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)


@given(WORDS)
def test_white_space_and_width_make_no_other_row(words):
    assert tight(tight(words)) == tight(words) and tight(f"  {words}\n") == tight(words)
    assert row_key(chat(words, "a")) == row_key(chat(f" {words} ", "a"))
    assert prompt_key(chat(words, "a")) == prompt_key(chat(words, "b"))


def test_long_prose_is_equal_but_for_case_and_marks_and_short_is_not():
    long = "The printer in the hall does not answer, whatever one does to it."
    assert loose(long) == loose(long.upper().replace(",", " -")) and loose("No!") != loose("no")
    assert row_key(text(long)) == row_key(text(long + "!")) and row_key(text("a.b")) != row_key(text("ab"))


LONG = "Where does one hand in the keys of a rented bicycle?"


@pytest.mark.parametrize(
    ("asked", "row", "found"),
    [
        (chat(LONG, "x"), chat(LONG, "another answer"), True),
        (chat(LONG, "x"), chat(f"Hello.\n{LONG}\nThanks", "y"), True),
        (chat(LONG, "x"), chat("Translate", LONG), True),
        (chat(LONG, "x"), chat(f"I ask: {LONG}", "y"), False),
        (chat("yes", "x"), chat("yes", "y"), True),
        (chat("yes", "x"), chat("Is it?", "yes"), False),
        (chat("退款多久到账", "x"), chat("问题如下\n退款多久到账", "y"), True),
        (chat(LONG, "x", "And then?", "y"), chat("And then?", "z"), False),
        (chat(LONG, "x", "And then?", "y"), chat(LONG, "z"), True),
        (text(LONG), text(f"First line\n{LONG}"), True),
        (text(LONG), text("Another line altogether, of nothing in particular"), False),
    ],
)
def test_what_holds_an_evaluation_question(asked, row, found):
    assert Questions.of([asked]).are_in(row, prompt_key(row)) is found


def test_no_evaluation_finds_nothing():
    assert not Questions() and not Questions.of([])
    assert not Questions().are_in(chat("a", "b"), prompt_key(chat("a", "b")))
