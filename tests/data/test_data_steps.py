"""Each step of cleaning by itself, threads, encodings and the corners of tables."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.data import STEPS, Row, Source, Unreadable, redact, rows
from steelyard.data.reading.encoding import detect
from steelyard.data.steps import Rules, has_placeholder
from steelyard.data.steps.length import estimated_tokens, most_tokens

CALL = {"type": "function", "function": {"name": "find", "arguments": '{"id": 7}'}}


def chat(*turns, **more):
    messages = tuple({"role": role, "content": content, **extra} for role, content, extra in turns)
    return Row("", "", 0, messages=messages, **more)


def said(role, content, **extra):
    return role, content, extra


def reasons(step, row, **rules):
    _, findings = STEPS[step](row, Rules(**rules))
    return [(f.kind, f.action) for f in findings]


USER, ANSWER = said("user", "Where?"), said("assistant", "Here.")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (chat(USER, ANSWER), None),
        (chat(said("system", ""), USER, ANSWER), None),
        (chat(USER, ANSWER, USER, ANSWER), None),
        (chat(USER, said("assistant", "", tool_calls=[CALL])), None),
        (chat(USER, said("assistant", "", tool_calls=[CALL]), said("tool", ""), ANSWER), None),
        (chat(said("system", "Say hello."), ANSWER), None),
        (chat(), "empty"),
        (chat(said("system", "s")), "empty"),
        (chat(said("user", " \n"), ANSWER), "empty"),
        (chat(USER, said("assistant", "")), "empty"),
        (chat(USER, said("assistant", "", tool_calls=[])), "empty"),
        (chat(USER), "no_answer"),
        (chat(USER, ANSWER, USER), "no_answer"),
        (chat(USER, said("assistant", "", tool_calls=[CALL]), said("tool", "7")), "no_answer"),
        (chat(USER, said("assistant", "Here.", weight=0)), "not_taught"),
        (chat(USER, said("assistant", "a", weight=0), USER, said("assistant", "b", weight=1)), None),
        (chat(ANSWER), "no_question"),
        (Row("", "", 0, text="a"), None),
        (Row("", "", 0, text=" .-! "), "empty"),
        (Row("", "", 0, text=None), "empty"),
    ],
)
def test_rows_that_say_nothing(row, reason):
    assert reasons("empty", row) == ([(reason, "drop")] if reason else [])


@pytest.mark.parametrize("place", ["content", "reasoning_content", "arguments"])
def test_misread_text_is_noticed_wherever_it_stands(place):
    bad = "Zwei StÃ¤dte, drei FlÃ¼sse, vier SchlÃ¶sser"
    answer = {"role": "assistant", "content": "fine", "reasoning_content": "fine", "tool_calls": [CALL]}
    if place == "arguments":
        call = {
            "type": "function",
            "function": {"name": "find", "arguments": json.dumps({"name": bad}, ensure_ascii=False)},
        }
        answer = {**answer, "tool_calls": [call]}
    else:
        answer = {**answer, place: bad}
    row = Row("", "", 0, messages=({"role": "user", "content": "q"}, answer))
    assert reasons("broken", row) == [("mojibake", "drop")]


def test_lengths_by_characters_and_tokens():
    row = chat(USER, said("assistant", "word " * 100))
    assert reasons("too_long", row) == []
    assert reasons("too_long", row, max_chars=100) == [("too_long", "drop")]
    assert reasons("too_long", row, max_tokens=50) == [("too_long", "drop")]
    assert reasons("too_long", row, max_tokens=50, tokens_of=lambda row: 50) == []
    assert reasons("too_long", row, max_tokens=50, tokens_of=lambda row: 51) == [("too_long", "drop")]


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=80)


@given(st.lists(TEXT, min_size=1, max_size=4))
def test_the_estimate_of_tokens_lies_below_their_bound(texts):
    row = chat(*(said("user", text) for text in texts))
    assert 0 <= estimated_tokens(row) <= most_tokens(row)


def test_personal_data_by_its_rule():
    row = chat(said("user", "I am a@b.com"), ANSWER)
    assert reasons("personal", row) == [("email", "report")] == reasons("personal", row, pii="report")
    assert reasons("personal", row, pii="mask") == [("email", "redact")]
    assert reasons("personal", row, pii="off") == []
    assert STEPS["personal"](row, Rules(pii="report"))[0] is row
    masked, _ = STEPS["personal"](row, Rules(pii="mask"))
    assert masked.messages[0]["content"] == "I am <EMAIL_1>" and row.messages[0]["content"] == "I am a@b.com"


@pytest.mark.parametrize(
    ("row", "holds"),
    [
        (chat(said("user", "<EMAIL_1>"), ANSWER), False),
        (chat(USER, said("assistant", "Write to <EMAIL_1>.")), True),
        (chat(USER, said("assistant", "[NAME], hello")), True),
        (chat(USER, said("assistant", "<PHONE_1>", weight=0), USER, ANSWER), False),
        (chat(USER, said("assistant", "ok", reasoning_content="<PHONE_12>")), True),
        (chat(USER, said("assistant", "<b>bold</b> [1] [note]")), False),
        (Row("", "", 0, text="<EMAIL_1>"), False),
    ],
)
def test_placeholders_that_would_be_taught(row, holds):
    assert has_placeholder(row) is holds


@given(st.lists(TEXT, max_size=4))
def test_masking_twice_masks_nothing_more(texts):
    once, _ = redact(texts)
    twice, counts = redact(once)
    assert twice == once and not any(counts.values())


# ------------------------------------------------------------------ threads


def threaded(tmp_path, lines, header=("t", "q", "a"), **names):
    with open(tmp_path / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows([header, *lines])
    map = {"thread": "t", "user": "q", "assistant": "a"} | names
    return list(rows(Source(path=str(tmp_path / "t.csv"), map=map)))


def test_a_thread_is_one_chat_with_one_system_prompt(tmp_path):
    lines = [
        ("1", "a", "b", "Be brief."),
        ("2", "x", "y", "Other."),
        ("1", "c", "", "Be brief."),
        ("1", "", "d", ""),
    ]
    first, second = threaded(tmp_path, lines, ("t", "q", "a", "s"), system="s")
    assert [(m["role"], m["content"]) for m in first.messages] == [
        ("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"),
    ]  # fmt: skip
    assert (first.line, second.line) == (2, 3)


def test_turns_of_one_side_in_a_row_are_one(tmp_path):
    (row,) = threaded(tmp_path, [("1", "a", ""), ("1", "b", "c")])
    assert [(m["role"], m["content"]) for m in row.messages] == [("user", "a\nb"), ("assistant", "c")]


def test_a_broken_line_of_a_threaded_table_is_a_row_of_its_own(tmp_path):
    (tmp_path / "t.csv").write_text("t,q,a\n1,a,b\n1,c\n1,d,e\n")
    got = list(rows(Source(path=str(tmp_path / "t.csv"), map={"thread": "t", "user": "q", "assistant": "a"})))
    assert [type(row) for row in got] == [Unreadable, Row]
    assert got[0].line == 3 and [m["content"] for m in got[1].messages] == ["a", "b", "d", "e"]


# ------------------------------------------------------------------ tables and bytes


def test_empty_cells_behind_the_last_column_are_no_fault(tmp_path):
    """A spreadsheet writes the separators of columns that were emptied."""
    (tmp_path / "t.csv").write_text("prompt,completion\na,b,,\nc,d,e\nf,g\n")
    got = list(rows(Source(path=str(tmp_path / "t.csv"))))
    assert [type(row) for row in got] == [Row, Unreadable, Row] and got[1].line == 3


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6), st.sampled_from([",", ";", "\t", "|"]))
def test_cells_come_back_as_they_were_written(tmp_path_factory, cells, delimiter):
    cells = [(a.replace("\0", "").replace("\r", ""), b.replace("\0", "").replace("\r", "")) for a, b in cells]
    path = tmp_path_factory.mktemp("cells") / "t.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([("prompt", "completion"), *cells])
    got = [row for row in rows(Source(path=str(path), encoding="utf-8")) if isinstance(row, Row)]
    wanted = [(a, b) for a, b in cells if (a or b) and "\ufffd" not in a + b]
    assert [(row.messages[0]["content"], row.messages[1]["content"]) for row in got] == wanted


ZH = "".join("退款多久到账您好三个工作日内请稍候谢谢惠顾再见")


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gb18030"]
)
def test_encodings_by_their_bytes(encoding):
    data = "\n".join(json.dumps({"text": ZH[n:] + " ab"}, ensure_ascii=False) for n in range(9)).encode(
        encoding
    )
    found = detect(io.BytesIO(data))
    assert found and data.decode(found.name).lstrip("\ufeff").startswith('{"text"')


def test_bytes_of_no_encoding_are_named_as_such():
    assert detect(io.BytesIO("Ça été déjà réglé".encode("latin-1"))) is None
    assert detect(io.BytesIO(b"")).name == "utf-8"
