"""Equal rows alone: what is left out changes no byte of what is kept, dropped and counted."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.data import KINDS, Suppressed, clean_files
from steelyard.data.judging.equal import asked_alone, folded
from steelyard.data.reading import files
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

BESIDE_ANY = """
    text messages conversations prompt completion instruction input output user assistant question answer
    system chosen rejected rejected_response preferred_output accept licence license consent made tools label
    kto_tag image images video videos audio audios compare weight history note
""".split()  # noqa: SIM905
CHAT = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "At noon."}]
NOT_PLAIN = [{}, {"weight": 0}, {"name": "x"}, {"reasoning": "x"}, {"tool_calls": [{"name": "x"}]}]
# Each field that may change what a row is, beside a text and beside a chat, and what may stand beside a turn.
EVERY = [
    {"id": f"{name} {value} {kind}", **body, name: value}
    for name in BESIDE_ANY
    for value in ("x", True, False, None, ["x"], {"a": "b"})
    for kind, body in (("text", {"text": f"{LONG} {name} {value}"}),
                       ("chat", {"messages": [*CHAT, *CHAT[:1], {**CHAT[1], "content": f"{name} {value}"}]}))
] + [
    {"id": f"turn {n}", "messages": [CHAT[0], {"role": "assistant", "content": "By day.", **more}]}
    for n, more in enumerate(NOT_PLAIN)
]  # fmt: skip


def cleaned(folder, name, workers=1, **more):
    report = clean_files(folder / "a.jsonl", folder / name, settings=ALONE | more, workers=workers)
    kept, dropped = ((folder / name / file).read_bytes() for file in ("a.jsonl", "dropped.jsonl"))
    return kept, dropped, {n: v for n, v in report.items() if n not in ("seconds", "mb_per_s")}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_short_way_writes_what_the_long_way_writes(tmp_path, workers):
    lines = [json.dumps(row, ensure_ascii=False) for row in [*ROWS, *ROWS[::3], *EVERY]]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, '{"id": "q', "[]"]), encoding="utf-8")
    short = cleaned(tmp_path, "short", workers)
    assert short == cleaned(tmp_path, "long", max_tokens=10**9)  # one rule more, that no row breaks
    assert short[2]["by_reason"]["duplicate"] >= 8 and {"empty", "too_long"} <= set(short[2]["by_reason"])


TEXTS = st.sampled_from(
    [LONG, LONG.upper(), WIDE, "Yes.", "no", " ", "<EMAIL_1>", "Ｗｉｄｅ， １２", "e\u0301 ﬁ 🎈", "[1]"]
) | st.text(max_size=20)
ODD = st.none() | st.booleans() | st.integers(-2, 2) | st.just([]) | st.just(["x"]) | st.just({"a": "b"})
TURNS = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "assistant", "system", "tool", "human", 3]),
        "content": TEXTS | ODD,
    },
    optional={"weight": st.integers(0, 1), "name": TEXTS, "reasoning": TEXTS},
)
CHATS = st.lists(TURNS, max_size=4) | st.just([{"role": r, "content": LONG} for r in ("user", "assistant")])
OBJECTS = st.fixed_dictionaries(
    {},
    optional={"id": TEXTS | ODD, "text": TEXTS | ODD, "messages": CHATS | ODD, "label": TEXTS | ODD}
    | {name: TEXTS | ODD for name in BESIDE_ANY if name not in ("text", "label")},
)
PLAIN = st.fixed_dictionaries({"id": TEXTS}, optional={"text": TEXTS, "label": TEXTS, "note": TEXTS})
ASKED = st.fixed_dictionaries({"id": TEXTS, "messages": CHATS}, optional={"note": TEXTS})
ENDS = st.sampled_from(["\n", "\n", "\r\n", "\n\n", " \n\x0b\n", ""])
LINES = st.tuples(
    st.one_of(PLAIN, ASKED, OBJECTS).map(
        lambda row: json.dumps(row, ensure_ascii=False, separators=(",", ":"))
    )
    | OBJECTS.map(json.dumps)
    | st.sampled_from(["{", "[1]", "7", '"x"', '{"text": "\\ud800"}', '{"id":"a","text":"b","text":"c"}']),
    ENDS,
).map("".join)


@given(st.booleans(), st.lists(LINES, min_size=1, max_size=12), st.integers(40, 400))
@settings(max_examples=40, deadline=None)
def test_whole_lines_are_judged_as_records_are(tmp_path_factory, marked, lines, piece):
    """Whatever lines there are, and wherever the file is cut into pieces."""
    folder = tmp_path_factory.mktemp("lines")
    whole = ("\ufeff" * marked + "".join(lines)).encode("utf-8", "surrogatepass")
    (folder / "a.jsonl").write_bytes(whole + b'\n{"id":"last","text":"one row that can be read"}')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "PART_BYTES", piece)
        patch.setattr(files, "LINE_BYTES_MAX", 2 * piece)
        assert cleaned(folder, "short") == cleaned(folder, "long", max_tokens=10**9)


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
