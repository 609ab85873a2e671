"""Chats as they are: tools, calls, results, thoughts and weights reach the dataset, or the row is refused.

What other formats call the same thing becomes one form; nothing is taught as something else.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.artefact import Inputs, Store, Watch
from steelyard.data import Row, Source, Unreadable, clean, clean_files, rows
from steelyard.errors import WrongUse

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
OPENAI = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather in Oslo?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL], "weight": 0},
    {"role": "tool", "tool_call_id": "call_1", "name": "weather", "content": '{"c": 4}'},
    {"role": "assistant", "content": "4 degrees.", "reasoning_content": "It said 4.", "weight": 1},
]
OURS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather in Oslo?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL], "weight": 0},
    {"role": "tool", "content": '{"c": 4}', "name": "weather", "tool_call_id": "call_1"},
    {"role": "assistant", "content": "4 degrees.", "reasoning_content": "It said 4.", "weight": 1},
]


def read(tmp_path, *records, **source):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))
    return list(rows(Source(path=str(path), **source)))


def dataset(tmp_path, records, **order):
    """What the step `clean` makes of these records: train rows, dropped rows, the account."""
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))
    out = Store(tmp_path / "store").draft("dataset", "k" * 64, "clean", {}, {})
    settings_ = {"sources": [{"path": "a.jsonl"}], "root": str(tmp_path), "clean": {"test_share": 0}} | order
    clean(Inputs(), settings_, out, Watch())
    lines = {n: [json.loads(x) for x in (out.folder / f"{n}.jsonl").read_bytes().splitlines()]
             for n in ("train", "dropped")}  # fmt: skip
    return lines["train"], lines["dropped"], json.loads((out.folder / "account.json").read_bytes())


@pytest.mark.parametrize("rules", [{"test_share": 0}, {"enabled": False, "test_share": 0}])
def test_openais_own_chat_reaches_the_dataset_whole(tmp_path, rules):
    train, dropped, account = dataset(tmp_path, [{"messages": OPENAI, "tools": [WEATHER]}], clean=rules)
    assert train == [{"id": "a.jsonl:1", "ability": "main", "messages": OURS, "tools": [WEATHER]}]
    assert dropped == [] and account["kept"] == 1


@pytest.mark.parametrize("content", [None, "", [], "absent"])
def test_an_assistant_that_calls_a_tool_is_not_empty(tmp_path, content):
    """`content: null` beside tool_calls was dropped as empty, or taught as an answer of nothing."""
    message = {"role": "assistant", "content": content, "tool_calls": [CALL]}
    if content == "absent":
        del message["content"]
    train, dropped, _ = dataset(tmp_path, [{"messages": [{"role": "user", "content": "Oslo?"}, message]}])
    assert dropped == []
    assert train[0]["messages"][1] == {"role": "assistant", "content": "", "tool_calls": [CALL]}


NAMED_CALL = {"type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        pytest.param(
            {"conversations": [
                {"from": "human", "value": "Oslo?"},
                {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Oslo"}}'},
                {"from": "observation", "value": '{"c": 4}'},
                {"from": "gpt", "value": "4."}],
             "tools": json.dumps([WEATHER["function"]])},
            [("user", "Oslo?"), ("assistant", [NAMED_CALL]), ("tool", '{"c": 4}'), ("assistant", "4.")],
            id="sharegpt-llama-factory",
        ),
        pytest.param(
            {"messages": [
                {"role": "user", "content": "Oslo?"},
                {"role": "assistant", "function_call": {"name": "weather", "arguments": {"city": "Oslo"}}},
                {"role": "function", "name": "weather", "content": '{"c": 4}'},
                {"role": "assistant", "content": "4."}],
             "tools": [WEATHER]},
            [("user", "Oslo?"), ("assistant", [NAMED_CALL]), ("tool", '{"c": 4}'), ("assistant", "4.")],
            id="openai-before-tools",
        ),
        pytest.param(
            {"messages": [
                {"role": "user", "content": "Oslo?"},
                {"role": "tool_call", "content": '{"name": "weather", "arguments": {"city": "Oslo"}}'},
                {"role": "tool_call", "content": '{"name": "weather", "arguments": {"city": "Oslo"}}'},
                {"role": "tool_response", "content": {"c": 4}},
                {"role": "assistant", "content": "4."}],
             "tools": WEATHER},
            [("user", "Oslo?"), ("assistant", [NAMED_CALL] * 2), ("tool", '{"c":4}'), ("assistant", "4.")],
            id="ms-swift-parallel",
        ),
    ],
)  # fmt: skip
def test_calls_of_every_format_become_one_form(tmp_path, record, expected):
    (row,) = read(tmp_path, record)
    assert [(m["role"], m.get("tool_calls") or m["content"]) for m in row.messages] == expected
    assert row.as_json()["tools"] == [WEATHER]


def test_a_table_may_hold_chats_and_tools_as_json(tmp_path):
    import csv

    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([["messages", "tools"], [json.dumps(OPENAI), json.dumps([WEATHER])]])
    (row,) = rows(Source(path=str(tmp_path / "a.csv")))
    assert (list(row.messages), list(row.tools)) == (OURS, [WEATHER])


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_a_thought_keeps_its_place(tmp_path, name):
    answer = {"role": "assistant", "content": "4", name: "2 + 2"}
    (row,) = read(tmp_path, {"messages": [{"role": "user", "content": "2 + 2?"}, answer]})
    assert row.messages[1] == {"role": "assistant", "content": "4", "reasoning_content": "2 + 2"}


@pytest.mark.parametrize(
    ("said", "weight"),
    [({"weight": 0}, 0), ({"weight": 1}, 1), ({"weight": 1.0}, 1), ({"train": False}, 0),
     ({"loss": False}, 0), ({}, None)],
)  # fmt: skip
def test_the_weight_of_an_answer_is_kept(tmp_path, said, weight):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", **said}]
    more = [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]
    (row,) = read(tmp_path, {"messages": turns + more})
    assert row.messages[1].get("weight") == weight and len(row.messages) == 4


def test_a_chat_of_which_nothing_is_taught_is_dropped(tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]
    good = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    train, dropped, _ = dataset(tmp_path, [{"messages": turns}, {"messages": good}])
    assert [r["reasons"] for r in dropped] == [["not_taught"]] and len(train) == 1


def test_an_answer_to_nobody_is_dropped(tmp_path):
    """An empty question cell in a table with `thread` left a chat of one answer, and it was taught."""
    lone = [{"role": "assistant", "content": "Ready for pick-up."}]
    good = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    _, dropped, _ = dataset(tmp_path, [{"messages": lone}, {"messages": good}])
    assert [r["reasons"] for r in dropped] == [["no_question"]]


USER = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "a"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ({"prompt": "q", "completion": "bad", "label": False}, "rejected_answer"),
        ({"prompt": [USER], "completion": [ANSWER], "label": False}, "rejected_answer"),
        ({"messages": [USER, ANSWER], "label": False}, "rejected_answer"),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
          "kto_tag": False}, "rejected_answer"),
        ({"instruction": "q", "output": "a", "kto_tag": "false"}, "rejected_answer"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "preference"),
        ({"prompt": "q", "completion": "a", "chosen": [ANSWER], "rejected": [ANSWER]}, "preference"),
        ({"messages": [USER, ANSWER], "rejected_response": "b"}, "preference"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}, IMAGE]}, ANSWER]},
         "not_text"),
        ({"messages": [USER, ANSWER], "images": ["a.png"]}, "not_text"),
        ({"messages": [{"role": "user", "content": "q", "images": ["a.png"]}, ANSWER]}, "not_text"),
        ({"messages": [USER, {**ANSWER, "tool_calls": [{"function": {}}]}]}, "wrong_shape"),
        ({"messages": [USER, {**ANSWER, "tool_calls": [{"function": {"name": "f", "arguments": 3}}]}]},
         "wrong_shape"),
        ({"messages": [USER, {**ANSWER, "weight": 0.5}]}, "wrong_shape"),
        ({"messages": [USER, {**ANSWER, "weight": True}]}, "wrong_shape"),
        ({"messages": [USER, ANSWER], "tools": [{"parameters": {}}]}, "wrong_shape"),
    ],
)  # fmt: skip
def test_what_cannot_be_taught_is_refused_by_row_with_its_reason(tmp_path, record, kind):
    """A rejected answer was taught as a good one; a picture beside the text was lost."""
    good = {"messages": [USER, ANSWER]}
    (bad, row) = read(tmp_path, record, good)
    assert isinstance(bad, Unreadable) and bad.kind == kind and bad.why and isinstance(row, Row)
    for rules in ({}, {"enabled": False}):
        _, dropped, account = dataset(tmp_path, [record, good], clean={"unreadable": "drop", **rules})
        assert [r["reasons"] for r in dropped] == [[kind]] and account["by_reason"] == {kind: 1}
    with pytest.raises(WrongUse) as caught:
        dataset(tmp_path, [good, record])
    assert caught.value.code == f"data.{kind}" and caught.value.where.line == 2
    report = clean_files(tmp_path / "a.jsonl", tmp_path / "out")
    assert report["by_reason"] == {kind: 1}


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "q", "completion": "a", "label": True},
        {"prompt": "q", "completion": "a", "label": "no"},
        {"text": "some text", "label": False},
        {"messages": [USER, ANSWER], "images": []},
        {"question": "q", "answer": "a", "image": "https://shop.example/a.png"},
    ],
)
def test_what_only_looks_like_another_method_is_read(tmp_path, record):
    assert isinstance(read(tmp_path, record)[0], Row)


def test_text_parts_are_joined(tmp_path):
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    (row,) = read(tmp_path, {"messages": [{"role": "user", "content": parts}, ANSWER]})
    assert row.messages[0]["content"] == "a b"


def test_a_preference_table_is_named_as_one(tmp_path):
    (tmp_path / "p.csv").write_text("prompt,chosen,rejected\na,b,c\n")
    with pytest.raises(WrongUse) as caught:
        list(rows(Source(path=str(tmp_path / "p.csv"))))
    assert caught.value.code == "data.preference" and "chosen" in caught.value.hint


def other(call):
    return {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [call]}]}


def test_duplicates_see_calls_and_tools_and_not_the_ids_of_calls(tmp_path):
    """Two chats that differed in their calls alone were one."""
    bergen = {"id": "x", "type": "function", "function": {"name": "weather", "arguments": {"city": "Bergen"}}}
    again = {**CALL, "id": "call_99"}
    thought = {**ANSWER, "reasoning_content": "hm"}
    records = [
        other(CALL), other(bergen), other(again), other(CALL) | {"tools": [WEATHER]},
        {"messages": [USER, ANSWER]}, {"messages": [USER, thought]},
        {"messages": [USER, {**ANSWER, "weight": 1}]},
    ]  # fmt: skip
    train, dropped, _ = dataset(tmp_path, records)
    assert [r["id"] for r in dropped] == ["a.jsonl:3", "a.jsonl:7"] and len(train) == 5


def test_a_row_of_the_dataset_can_be_sent_to_the_service_as_it_is(tmp_path):
    """The gate and the sample question send held-out rows; arguments as an object were refused with a 400."""
    from steelyard.serving.turn.bodies import Message

    function = {"name": "weather", "arguments": {"city": "Oslo", "days": [1, 2]}}
    turns = [USER, {"role": "assistant", "tool_calls": [{"function": function}]}, *OPENAI[3:]]
    (row,) = read(tmp_path, {"messages": turns, "tools": [WEATHER]})
    sent = [Message.model_validate(message) for message in row.as_json()["messages"]]
    assert json.loads(sent[1].tool_calls[0].function.arguments) == {"city": "Oslo", "days": [1, 2]}


def test_clean_files_puts_arguments_back_in_their_own_form(tmp_path):
    function = {"name": "mail", "arguments": {"to": "a@b.com", "n": 13812345678}}
    turns = [USER, {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": function}]}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    clean_files(tmp_path / "a.jsonl", tmp_path / "out")
    message = json.loads((tmp_path / "out" / "a.jsonl").read_text())["messages"][1]
    made = {"name": "mail", "arguments": {"to": "<EMAIL_1>", "n": "<PHONE_1>"}}
    assert message == {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": made}]}


# ------------------------------------------------------------------ personal data in calls


def test_masking_reaches_calls_thoughts_and_results_and_json_stays_json(tmp_path):
    call = {
        "type": "function",
        "function": {"name": "mail", "arguments": '{"to": "a@b.com", "tel": 13812345678}'},
    }
    turns = [
        USER, {"role": "assistant", "content": None, "reasoning_content": "to a@b.com", "tool_calls": [call]},
        {"role": "tool", "content": "sent to a@b.com"}, ANSWER,
    ]  # fmt: skip
    train, _, account = dataset(tmp_path, [{"messages": turns}], clean={"pii": "mask", "test_share": 0})
    made = train[0]["messages"]
    assert made[1]["reasoning_content"] == "to <EMAIL_1>" and made[2]["content"] == "sent to <EMAIL_1>"
    arguments = made[1]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments) == {"to": "<EMAIL_1>", "tel": "<PHONE_1>"}
    assert account["masked"] == {"email": 3, "phone": 1} and account["placeholder_answers"] == 1
    clean_files(tmp_path / "a.jsonl", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "a.jsonl").read_text())["messages"]
    assert written[1]["content"] is None and written[1]["reasoning_content"] == "to <EMAIL_1>"
    arguments = written[1]["tool_calls"][0]["function"]["arguments"]
    assert isinstance(arguments, str) and json.loads(arguments) == {"to": "<EMAIL_1>", "tel": "<PHONE_1>"}


def test_clean_files_leaves_a_chat_without_personal_data_as_it_was(tmp_path):
    record = {"id": 7, "messages": OPENAI, "tools": [WEATHER], "mine": {"a": [1]}}
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n")
    clean_files(tmp_path / "a.jsonl", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "a.jsonl").read_text()) == record


# ------------------------------------------------------------------ parts and their way back

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
ARGUMENTS = st.one_of(
    TEXT, st.dictionaries(TEXT, TEXT | st.integers(-9, 9) | st.none(), max_size=3).map(json.dumps)
)
CALLS = st.builds(lambda n, a: {"type": "function", "function": {"name": n, "arguments": a}}, TEXT, ARGUMENTS)
MESSAGES = st.builds(
    lambda role, content, more: {"role": role, "content": content, **more},
    st.sampled_from(["user", "assistant", "tool", "system"]), TEXT,
    st.fixed_dictionaries({}, optional={"reasoning_content": TEXT, "tool_calls": st.lists(CALLS)}),
)  # fmt: skip


@given(st.lists(MESSAGES, max_size=4).map(tuple), st.lists(TEXT, max_size=2).map(tuple))
@settings(max_examples=200)
def test_parts_put_back_give_the_same_row(messages, accept):
    row = Row("id", "s", 1, messages=messages, accept=accept)
    assert row.with_parts(row.parts) == row
    shouted = row.with_parts([p if p[:1] in ("{", "[") else p.upper() for p in row.parts])
    assert len(shouted.parts) == len(row.parts)
    assert [m["content"] for m in shouted.messages] == [
        m["content"] if m["content"][:1] in ("{", "[") else m["content"].upper() for m in messages
    ]
