"""Pairs and rated answers, as those who make them write them: one form, or one clear reason."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.artefact import Inputs, Store, Watch
from steelyard.data import Row, Source, Unreadable, check, clean, rows
from steelyard.data.row import row_key
from steelyard.errors import WrongUse

USER, GOOD, BAD = (
    {"role": role, "content": text} for role, text in (("user", "q"), ("assistant", "a"), ("assistant", "b"))
)
SYSTEM = {"role": "system", "content": "s"}
PAIRS = {
    "TRL, plain": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "TRL, chats": {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    "TRL, the prompt in both": {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    "UltraFeedback": {"prompt": "q", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
    "OpenAI": {"input": {"messages": [USER]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]},
    "LLaMA-Factory, alpaca": {"instruction": "q", "input": "", "chosen": "a", "rejected": "b"},
    "LLaMA-Factory, sharegpt": {
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
    },
    "ms-swift": {"messages": [USER, GOOD], "rejected_response": "b"},
    "question": {"question": "q", "chosen": "a", "rejected": "b"},
}


def read(tmp_path, *records, kinds=("pairs", "labels"), **source):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return list(rows(Source(path=str(path), kinds=kinds, **source)))


def dataset(tmp_path, records, **order):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    out = Store(tmp_path / "store").draft("dataset", "k" * 64, "clean", {}, {})
    settings = {"sources": [{"path": "a.jsonl"}], "root": str(tmp_path), "kinds": ["labels", "pairs"]} | order
    clean(Inputs(), settings, out, Watch())
    return {
        n: [json.loads(x) for x in (out.folder / f"{n}.jsonl").read_bytes().splitlines()]
        for n in ("train", "test", "dropped")
    }


@pytest.mark.parametrize("record", PAIRS.values(), ids=list(PAIRS))
def test_a_pair_is_a_chat_and_the_worse_answer(tmp_path, record):
    (row,) = read(tmp_path, record)
    assert isinstance(row, Row)
    assert (row.messages, row.rejected, row.label) == ((USER, GOOD), BAD, None)


@pytest.mark.parametrize("record", PAIRS.values(), ids=list(PAIRS))
def test_without_a_stage_that_compares_it_is_refused_or_read_as_before(tmp_path, record):
    (row,) = read(tmp_path, record, kinds=())
    assert isinstance(row, Unreadable) and row.kind in ("preference", "wrong_shape")


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ({"prompt": "q", "chosen": "a"}, "no_rejected"),
        ({"prompt": "q", "chosen": "a", "rejected": ""}, "no_rejected"),
        ({"prompt": "q", "chosen": "a", "rejected": None}, "no_rejected"),
        ({"messages": [USER, GOOD], "rejected_response": ""}, "no_rejected"),
        ({"chosen": [USER, GOOD], "rejected": [USER]}, "no_rejected"),
        ({"prompt": "q", "chosen": "", "rejected": "b"}, "no_chosen"),
        ({"chosen": "a", "rejected": "b"}, "wrong_shape"),
        ({"prompt": "q", "chosen": [GOOD, USER, GOOD], "rejected": "b"}, "wrong_shape"),
        ({"prompt": "q", "chosen": 3, "rejected": "b"}, "wrong_shape"),
    ],
)
def test_half_a_pair_is_refused_with_its_reason(tmp_path, record, kind):
    (row,) = read(tmp_path, record)
    assert isinstance(row, Unreadable) and row.kind == kind and row.why
    order = {"sources": [{"path": "a.jsonl"}], "root": str(tmp_path), "kinds": ["pairs"]}
    with pytest.raises(WrongUse) as caught:
        check(order)
    assert caught.value.code == f"data.{kind}" and caught.value.where.line == 1 and caught.value.hint


def test_a_table_names_its_columns(tmp_path):
    (tmp_path / "a.csv").write_text("ask,better,worse\nq,a,b\nr,c,\n")
    source = Source(
        path=str(tmp_path / "a.csv"),
        kinds=("pairs",),
        map={"user": "ask", "chosen": "better", "rejected": "worse"},
    )
    good, half = rows(source)
    assert (good.messages, good.rejected) == ((USER, GOOD), BAD)
    assert half.kind == "no_rejected"
    (tmp_path / "b.csv").write_text("prompt,chosen,rejected\nq,a,b\n")
    (row,) = rows(Source(path=str(tmp_path / "b.csv"), kinds=("pairs",)))
    assert (row.messages, row.rejected) == ((USER, GOOD), BAD)
    with pytest.raises(WrongUse, match="which no stage teaches"):
        list(rows(Source(path=str(tmp_path / "b.csv"))))


@pytest.mark.parametrize(
    ("said", "label"),
    [
        ({"label": True}, True),
        ({"label": False}, False),
        ({"kto_tag": "false"}, False),
        ({"kto_tag": True}, True),
        ({"label": "spam"}, None),
        ({}, None),
    ],
)
def test_a_rated_answer_keeps_its_label(tmp_path, said, label):
    (row,) = read(tmp_path, {"prompt": "q", "completion": "a", **said})
    assert (row.messages, row.label) == ((USER, GOOD), label)
    (text,) = read(tmp_path, {"text": "a class", "label": False})
    assert text.text == "a class" and text.label is None


def test_the_dataset_holds_both_answers_and_masks_both(tmp_path):
    record = {"prompt": "who?", "chosen": "a@b.com", "rejected": "c@d.com or a@b.com"}
    made = dataset(tmp_path, [record], clean={"pii": "mask", "test_share": 0})
    (row,) = made["train"]
    assert row["messages"][-1]["content"] == "<EMAIL_1>"
    assert row["rejected"] == {"role": "assistant", "content": "<EMAIL_2> or <EMAIL_1>"}


def test_pairs_that_differ_in_the_worse_answer_alone_are_two_rows(tmp_path):
    first = {"prompt": "q", "chosen": "a", "rejected": "b"}
    records = [
        first,
        {**first, "rejected": "c"},
        first,
        {**first, "rejected": "a"},
        {"prompt": "q", "completion": "a"},
    ]
    made = dataset(tmp_path, records, clean={"test_share": 0})
    assert [row.get("rejected", {}).get("content") for row in made["train"]] == ["b", "c", None]
    assert [row["reasons"] for row in made["dropped"]] == [["duplicate"], ["same_answers"]]


def test_a_question_is_held_out_with_all_its_rows(tmp_path):
    """A pair whose question the gate asks must not be taught."""
    records = [{"prompt": f"ask {n}", "completion": f"say {n}"} for n in range(40)]
    records += [{"prompt": f"ask {n}", "chosen": f"say {n}", "rejected": "no"} for n in range(40)]
    made = dataset(tmp_path, records, clean={"test_share": 0.25})
    asked = {part: {row["messages"][0]["content"] for row in made[part]} for part in ("train", "test")}
    assert not asked["train"] & asked["test"] and len(asked["test"]) == 10
    assert sum("rejected" in row for row in made["test"]) == 10


WORDS = st.text(alphabet="ab c", min_size=1, max_size=6).filter(str.strip)


@given(WORDS, WORDS, WORDS)
def test_texts_of_a_row_go_out_and_back(question, chosen, rejected):
    row = Row(
        "1",
        "f",
        1,
        messages=({"role": "user", "content": question}, {"role": "assistant", "content": chosen}),
        rejected={"role": "assistant", "content": rejected},
        accept=("x",),
    )
    assert row.parts == [question, chosen, rejected, "x"]
    assert row.with_parts(row.parts) == row
    assert row_key(row) != row_key(row.with_parts([question, chosen, rejected + "z", "x"]))
