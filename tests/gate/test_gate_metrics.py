"""How answers compare: a table of cases, and chrF against values made by sacreBLEU."""

from __future__ import annotations

import pytest

from steelyard.errors import WrongUse
from steelyard.gate import METRICS, load_tasks, right


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
