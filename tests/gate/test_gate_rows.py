"""Which rows a judgement asks, and in which order: pure parts of the step, the design and the scores."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.errors import WrongUse
from steelyard.gate import score
from steelyard.gate.base.endpoint import Answer
from steelyard.gate.quality.design import design_of
from steelyard.gate.quality.scores import RowScore, Scores, _others, answer_text, token_budget
from steelyard.gate.step import by_ability, counts, divided, mode_of, sampled

abilities = st.lists(st.sampled_from("abc"), min_size=1, max_size=60)


def tasks(names):
    """Every third row of an ability wants the same answer as the one before."""
    return [
        {
            "id": str(i),
            "ability": name,
            "messages": [
                {"role": "user", "content": f"q{i}"},
                {"role": "assistant", "content": f"a{i - i % 3}"},
            ],
        }
        for i, name in enumerate(names)
    ]


@given(abilities, st.integers(1, 30), st.integers(0, 5))
def test_rows_are_drawn_once_each_and_the_abilities_take_turns(names, most, seed):
    rows = tasks(names)
    drawn = sampled(rows, most, seed)
    assert len({row["id"] for row in drawn}) == len(drawn)
    assert counts(drawn) == {a: min(most, n) for a, n in counts(rows).items()}
    assert [r["id"] for r in sampled(rows, most, seed)] == [r["id"] for r in drawn]
    first = [row["ability"] for row in drawn[: len(by_ability(rows))]]
    assert len(set(first)) == len(first)


@given(abilities)
def test_another_row_has_another_answer_and_the_same_ability(names):
    rows = {row["id"]: row for row in tasks(names)}
    for own, other in _others(list(rows.values())).items():
        assert rows[own]["ability"] == other["ability"]
        assert rows[own]["messages"][-1]["content"] != other["messages"][-1]["content"]


@given(st.lists(st.floats(0, 1), max_size=30), st.integers(0, 40))
def test_scores_are_cut_in_two_without_loss(values, at):
    rows = tuple(RowScore(row=str(i), ability="a", value=v, answer_sha256=None) for i, v in enumerate(values))
    whole = Scores(rows=rows, answers=tuple(map(str, values)))
    first, rest = divided(whole, at)
    assert first + rest == whole and len(first.rows) == min(at, len(values))


@given(st.integers(1, 2000), st.integers(0, 4000), st.integers(1, 600))
def test_a_design_looks_at_rows_that_are_there(held_out, train, rows):
    design = design_of({"rows": rows}, {"a": held_out}, {"a": train})
    assert design.sizes("a")[-1] == design.abilities["a"].pairs <= min(held_out, rows) + train
    assert design.base_sizes("a")[-1] == min(held_out, rows)
    assert design.guard("a") <= 1.0
    z = [design.quantiles(design.sizes("a"), look) for look in range(len(design.sizes("a")))]
    assert all(high >= low > 1 for low, high in z)  # to fail a form takes more than to pass it


def test_calls_of_tools_go_before_text():
    call = {"function": {"name": "f", "arguments": "{}"}}
    assert answer_text(Answer(text="x", tool_calls=(call,))) == '[{"name": "f", "arguments": {}}]'
    assert answer_text(Answer(text="x")) == "x" and answer_text(Answer(text=None)) is None


def test_an_answer_may_be_twice_as_long_as_the_longest_reference():
    assert token_budget(tasks("ab"), None, len) == {"a": 12, "b": 12}
    assert token_budget(tasks("a"), 7) == {"a": 7} and token_budget(tasks("a")) == {"a": 256}


def test_a_judge_must_be_named():
    row = {**tasks("a")[0], "compare": "judge"}
    with pytest.raises(WrongUse, match="judge"):
        score("http://127.0.0.1:9", [row])


@pytest.mark.parametrize(
    ("form", "mode"),
    [("f32", "exact"), ("bf16", "fast"), ("bf16_kv8", "int8"), ("int4_rtn", "int4"), ("int8", "int8")],
)
def test_a_form_is_judged_as_closely_as_it_can_be(form, mode):
    assert mode_of(form) == mode
