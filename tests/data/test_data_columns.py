"""Which column is the question: by headings in English and Chinese, by cells, or not at all."""

from __future__ import annotations

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.data import Column, Source, answers_of, check, guess_map, rows, rows_with, sniff
from steelyard.errors import WrongUse


def pair(user, assistant, **more):
    return {**more, "user": user, "assistant": assistant}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["question", "answer"], pair("question", "answer")),
        (["Question", "Reply"], pair("Question", "Reply")),
        (["customer message", "agent reply"], pair("customer message", "agent reply")),
        (["customer_message", "agent_reply"], pair("customer_message", "agent_reply")),
        (["customerMessage", "agentReply"], pair("customerMessage", "agentReply")),
        (["customer", "agent"], pair("customer", "agent")),
        (["issue", "solution"], pair("issue", "solution")),
        (["Issues", "Solutions"], pair("Issues", "Solutions")),
        (["description", "resolution"], pair("description", "resolution")),
        (["problem description", "fix"], pair("problem description", "fix")),
        (["query", "response"], pair("query", "response")),
        (["user_input", "bot_output"], pair("user_input", "bot_output")),
        (["source", "target"], pair("source", "target")),
        (["text", "label"], pair("text", "label")),
        (["review", "sentiment"], pair("review", "sentiment")),
        (["utterance", "intent"], pair("utterance", "intent")),
        (["body", "answer"], pair("body", "answer")),
        (["subject", "body", "answer"], pair(["subject", "body"], "answer")),
        (["Title", "Description", "Resolution"], pair(["Title", "Description"], "Resolution")),
        (["ticket_id", "subject", "customer message", "agent reply", "priority", "email"],
         pair(["subject", "customer message"], "agent reply")),
        (["id", "created at", "question", "answer", "answered by name"], pair("question", "answer")),
        (["system prompt", "user", "assistant"], pair("user", "assistant", system="system prompt")),
        (["问题", "回复"], pair("问题", "回复")),
        (["问题描述", "客服答复"], pair("问题描述", "客服答复")),
        (["工单号", "客户留言", "客服回复", "创建时间"], pair("客户留言", "客服回复")),
        (["客户问题", "答案"], pair("客户问题", "答案")),
        (["标题", "内容", "答复"], pair(["标题", "内容"], "答复")),
        (["用户咨询", "解决方案"], pair("用户咨询", "解决方案")),
        (["原文", "译文"], pair("原文", "译文")),
        (["系统提示", "提问", "回答"], pair("提问", "回答", system="系统提示")),
        (["文本", "标签"], pair("文本", "标签")),
        (["问", "答"], pair("问", "答")),
    ],
)  # fmt: skip
def test_headings_that_people_give(columns, expected):
    guess = guess_map(columns)
    assert guess.map == expected and guess.by == "headings"


@pytest.mark.parametrize(
    "columns",
    [
        [], ["text"], ["id", "text"], ["body"], ["subject", "body"], ["a", "b"], ["col1", "col2", "col3"],
        ["ticket_id", "thread", "status"], ["name", "phone", "email"], ["答案"], ["question id", "answer id"],
        ["正文"], ["工单号", "状态", "优先级"], ["price", "quantity"],
    ],
)  # fmt: skip
def test_headings_that_say_nothing_give_no_guess(columns):
    """A lone text column was taken as training data, and a ticket number as a thread."""
    assert not guess_map(columns) and guess_map(columns).map == {}


PROSE = [f"This is a sentence that somebody wrote about thing number {n}." for n in range(40)]
OTHER = [f"And this is what was said to them about case {n * 7}." for n in range(40)]
SHORT = [str(n) for n in range(40)]
CLASSES = ["high", "low"] * 20
DATES = [f"2024-05-{1 + n % 28:02} 10:00" for n in range(40)]


def columns_of(**cells):
    return [Column.of(name, [{name: cell} for cell in column]) for name, column in cells.items()]


def test_cells_decide_where_headings_do_not():
    guess = guess_map(columns_of(a=SHORT, b=PROSE, c=OTHER, d=CLASSES))
    assert (guess.map, guess.by) == ({"user": "b", "assistant": "c"}, "cells")
    guess = guess_map(columns_of(a=SHORT, question=PROSE, c=OTHER, d=CLASSES))
    assert guess.map == {"user": "question", "assistant": "c"}
    guess = guess_map(columns_of(c=PROSE, reply=OTHER, at=DATES))
    assert guess.map == {"user": "c", "assistant": "reply"}


