"""Equal rows alone: what is left out changes no byte of what is kept, dropped and counted."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.data import KINDS, Suppressed, clean_files
from steelyard.data.judging.equal import asked_alone, folded
from steelyard.data.row import loose

ALONE = {"pii": "off", "dedup": "exact", "off": tuple(k for k in KINDS if k != "duplicate")}
LONG = "The ferry to the northern island leaves at noon, and the tickets are sold on board."
WIDE = "渡轮在中午离开码头，前往北方的岛屿；船票在船上出售，不用提前预订座位，请各位旅客带好自己的行李。" * 2
ROWS = [
    {"id": "a", "text": LONG}, {"id": "b", "text": LONG.upper()}, {"id": 7, "text": LONG + "!"},
    {"text": WIDE}, {"id": "c", "text": WIDE.replace("，", ", ")}, {"id": "", "text": "ﬁrst " + WIDE},
    {"id": "d", "text": "first " + WIDE}, {"id": 0, "text": "short"}, {"id": True, "text": "Short"},
    {"id": "e", "text": "İstanbul " + LONG}, {"id": "f", "text": "🎈" + WIDE + "e\u0301"}, {"text": "  "},
    {"id": "g", "text": LONG, "label": "sea"}, {"id": "h", "text": LONG, "licence": "MIT", "consent": "yes"},
    {"id": "i", "text": "x" * 1_000_001}, {"id": "j", "text": 5}, {"id": 2.5, "text": "a float is no name"},
    {"id": "k", "messages": [{"role": r, "content": "<EMAIL_1>?"} for r in ("user", "assistant")]},
    {"id": "l", "prompt": "Where?", "completion": "There.", "text": LONG},
    {"id": "m", "text": LONG, "made": True},
    {"id": "n", "text": LONG, "accept": ["y"]}, {"id": "o", "question": "What?", "text": LONG}, {"other": 1},
    {"id": "p", "chosen": "a", "rejected": "b", "text": LONG},
]  # fmt: skip


def cleaned(folder, name, workers=1, **more):
    report = clean_files(folder / "a.jsonl", folder / name, settings=ALONE | more, workers=workers)
    kept, dropped = ((folder / name / file).read_bytes() for file in ("a.jsonl", "dropped.jsonl"))
    return kept, dropped, {n: v for n, v in report.items() if n not in ("seconds", "mb_per_s")}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_short_way_writes_what_the_long_way_writes(tmp_path, workers):
    lines = [json.dumps(row, ensure_ascii=False) for row in [*ROWS, *ROWS[::3]]]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, '{"id": "q', "[]"]), encoding="utf-8")
    short = cleaned(tmp_path, "short", workers)
    assert short == cleaned(tmp_path, "long", max_tokens=10**9)  # one rule more, that no row breaks
    assert short[2]["by_reason"]["duplicate"] >= 8 and {"empty", "too_long"} <= set(short[2]["by_reason"])


@given(st.lists(st.text(max_size=120), max_size=6))
@settings(max_examples=150, deadline=None)
def test_folded_a_batch_at_a_time_or_one_by_one(texts):
    texts = [*texts, *(text * 9 for text in texts)]
    assert folded(texts) == [loose(text).encode("utf-8", "surrogatepass") for text in texts]


def test_only_where_nothing_else_is_asked():
    from steelyard.data.questions import Questions
    from steelyard.data.steps import Rules

    assert asked_alone(Rules(**ALONE), Questions())
    erased = {"suppressed": Suppressed(b"key", frozenset(["hash"]))}
    for more in (
        erased,
        {"pii": "mask"},
        {"off": ()},
        {"licences": ("mit",)},
        {"max_tokens": 9},
        {"enabled": False},
    ):
        assert not asked_alone(Rules(**{**ALONE, **more}), Questions())
