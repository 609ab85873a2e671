"""The rows of a run over several stages: each ends in one place, whichever stage taught it."""

from __future__ import annotations

from steelyard.run.path.rows import compose, fault_of, of_stages

ACCOUNT = {"read": 14, "kept": 12, "held_out": 2, "by_reason": {"empty": 2}}


def stage(of, taught, **dropped):
    told = {"split": 0, "truncated": 1, "tokens_taught": 10 * taught}
    return {"of": of, "rows": 10, "taught": taught, "dropped": dropped} | told


def test_a_row_that_one_stage_passes_by_is_the_other_ones():
    texts, chats = stage("texts", 4, not_in_texts=6), stage("chats", 5, not_in_chats=4, too_long=1)
    rows = compose(ACCOUNT, of_stages({"texts": texts, "chats": chats}))
    assert rows["taught"] == 9 and rows["dropped"] == {"empty": 2, "too_long": 1}
    assert rows["truncated"] == 2 and rows["tokens_taught"] == 90 and fault_of(rows) is None


def test_until_the_second_stage_the_other_rows_are_not_taught():
    rows = compose(ACCOUNT, of_stages({"texts": stage("texts", 4, not_in_texts=6)}))
    assert (
        rows["taught"] == 4 and rows["dropped"] == {"empty": 2, "not_in_texts": 6} and fault_of(rows) is None
    )


def test_stages_over_the_same_rows_are_one_account():
    rows = compose(ACCOUNT, of_stages({"all": stage("all", 10)}))
    assert rows["taught"] == 10 and fault_of(rows) is None
    assert of_stages({}) is None