def test_cells_do_not_decide_among_three_or_for_one():
    assert not guess_map(columns_of(a=PROSE, b=OTHER, c=PROSE[::-1]))
    assert not guess_map(columns_of(question=PROSE, b=OTHER, c=PROSE[::-1]))
    assert not guess_map(columns_of(a=SHORT, b=PROSE, c=CLASSES, d=DATES))
    assert not guess_map(columns_of(a=SHORT, b=SHORT))


def test_a_column_of_blanks_is_no_side_of_a_dialogue():
    assert not guess_map(columns_of(question=[""] * 40, answer=OTHER, d=CLASSES))
    guess = guess_map(columns_of(request=[""] * 40, message=PROSE, answer=OTHER))
    assert guess.map == {"user": "message", "assistant": "answer"}


def test_what_a_column_is_like():
    column = Column.of("c", [{"c": cell} for cell in ["a b", "a b", "", None, "中文"]])
    assert (column.filled, column.samples) == (0.6, ("a b", "中文"))
    assert column.distinct == pytest.approx(2 / 3) and column.wordy == pytest.approx(1 / 3)
    assert column.chars == pytest.approx((3 + 3 + 4) / 3)
    assert Column.of("c", []).samples == () and Column.of("c", [{"c": 7.0}]).samples == ("7",)


NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)


@given(st.lists(NAMES, max_size=8, unique=True))
def test_a_guess_names_columns_that_are_there_and_each_once(columns):
    guess = guess_map(columns)
    named = [c for cs in guess.map.values() for c in ([cs] if isinstance(cs, str) else cs)]
    assert set(named) <= set(columns) and len(named) == len(set(named))
    assert set(guess.map) <= {"system", "user", "assistant"}
    assert not guess or {"user", "assistant"} <= set(guess.map)


# ------------------------------------------------------------------ a first look at files


def write(path, header, lines):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *lines])
    return path


def workbook(path, **sheets):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, lines in sheets.items():
        sheet = book.create_sheet(title)
        for line in lines:
            sheet.append(line)
    book.save(path)
    return path


def test_a_workbook_is_looked_at_sheet_by_sheet(tmp_path):
    """Its first sheet was a note, and the second was neither looked at nor named."""
    path = workbook(
        tmp_path / "a.xlsx", Note=[["Exported in May"], ["by the desk"]],
        Tickets=[["question", "reply"], ["Where?", "Here."], ["When?", "Now."]], Empty=[],
    )  # fmt: skip
    facts = sniff(path)
    assert facts.sheet == "Tickets" and facts.sheets == {"Note": 1, "Tickets": 2, "Empty": 0}
    assert facts.guess.map == {"user": "question", "assistant": "reply"} and facts.rows == 2
    assert sniff(path, "Note").rows == 1
    with pytest.raises(WrongUse) as caught:
        list(rows(Source(path=str(path))))
    assert "Note, Tickets, Empty" in caught.value.why
    plain = workbook(tmp_path / "b.xlsx", One=[["question", "reply"], ["a", "b"]], Two=[["x"], ["y"]])
    assert sniff(plain).sheet is None


def test_a_workbook_without_a_usable_sheet_gives_the_longest(tmp_path):
    path = workbook(tmp_path / "a.xlsx", A=[["x"]], B=[["p", "q"], [1, 2], [3, 4]])
    assert sniff(path).sheet == "B" and not sniff(path).guess


def test_a_table_of_plain_text_needs_a_map(tmp_path):
    path = write(tmp_path / "t.csv", ["id", "text"], [(1, "Some words."), (2, "More words.")])
    assert sniff(path).shape is None and not sniff(path).guess
    with pytest.raises(WrongUse) as caught:
        list(rows(Source(path=str(path))))
    assert caught.value.code == "data.no_shape" and "map: {user: COLUMN" in caught.value.hint
    assert "{text: text}" in caught.value.hint
    for source in (Source(path=str(path), map={"text": "text"}), Source(path=str(path), format="text")):
        assert [row.text for row in rows(source)] == ["Some words.", "More words."]


def test_several_columns_of_one_word_are_joined(tmp_path):
    lines = [("Late", "It has not come.", "Tomorrow."), ("", "Only a body.", "Yes."), ("", "", "What?")]
    path = write(tmp_path / "t.csv", ["subject", "body", "answer"], lines)
    source = Source(path=str(path), map={"user": ["subject", "body"], "assistant": "answer"})
    asked = [row.messages[0]["content"] for row in rows(source)]
    assert asked == ["Late\nIt has not come.", "Only a body.", ""]
    assert rows_with(path, ["subject", "body", "answer"]) == 1 and rows_with(path, ["answer"]) == 3
    wrong = Source(path=str(path), map={"user": ["subject", "bodi"], "assistant": "answer"})
    with pytest.raises(WrongUse, match="bodi") as caught:
        list(rows(wrong))
    assert caught.value.hint == "did you mean body?"


