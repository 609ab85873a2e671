"""How answers compare: a table of cases, and chrF against values made by sacreBLEU."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.compare import METRICS, called, last_number, right
from steelyard.errors import WrongUse
from steelyard.gate import load_tasks
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
        # Marks around a label do not count, signs of its own do.
        ("-1", {"compare": "label"}, "1", 0),
        ("-1", {"compare": "label"}, "-1.", 1),
        ("C++", {"compare": "label"}, "C#", 0),
        ("C++", {"compare": "label"}, "c++!", 1),
        ("A", {"compare": "label"}, "A+", 0),
        ("A*", {"compare": "label"}, "A", 0),
        ("A*", {"compare": "label"}, "**A***", 1),
        ("<5", {"compare": "label"}, ">5", 0),
        ("+", {"compare": "label"}, "-", 0),
        ("👍", {"compare": "label"}, "👎", 0),
        ("👍", {"compare": "label"}, "", 0),
        ("👍", {"compare": "label"}, " 👍\n", 1),
        ("yes", {"compare": "label"}, "✅️ Yes", 1),
        ("yes", {"compare": "label"}, "- `Yes`", 1),
        ("yes", {"compare": "label"}, "__“Yes.”__", 1),
        ("yes", {"compare": "label"}, "<yes>", 1),
        ("हाँ", {"compare": "label"}, "हा", 0),  # Hindi: a sign of the word at its end
        # One reference that is no JSON does not hide another that is.
        ("none", {"compare": "json", "accept": ['{"a": 1}']}, '{"a": 1}', 1),
        ('{"a": NaN}', {"compare": "json"}, '{"a": NaN}', 0),
        ("[1, 2]", {"compare": "json"}, "[1, 2, 3]", 0),
        ('{"a": null}', {"compare": "json"}, "{}", 0),
        ("[" * 100_000, {"compare": "json"}, "[" * 100_000, 0),
        # A word or number inside a longer one is another.
        ("12", {"compare": "contains"}, "it is 12.5", 0),
        ("12", {"compare": "contains"}, "it is 3.12", 0),
        ("12", {"compare": "contains"}, "it is -12 there", 0),
        ("12", {"compare": "contains"}, "It is 12.", 1),
        ("12", {"compare": "contains"}, "ORD-12, 13", 1),
        ("200", {"compare": "contains"}, "1,200", 0),
        ("-12", {"compare": "contains"}, "it is -12", 1),
        ("нет", {"compare": "contains"}, "интернет", 0),
        ("нет", {"compare": "contains"}, "Нет, спасибо", 1),
        ("gr", {"compare": "contains"}, "grün", 0),
        ("서울", {"compare": "contains"}, "서울에서", 1),  # Korean words take endings
        ("(a)", {"compare": "contains"}, "see (a)b", 1),
        # How numbers are written.
        ("12", {"compare": "number"}, "pages 10-12", 1),
        ("-12", {"compare": "number"}, "pages 10-12", 0),
        ("-3", {"compare": "number"}, "温度-3度", 1),
        ("3 m²", {"compare": "number"}, "9 m²", 0),
        ("120", {"compare": "number"}, "面积120㎡", 1),
        ("1.234,56", {"compare": "number"}, "9.999,56", 0),
        ("1234.56", {"compare": "number"}, "1.234,56 EUR", 1),
        ("3,14", {"compare": "number"}, "2,14", 0),
        ("3.14", {"compare": "number"}, "3,14", 1),
        ("0,125", {"compare": "number"}, "0.125", 1),
        ("1,234", {"compare": "number"}, "1234", 1),
        ("1.234.567", {"compare": "number"}, "1234567", 1),
        ("3", {"compare": "number"}, "1,2,3", 1),
        ("1234567", {"compare": "number"}, "1’234’567", 1),
        ("1e-9", {"compare": "number"}, "0", 0),
        ("1e999", {"compare": "number"}, "1e500", 0),
        ("0.30000000000000004", {"compare": "number"}, "0.3", 1),
        ("1000000001", {"compare": "number"}, "1000000003", 0),
        ("7", {"compare": "number", "accept": ["8"]}, "8", 1),
        ("none", {"compare": "number"}, "none", 0),
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
        ("a", "ab", 55.55556),
        ("ab", "a", 83.33333),
        ("", "abc", 0.0),
        ("a b c", "abc", 100.0),
        ("👍🏽 ok", "👍 ok", 46.42857),
        ("The refund takes 5 days.", "A refund takes five days.", 59.67376),
        ("kitten", "sitting", 19.02508),
        ("aaaa", "aa", 78.125),
        ("нет, спасибо", "да, спасибо", 69.90029),
    ],
)
def test_chrf_equals_sacrebleu(answer, reference, expected):
    assert METRICS["chrf"](answer, [reference]) * 100 == pytest.approx(expected, abs=1e-4)


def test_the_best_of_several_references_counts():
    """sacrebleu 2.6.0: sentence_chrf("one two", ["two one", "one too"])."""
    assert METRICS["chrf"]("one two", ["two one", "one too"]) * 100 == pytest.approx(38.33333, abs=1e-4)
    assert METRICS["chrf"]("one two", []) == 0.0


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


@given(st.integers(0, 10**9), st.integers(0, 99))
def test_a_number_is_read_as_other_countries_write_it(whole, cents):
    value = f"{whole}.{cents:02d}"
    english = f"{whole:,}.{cents:02d}"
    german = english.translate(str.maketrans(",.", ".,"))
    swiss = english.replace(",", "'")
    wide = "".join(chr(ord(c) + 0xFEE0) if c.isdigit() else c for c in value)
    for text in (english, german, swiss, wide, english.replace(",", "\u202f")):
        assert last_number(f"In all {text}") == float(value), text


@given(st.lists(st.integers(0, 99), min_size=1, max_size=6), st.sampled_from([", ", " - ", "-", "/", "; "]))
def test_the_last_of_several_numbers_counts(numbers, between):
    assert last_number(between.join(map(str, numbers))) == numbers[-1]


LABELS = st.text(st.characters(categories=["L", "N", "Sm", "So", "Sc"]), min_size=1, max_size=6)


@given(
    LABELS.filter(lambda t: t == t.strip()),
    st.sampled_from(['"{}"', "**{}**", " {}.\n", "({})", "- {}", "`{}`"]),
)
def test_marks_around_a_label_do_not_count(text, around):
    assert METRICS["label"](around.format(text), [text]) == 1


@given(LABELS, LABELS)
def test_labels_are_equal_in_both_directions_or_in_none(one, other):
    assert METRICS["label"](one, [other]) == METRICS["label"](other, [one])
    if METRICS["label"](one, [other]):
        shared = set(one.casefold()) & set(other.casefold())
        assert shared, (one, other)


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
