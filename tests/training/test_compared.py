"""Answers to compare: their ids, their steps, the lines that the engine trl reads. No TRL here."""

from __future__ import annotations

import json

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from steelyard.artefact import Watch
from steelyard.errors import WrongUse
from steelyard.model import Tokenizer, compared_examples, taught_examples
from steelyard.training import train
from steelyard.training.engines.trl.order import line_of
from steelyard.training.rows import TrainingExample, read_rows

PAIRED = {"stage": "dpo", "rows": "pairs", "packing": False, "max_length": 128}


def test_both_answers_have_the_prompt_that_serving_sends(base):
    tokenizer = Tokenizer(base)
    messages = [{"role": "user", "content": "say 7"}, {"role": "assistant", "content": "7"}]
    row = {"messages": messages, "rejected": {"role": "assistant", "content": "8, no"}}
    prompt = tokenizer.chat_ids(messages[:1], True)
    chosen, rejected = compared_examples(tokenizer, row)
    for example, text in ((chosen, "7"), (rejected, "8, no")):
        assert example.ids[: len(prompt)] == prompt and not any(example.mask[: len(prompt)])
        assert tokenizer.decode(example.ids[len(prompt) :]).strip() == text
        assert all(example.mask[len(prompt) :]) and tokenizer.end_id in example.ids[len(prompt) :]
    (taught,) = taught_examples(tokenizer, {"messages": messages})
    assert chosen == taught


def test_of_a_talk_the_last_answer_counts_alone(base):
    tokenizer = Tokenizer(base)
    talk = [{"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    (example,) = compared_examples(tokenizer, {"messages": [*talk, {"role": "assistant", "content": "d"}]})
    assert sum(example.mask) == len(example.ids) - len(tokenizer.chat_ids(talk, True))


def test_a_stage_reads_the_rows_of_its_kind(base, tmp_path):
    data = tiny.compared(tmp_path / "pairs", rows=6)
    with (data / "train.jsonl").open("a") as file:
        chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
        for body in ({"messages": chat}, {"text": "t t t"}, {"messages": chat, "label": False}):
            file.write(json.dumps({"id": "x", **body}) + "\n")
    counts = {
        kind: len(read_rows(data / "train.jsonl", Tokenizer(base), {**PAIRED, "rows": kind}).examples)
        for kind in ("pairs", "labels", "chats", "texts", "all")
    }
    assert counts == {"pairs": 6, "labels": 1, "chats": 1, "texts": 1, "all": 2}


def test_a_pair_that_is_too_long_is_dropped_whole(base, tmp_path):
    data = tiny.compared(tmp_path / "pairs", rows=6)
    row = json.loads((data / "train.jsonl").read_text().splitlines()[0])
    row["rejected"]["content"] *= 40
    (data / "train.jsonl").write_text(json.dumps(row) + "\n")
    found = read_rows(data / "train.jsonl", Tokenizer(base), PAIRED)
    assert not found.examples and found.dropped == {"too_long": 1}


@pytest.mark.parametrize(("stage", "kind"), [("dpo", "pairs"), ("kto", "labels")])
def test_chats_alone_are_one_clear_error(stage, kind, base, data, tmp_path):
    with pytest.raises(WrongUse, match="none of 24 rows can be taught") as caught:
        train(*tiny.step(tmp_path, base, data, **{**PAIRED, "stage": stage, "rows": kind}), Watch())
    assert caught.value.code == "data.no_rows" and "leave this stage out" in caught.value.hint


# ------------------------------------------------------------------ lines of the order

IDS = st.lists(st.integers(3, 300), min_size=1, max_size=5)


def example(prompt, answer, **more):
    from array import array

    return TrainingExample(
        array("i", [1, *prompt, *answer]), bytes([0] * (len(prompt) + 1) + [1] * len(answer)), "a", 0, **more
    )


@given(st.lists(st.tuples(IDS, IDS, IDS), min_size=1, max_size=4))
def test_a_line_of_pairs_has_the_better_answers_first(rows):
    pairs = [example(p, good, rejected=example(p, bad)) for p, good, bad in rows]
    line = line_of(pairs)
    wanted = [[1, *p, *good] for p, good, _ in rows] + [[1, *p, *bad] for p, _, bad in rows]
    assert line["ids"] == [token for ids in wanted for token in ids]
    assert line["lengths"] == [len(ids) for ids in wanted] and set(line) == {"ids", "labels", "lengths"}
    answers = [token for part in (1, 2) for row in rows for token in row[part]]
    assert [label for label in line["labels"] if label != -100] == answers
    assert sum(pair.tokens for pair in pairs) == len(line["ids"])


@given(st.lists(st.tuples(IDS, IDS, st.booleans()), min_size=1, max_size=4), IDS)
def test_a_rated_answer_meets_the_question_of_another(rows, first):
    rated = [example(p, a, label=good) for p, a, good in rows]
    before = example([9], first, label=True)
    line = line_of(rated, before)
    assert line["label"] == [good for _, _, good in rows]
    others = [rows[-1][1] if len(rows) > 1 else first, *(answer for _, answer, _ in rows[:-1])]
    wanted = [[1, *p, *other] for (p, _, _), other in zip(rows, others, strict=True)]
    assert line["kl"]["ids"] == [token for ids in wanted for token in ids]
    assert [label for label in line["kl"]["labels"] if label != -100] == [
        t for other in others for t in other
    ]