# ------------------------------------------------------------------ the recipe's line

RECIPE = """\
name: desk
data:
  - path: a.jsonl
    ability: a
  - path: t.csv
    ability: t
{map}
train: [{{stage: sft}}]
"""


@pytest.mark.parametrize(
    ("map", "code", "line"),
    [
        ("    # map: {user: COLUMN, assistant: COLUMN}", "data.no_shape", 7),
        ("    #   map: {user: x}", "data.no_shape", 7),
        ("    sheet: x\n    # map: {}", "data.no_shape", 8),
        ("", "data.no_shape", 5),
        ("    map: {user: one, assistant: tow}", "data.missing_column", 7),
    ],
)
def test_a_fault_of_a_map_is_told_at_its_line_of_the_recipe(tmp_path, map, code, line):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a?", "completion": "b"}\n')
    write(tmp_path / "t.csv", ["one", "two"], [(1, 2)])
    (tmp_path / "r.yaml").write_text(RECIPE.format(map=map))
    names = {"user": "one", "assistant": "tow"} if code == "data.missing_column" else {}
    sources = [{"path": "a.jsonl", "line": 3}, {"path": "t.csv", "line": 5, "map": names}]
    with pytest.raises(WrongUse) as caught:
        check({"sources": sources, "root": str(tmp_path)}, tmp_path / "r.yaml")
    where = caught.value.where
    assert (caught.value.code, where.file, where.line) == (code, str(tmp_path / "r.yaml"), line)
    assert where.field.startswith("data.1.map") and caught.value.why and caught.value.hint


def test_a_fault_of_the_file_itself_is_told_there(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a?", "completion": "b"}\n{\n')
    (tmp_path / "r.yaml").write_text(RECIPE.format(map=""))
    with pytest.raises(WrongUse) as caught:
        check({"sources": [{"path": "a.jsonl", "line": 3}], "root": str(tmp_path)}, tmp_path / "r.yaml")
    assert (caught.value.where.file, caught.value.where.line) == (str(tmp_path / "a.jsonl"), 2)


# ------------------------------------------------------------------ how answers are compared


def answers(tmp_path, texts):
    path = write(tmp_path / "t.csv", ["prompt", "completion"], [(f"ask {n}", t) for n, t in enumerate(texts)])
    return answers_of(Source(path=str(path))).compare


@pytest.mark.parametrize(
    ("texts", "compare"),
    [
        (["refund", "delivery", "repair", "Refund "] * 10, "label"),
        (["是", "否"] * 20, "label"),
        ([f'{{"order": {n}, "item": "lamp"}}' for n in range(30)], "json"),
        ([f"[{n}, 2]" for n in range(30)], "json"),
        ([str(n * 3.5) for n in range(30)], "number"),
        ([f"${n},000.50" for n in range(30)], "number"),
        ([f"{n} %" for n in range(30)], "number"),
        ([f"Order {n} will be there on day {n % 7}." for n in range(30)], "text"),
        ([f"订单{n}将在两天内送达。" for n in range(30)], "text"),
        ([f"kubectl logs cart-{n} -n prod" for n in range(30)], "text"),
        ([f"name{n}" for n in range(30)], "text"),
        (["a", "b"], None),
        ([], None),
    ],
)
def test_the_look_of_the_answers_says_how_they_are_compared(tmp_path, texts, compare):
    assert answers(tmp_path, texts) == compare


def test_free_prose_is_not_compared_to_the_letter(tmp_path):
    """A reply desk is not 90 % identical text."""
    import random

    dice = random.Random(0)
    words = ["".join(dice.choices("abcdefghij", k=6)) for _ in range(3000)]
    long = [" ".join(dice.choices(words, k=60)) for _ in range(40)]
    assert answers(tmp_path, long) == "chrf"
    short = [" ".join(dice.choices(words, k=9)) for _ in range(40)]
    assert answers(tmp_path, short) == "chrf"


def test_answers_of_a_chat_are_its_last_ones(tmp_path):
    import json

    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "long words of all kinds"},
            {"role": "user", "content": "b"}]  # fmt: skip
    lines = [{"messages": [*chat, {"role": "assistant", "content": f"{n % 2}"}]} for n in range(30)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert answers_of(Source(path=str(tmp_path / "a.jsonl"))).compare == "number"
