"""Which rows a judgement asks, and in which order: pure parts of the step, the design and the scores."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.errors import WrongUse
from steelyard.gate import load_tasks, score
from steelyard.gate.base.endpoint import Answer
from steelyard.gate.quality.design import design_of
from steelyard.gate.quality.rows import by_ability, counts, sampled
from steelyard.gate.quality.scores import RowScore, Scores, _others, answer_text, token_budget
from steelyard.gate.step import divided, mode_of

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


def replies(*texts, **more):
    answers = [{"role": "assistant", "content": text} for text in texts]
    user = {"role": "user", "content": "q"}
    return [{"id": str(i), "ability": "a", "messages": [user, a], **more} for i, a in enumerate(answers)]


@pytest.mark.parametrize(
    ("size", "compare", "budget"),
    [
        (10, "text", 28), (120, "text", 248), (124, "text", 256), (200, "text", 256), (224, "text", 256),
        (300, "text", 332), (300, "json", 332), (300, None, 332),
        (300, "chrf", 256), (300, "judge", 256), (300, "contains", 256),  # a cut answer shows enough
    ],
)  # fmt: skip
def test_an_answer_that_must_be_whole_has_room_to_be(size, compare, budget):
    """A JSON reference of 300 tokens used to be asked in 256: no answer could be right."""
    assert token_budget(replies("x" * size, compare=compare), None, len) == {"a": budget}
    assert token_budget(replies("x" * size, "y", compare=compare), None, len) == {"a": budget}
    assert token_budget(replies("x" * size, compare=compare), 50, len) == {"a": 50}


@given(st.lists(st.sampled_from(["x", "x#2", "1", "2", "3", None]), max_size=9))
def test_every_row_has_an_id_of_its_own(ids):
    """Also where a number stands for a line: a row without an id gets that of its place."""
    rows = [{k: v for k, v in row.items() if k != "id"} for row in replies(*"abcdefghi"[: len(ids)])]
    loaded = load_tasks([row | ({"id": i} if i else {}) for row, i in zip(rows, ids, strict=True)])
    names = [row["id"] for row in loaded]
    assert len(set(names)) == len(names)
    own = [i or str(place) for place, i in enumerate(ids, 1)]
    assert all(n == o or n.startswith(f"{o}#") for n, o in zip(names, own, strict=True))
    assert all(names[own.index(o)] == o for o in own)  # the first of a name has it


def test_a_text_may_hold_any_separator(tmp_path):
    """JSON may hold U+2028 as it is: such a line used to be no JSON."""
    said = "a\u2028b\u2029c\x85d"
    lines = [json.dumps(row, ensure_ascii=False) for row in replies(said, "y")]
    (tmp_path / "tasks.jsonl").write_bytes("\r\n".join(lines).encode())
    first, second = load_tasks(tmp_path / "tasks.jsonl")
    assert first["messages"][-1]["content"] == said and second["messages"][-1]["content"] == "y"


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_tasks_that_cannot_be_read_are_one_clear_error(tmp_path, content):
    file = tmp_path / "tasks.jsonl"
    if content:
        file.write_bytes(content)
    with pytest.raises(WrongUse) as e:
        load_tasks(file)
    assert e.value.code == "gate.tasks_unreadable" and e.value.where.file == str(file)


def test_answers_are_told_by_their_hash_alone():
    rows = (
        RowScore(row="1", ability="a", value=1.0, answer_sha256="h1"),
        RowScore(row="2", ability="b", value=0.0, answer_sha256=None, error="HTTP 503"),
    )
    document = Scores(rows=rows, answers=("secret", None)).as_json()
    assert "secret" not in json.dumps(document)
    assert document["scores"] == {"a": 1.0, "b": 0.0} and document["overall"]["value"] == 0.5
    assert document["errors"] == [{"row": "2", "ability": "b", "error": "HTTP 503"}] and document["rows"] == 2
    other = Scores(rows=rows[::-1]).as_json()
    assert other["answers_sha256"] != document["answers_sha256"]


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
