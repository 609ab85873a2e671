"""How answers compare: a table of cases, and chrF against values made by sacreBLEU."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.errors import WrongUse
from steelyard.gate import METRICS, load_tasks, right
from steelyard.gate.quality.metrics import called, last_number
from steelyard.gate.quality.scores import sent


def row(reference: str, **more):
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": reference}]
    return {"messages": messages, "ability": "a", **more}


@pytest.mark.parametrize(
    ("reference", "more", "answer", "expected"),
    [
        ("-v", {}, "  -v\n", 1),
        ("-v", {}, "-V", 0),
        ("-v", {"accept": ["--verbose"]}, "--verbose", 1),
        ("正面", {"compare": "label"}, "正面。", 1),
        ("Yes", {"compare": "label"}, " yes!", 1),
        ("Yes", {"compare": "label"}, "yes, maybe", 0),
        ('{"a": 1, "b": [2]}', {"compare": "json"}, '{"b":[2],"a":1}', 1),
        ('{"a": 1.0}', {"compare": "json"}, '{"a": 1}', 1),
        ('{"a": true}', {"compare": "json"}, '{"a": 1}', 0),
        ('{"a": 1}', {"compare": "json"}, 'sure: {"a": 1}', 0),
        ("x", {}, None, 0),
        ("ORD-12", {"compare": "contains"}, "Your order ord-12 is on its way.", 1),
        ("12", {"compare": "contains"}, "order 112", 0),
        ("12", {"compare": "contains"}, "订单12号已发货", 1),
        ("已发货", {"compare": "contains"}, "您的订单已发货了。", 1),
        ("two  days", {"compare": "contains"}, "It takes\nTWO days.", 1),
        ("a", {"compare": "contains", "accept": ["b"]}, "only b here", 1),
        ("", {"compare": "contains"}, "anything", 0),
        ("42", {"compare": "number"}, "6 times 7 is 42.", 1),
        ("1,234.5", {"compare": "number"}, "It is 1234.50 EUR", 1),
        ("-3", {"compare": "number"}, "about −3 °C", 1),
        ("１２", {"compare": "number"}, "12 %", 1),
        ("12", {"compare": "number"}, "between 12 and 13", 0),
        ("0.1", {"compare": "number"}, ".1", 1),
        ("12", {"compare": "number"}, "twelve", 0),
    ],
)
def test_an_answer_is_right_or_wrong(reference, more, answer, expected):
    assert right(row(reference, **more), answer) == expected


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    # sacrebleu 2.6.0, sentence_chrf(answer, [reference]).score
    [
        ("the cat sat on the mat", "the cat sat on the mat", 100.0),
        ("今天天气很好", "今天天气不错", 35.0),
        ("the cat sat on a mat", "the cat is on the mat", 37.03545),
        ("SELECT a FROM t", "SELECT b FROM t WHERE c", 39.66165),
        ("abc", "xyz", 0.0),
    ],
)
def test_chrf_equals_sacrebleu(answer, reference, expected):
    assert METRICS["chrf"](answer, [reference]) * 100 == pytest.approx(expected, abs=1e-4)


def test_an_unknown_metric_names_the_known_ones():
    with pytest.raises(WrongUse) as e:
        right(row("x"), "x", metric="bleu")
    assert "chrf" in e.value.hint


@pytest.mark.parametrize(
    ("text", "line"),
    [('{"messages": []}', 1), ("{", 1), ('\n{"messages": [{"role":"user","content":"a"}]}', 2), ("[1]", 1)],
)
def test_a_bad_task_row_is_named_by_its_line(tmp_path, text, line):
    file = tmp_path / "tasks.jsonl"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(WrongUse) as e:
        load_tasks(file)
    assert e.value.where.line == line


CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"id": 7, "n": 1}'}}


def calling(arguments, name="find", **more):
    return {"function": {"name": name, "arguments": arguments}, **more}


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([calling('{"n": 1, "id": 7}', id="another")], 1),
        ([calling({"n": 1, "id": 7})], 1),
        ([calling('{"n": 2, "id": 7}')], 0),
        ([calling('{"n": 1, "id": 7}', name="search")], 0),
        ([CALL, CALL], 0),
        ([calling("{")], 0),
    ],
)
def test_a_reference_that_calls_tools_is_compared_by_its_calls(calls, expected):
    """Whatever `compare` says: ids are made up by the server, spacing and order of keys do not count."""
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "", "tool_calls": [CALL]}]
    task = {"messages": messages, "ability": "a", "compare": "text"}
    assert right(task, called(calls)) == expected
    assert right(task, "I would call find") == 0


@given(st.floats(-1e12, 1e12, allow_nan=False).map(lambda x: round(x, 3)))
def test_a_number_is_read_however_it_is_written(value):
    for text in (f"{value:,}", f"{value}", f"so the answer is {value:,.3f}."):
        assert METRICS["number"](text, [repr(value)]) == 1, text


@given(st.text(max_size=60))
def test_any_text_has_a_number_or_none(text):
    found = last_number(text)
    assert found is None or isinstance(found, float)


@given(st.text(min_size=1, max_size=30).filter(str.strip), st.text(max_size=20), st.text(max_size=20))
def test_what_stands_between_spaces_is_contained(reference, before, after):
    assert METRICS["contains"](f"{before} {reference} {after}", [reference]) == 1


@given(st.text(max_size=40), st.text(min_size=1, max_size=40))
def test_every_metric_is_a_share_and_sees_its_own_reference(answer, reference):
    for name, metric in METRICS.items():
        assert 0 <= metric(answer, [reference]) <= 1, name
    assert METRICS["chrf"](reference, [reference]) == METRICS["exact"](reference, [reference]) == 1


def test_a_task_may_call_tools_instead_of_saying_something():
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert load_tasks([{"messages": [{"role": "user", "content": "?"}, call]}])
    with pytest.raises(WrongUse):
        load_tasks([{"messages": [{"role": "user", "content": None}, call]}])
    with pytest.raises(WrongUse):
        load_tasks([{"messages": [{"role": "user", "content": "?"}, {**call, "tool_calls": []}]}])


def test_messages_are_sent_without_what_only_training_reads():
    messages = [
        {"role": "user", "content": "?", "weight": 0},
        {**MESSAGE, "reasoning_content": "hm", "weight": 1},
    ]
    assert sent(messages) == [{"role": "user", "content": "?"}, MESSAGE]


MESSAGE = {"role": "assistant", "content": "!"}
