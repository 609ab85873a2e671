"""Rows beyond max_length: every answer whole and taught once, every example within the limit."""

from __future__ import annotations

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.model import Tokenizer, Unteachable, taught_examples
from steelyard.training.overlong import exchanges_of, fitted
from steelyard.training.packing import schedule
from steelyard.training.rows import Rows, read_rows

LETTERS = st.text("abc xyz 订单", min_size=1, max_size=30).filter(str.strip)


@pytest.fixture(scope="session")
def tokenizer(base):
    return Tokenizer(base)


def chat(*pairs, system=None):
    head = [{"role": "system", "content": system}] if system else []
    turns = [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    return {"messages": head + turns}


def text_of(tokenizer, ids):
    return tokenizer.decode(ids, skip_special=False)


def taught_texts(tokenizer, examples):
    """The taught text of all examples, end tokens off."""
    found = []
    for example in examples:
        run = []
        for token, flag in [*zip(example.ids, example.mask, strict=True), (0, 0)]:
            if flag:
                run.append(token)
            elif run:
                found.append(text_of(tokenizer, run).removesuffix("\n").removesuffix("<|im_end|>"))
                run = []
    return found


# ------------------------------------------------------------------ by hand


PAIRS = [(f"question {n}", f"answer {n}") for n in range(6)]


def test_a_long_chat_is_split_at_turn_borders_and_keeps_its_system_prompt(tokenizer):
    row = chat(*PAIRS, system="Be brief.")
    result = fitted(tokenizer, row, 120, "split")
    assert result.split and not result.truncated and len(result.examples) == 3
    assert taught_texts(tokenizer, result.examples) == [answer for _, answer in PAIRS]
    for example in result.examples:
        assert text_of(tokenizer, example.ids).startswith("<|im_start|>system\nBe brief.<|im_end|>")
        assert len(example.ids) <= 120


def test_truncated_the_oldest_turns_give_way(tokenizer):
    result = fitted(tokenizer, chat(*PAIRS, system="Be brief."), 120, "truncate")
    assert result.truncated and not result.split and len(result.examples) == 1
    assert taught_texts(tokenizer, result.examples) == ["answer 4", "answer 5"]
    assert text_of(tokenizer, result.examples[0].ids).startswith("<|im_start|>system\nBe brief.")


@pytest.mark.parametrize("overlong", ["split", "truncate"])
def test_a_long_question_is_cut_at_its_beginning_and_its_answer_stays(tokenizer, overlong):
    row = chat(("x" * 500 + " which?", "the last"))
    result = fitted(tokenizer, row, 100, overlong)
    (example,) = result.examples
    assert result.truncated and 90 <= len(example.ids) <= 100
    assert "xx which?<|im_end|>" in text_of(tokenizer, example.ids)
    assert taught_texts(tokenizer, result.examples) == ["the last"]


@pytest.mark.parametrize("overlong", ["split", "truncate"])
def test_an_answer_is_never_cut(tokenizer, overlong):
    with pytest.raises(Unteachable) as caught:
        fitted(tokenizer, chat(("q", "y" * 200)), 100, overlong)
    assert caught.value.reason == "too_long"


def test_what_fits_of_a_chat_with_one_long_answer_is_taught(tokenizer):
    result = fitted(tokenizer, chat(("q", "one"), ("q", "y" * 200), ("q", "three")), 100, "split")
    assert taught_texts(tokenizer, result.examples) == ["one", "three"]
    assert result.truncated and result.split


def test_dropped_means_the_whole_row(tokenizer):
    with pytest.raises(Unteachable) as caught:
        fitted(tokenizer, chat(*PAIRS), 100, "drop")
    assert caught.value.reason == "too_long"


def test_calls_and_their_results_stay_in_one_exchange():
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "r"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]
    head, exchanges = exchanges_of(messages)
    assert head == messages[:1] and exchanges == [messages[1:5], messages[5:]]


@pytest.mark.parametrize("overlong, wanted", [("split", 300), ("truncate", 100)])
def test_a_long_text_is_taught_in_pieces_or_its_beginning(tokenizer, overlong, wanted):
    result = fitted(tokenizer, {"text": "z" * 299}, 100, overlong)
    assert sum(len(example.ids) for example in result.examples) == wanted
    assert all(example.mask[0] == 0 and all(example.mask[1:]) for example in result.examples)


# ------------------------------------------------------------------ by property


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(st.tuples(LETTERS, LETTERS), min_size=1, max_size=8),
    system=st.none() | LETTERS,
    limit=st.integers(40, 400),
    overlong=st.sampled_from(["split", "truncate", "drop"]),
)
def test_no_example_is_too_long_and_no_answer_changed(base, pairs, system, limit, overlong):
    tokenizer = Tokenizer(base)
    row = chat(*pairs, system=system)
    whole = taught_examples(tokenizer, row)
    try:
        result = fitted(tokenizer, row, limit, overlong)
    except Unteachable as e:
        assert e.reason == "too_long" and any(len(example.ids) > limit for example in whole)
        return
    answers = [answer for _, answer in pairs]
    texts = taught_texts(tokenizer, result.examples)
    assert all(len(example.ids) <= limit for example in result.examples)
    assert texts and all(text in answers for text in texts)
    if not (result.split or result.truncated):
        assert result.examples == whole
    if overlong == "split" and not result.truncated:
        assert texts == answers
    if overlong == "truncate":
        assert texts == answers[-len(texts) :]
    for example in result.examples:  # each part is a chat that serving would render the same
        text = text_of(tokenizer, example.ids)
        assert (f"<|im_start|>system\n{system}<|im_end|>" in text) == bool(system)


ROWS = st.lists(
    st.one_of(
        st.builds(lambda pairs: chat(*pairs), st.lists(st.tuples(LETTERS, LETTERS), min_size=1, max_size=5)),
        st.builds(lambda text: {"text": text}, LETTERS),
        st.just({"messages": [{"role": "user", "content": "no answer"}]}),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(
    rows=ROWS,
    limit=st.integers(16, 200),
    overlong=st.sampled_from(["split", "truncate", "drop"]),
    wanted=st.sampled_from(["all", "chats", "texts"]),
    steps=st.integers(0, 2),
)
def test_rows_add_up_whatever_they_are(base, tmp_path_factory, rows, limit, overlong, wanted, steps):
    import json

    path = tmp_path_factory.mktemp("rows") / "train.jsonl"
    path.write_text("\n".join(json.dumps({"id": str(n), **row}) for n, row in enumerate(rows)) + "\n")
    given_settings = {"max_length": limit, "overlong": overlong, "rows": wanted}
    found: Rows = read_rows(path, Tokenizer(base), given_settings)
    plan = schedule(
        [len(e.ids) for e in found.examples],
        {**tiny.SETTINGS, **given_settings, "max_steps": steps, "num_train_epochs": 1},
    )
    account = found.account(plan)
    assert account["rows"] == len(rows) == account["taught"] + sum(account["dropped"].values())
    assert account["split"] <= account["taught"] and account["truncated"] <= account["taught"]
    assert account["tokens_taught"] <= account["tokens"]
    assert plan.too_long == 0
    if not steps:
        assert account["tokens"] == sum(len(e.ids) for e in found.examples) == plan.tokens
