"""`steelyard clean` and `up` drop the same rows of a file, for the same reasons, and keep the same texts."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steelyard.artefact import Inputs, Store, Watch
from steelyard.data import check, clean, clean_files
from steelyard.errors import WrongUse

QUESTION = "What is the refund window for an opened kettle?"
PIECES = (
    "short", "no", "", "  ", "退款多久到账？", QUESTION,
    f"Intro line\n{QUESTION}\nmore", QUESTION.replace(" is", " \u3000is"),
    "mail a@b.com or 13812345678", "W\ufffdy d\ufffdes a d\ufffdg?",
    "Zwei StÃ¤dte, drei FlÃ¼sse, vier SchlÃ¶sser", "锟斤拷锟斤拷",
    "x" * 3000, "Thanks, that helped me a lot.", '{"phone": 13812345678}', "<EMAIL_1>",
)  # fmt: skip
CALL = {"type": "function", "function": {"name": "f", "arguments": '{"to": "a@b.com"}'}}
TEXT = st.sampled_from(PIECES) | st.text(max_size=12)


def turn(role):
    extra = {"weight": st.sampled_from([0, 1, 0.5]), "reasoning_content": TEXT} if role == "assistant" else {}
    more = st.fixed_dictionaries({}, optional=extra)
    calls = st.sampled_from([{}, {"tool_calls": [CALL]}, {"tool_calls": []}] if extra else [{}])
    return st.builds(lambda c, m, t: {"role": role, "content": c, **m, **t}, TEXT | st.none(), more, calls)


CHATS = st.lists(st.sampled_from(["user", "assistant", "tool", "system", "robot"]).flatmap(turn), max_size=5)
RECORDS = st.one_of(
    CHATS.map(lambda turns: {"messages": turns}),
    st.builds(lambda a, b: {"prompt": a, "completion": b}, TEXT, TEXT),
    st.builds(lambda a, b, c: {"prompt": a, "completion": b, "label": c}, TEXT, TEXT, st.booleans()),
    st.builds(lambda a, b: {"instruction": a, "input": b, "output": a}, TEXT, TEXT),
    st.builds(
        lambda a: {"conversations": [{"from": "human", "value": a}, {"from": "gpt", "value": a}]}, TEXT
    ),
    st.builds(lambda a: {"text": a}, TEXT),
    st.builds(lambda a: {"text": a, "label": "x"}, TEXT),
    st.builds(lambda a: {"prompt": a, "chosen": a, "rejected": a}, TEXT),
    st.builds(lambda a: {"txet": a}, TEXT),
)
LINES = st.one_of(
    RECORDS.map(lambda r: json.dumps(r, ensure_ascii=False).encode("utf-8", "replace")),
    st.sampled_from([b"{", b"[]", b"null", b"", b"\xff\xfe{}", b'{"text": "\xff"}']),
)


def by_line(kept, dropped):
    """Line -> reasons, or -> what was kept of it."""
    outcome = {int(r["id"].rpartition(":")[2]): r["reasons"] for r in dropped}
    return outcome | {int(r["id"].rpartition(":")[2]): texts(r) for r in kept}


def texts(row):
    """What is taught of a row, without what another format calls it."""
    if "text" in row:
        return row["text"]
    return [
        [m["role"], m.get("content") or "", m.get("reasoning_content", ""), [
            c["function"]["arguments"] if isinstance(c["function"]["arguments"], dict)
            else json.loads(c["function"]["arguments"]) for c in m.get("tool_calls") or []
        ]]
        for m in row["messages"]
    ]  # fmt: skip


def by_up(root, clean_words, evals):
    out = Store(root / "store").draft("dataset", "k" * 64, "clean", {}, {})
    order = {"sources": [{"path": "a.jsonl"}], "root": str(root), "clean": clean_words, "eval": evals}
    clean(Inputs(), order, out, Watch())
    kept, dropped = (
        [json.loads(line) for line in (out.folder / name).read_bytes().splitlines()]
        for name in ("train.jsonl", "dropped.jsonl")
    )
    return by_line(kept, dropped), json.loads((out.folder / "account.json").read_bytes()), order


def by_clean(root, contamination, workers=1):
    report = clean_files(root / "a.jsonl", root / "out", contamination=contamination, workers=workers)
    kept, dropped = (
        [json.loads(line) for line in (root / "out" / name).read_bytes().splitlines()]
        for name in ("a.jsonl", "dropped.jsonl")
    )
    return by_line(kept, dropped), report


@given(lines=st.lists(LINES, min_size=1, max_size=30), with_eval=st.booleans())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_both_drop_the_same_rows_for_the_same_reasons(tmp_path_factory, lines, with_eval):
    """Contamination was looked for by whole turns in one and by paragraphs in the other."""
    root = tmp_path_factory.mktemp("same")
    good = json.dumps({"prompt": "And where is the good row?", "completion": "Here."}).encode()
    (root / "a.jsonl").write_bytes(b"\n".join([good, *lines]))
    other = [QUESTION, "退款多久到账？", "no"]
    (root / "e.jsonl").write_text("".join(json.dumps({"prompt": q, "completion": "x"}) + "\n" for q in other))
    evals = {"main": "e.jsonl"} if with_eval else {}
    words = {"unreadable": "drop", "test_share": 0, "pii": "mask"}
    ours, account, order = by_up(root, words, evals)
    theirs, report = by_clean(root, root / "e.jsonl" if with_eval else None)
    assert ours == theirs
    assert (account["read"], account["kept"], account["by_reason"]) == (
        report["in"], report["kept"], report["by_reason"],
    )  # fmt: skip
    assert (account["masked"], account["placeholder_answers"]) == (
        report["masked"], report["placeholder_answers"],
    )  # fmt: skip
    checked = check(order)
    assert {n: checked[n] for n in ("read", "kept", "by_reason")} == {
        n: account[n] for n in ("read", "kept", "by_reason")
    }


def test_workers_change_nothing_on_a_long_dirty_file(tmp_path):
    dice = random.Random(0)
    rows = [
        {"messages": [{"role": "user", "content": f"{dice.choice(PIECES)} {n % 90}"},
                      {"role": "assistant", "content": dice.choice(PIECES) * 3}]}
        for n in range(3000)
    ]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    (tmp_path / "e.jsonl").write_text(json.dumps({"question": QUESTION, "answer": ""}) + "\n")
    one, _ = by_clean(tmp_path, tmp_path / "e.jsonl")
    three, _ = by_clean(tmp_path, tmp_path / "e.jsonl", workers=3)
    assert one == three


def test_a_short_question_counts_only_where_it_is_all_that_is_asked(tmp_path):
    """An evaluation row that asks "no" would else drop every row with a paragraph of "no"."""
    rows = [("no", "a"), ("Is it open?", "no"), ("yes\nno", "b"), (f"Hello\n{QUESTION}", "c")]
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in rows)
    )
    (tmp_path / "e.jsonl").write_text(
        "".join(json.dumps({"prompt": q, "completion": "x"}) + "\n" for q in ("no", QUESTION))
    )
    got, _ = by_clean(tmp_path, tmp_path / "e.jsonl")
    assert [line for line, what in got.items() if what == ["contamination"]] == [1, 4]


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (b'{"text": "a"}\n{"text": \n', "data.broken_json"),
        (b'{"prompt": "a", "completion": "b", "label": false}\n', "data.rejected_answer"),
        (b"\n", "data.empty"),
        (b'{"text": ""}\n', "data.nothing_kept"),
        (None, "data.missing_file"),
    ],
)
def test_the_check_refuses_what_the_step_would_refuse(tmp_path, lines, code):
    if lines is not None:
        (tmp_path / "a.jsonl").write_bytes(lines)
    order = {"sources": [{"path": "a.jsonl"}], "root": str(tmp_path)}
    with pytest.raises(WrongUse) as checked:
        check(order)
    with pytest.raises(WrongUse) as cleaned:
        by_up(tmp_path, {}, {})
    assert checked.value.code == cleaned.value.code == code
    assert checked.value.where == cleaned.value.where and checked.value.hint == cleaned.value.hint


def test_the_check_counts_held_out_rows_as_the_step_does(tmp_path):
    rows = [{"prompt": f"ask {n}?", "completion": f"number {n}"} for n in range(60)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    _, account, order = by_up(tmp_path, {"test_share": 0.2}, {})
    made = check(order)
    assert (made["train"], made["held_out"], made["whole"]) == (48, 12, True)
    assert made["abilities"] == {"main": {"train": 48, "test": 12}}
    assert made["sources"] == account["sources"]
