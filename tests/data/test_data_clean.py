"""The step `clean`, its account and its held-out rows; the plan's count; the stand-alone command."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steelyard.artefact import Inputs, Store, Watch
from steelyard.data import KINDS, check, clean, clean_files, count, fingerprint
from steelyard.errors import Lacking, Stopped, WrongUse

FILES = ("train.jsonl", "test.jsonl", "dropped.jsonl", "account.json")


def lines_of(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def run(root, sources, tmp=None, watch=None, inputs=None, **more):
    """The step on `sources` under `root`; figures, and what it wrote."""
    order = {"sources": sources, "root": str(root), **more}
    store = Store((tmp or root) / "store")
    out = store.draft("dataset", "k" * 64, "clean", {}, {})
    figures = clean(inputs or Inputs(), order, out, watch or Watch())
    assert sorted(p.name for p in out.folder.iterdir()) == sorted([*FILES, "origins.jsonl"])
    read = {n.split(".")[0]: lines_of(out.folder / n) for n in FILES[:3]}
    account = json.loads((out.folder / "account.json").read_bytes())
    raw = {n: (out.folder / n).read_bytes() for n in FILES}
    return SimpleNamespace(figures=figures, account=account, raw=raw, **read)


def write(path, rows):
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    return {"path": path.name}


def pair(asked, answer, **more):
    return {"prompt": asked, "completion": answer, **more}


NUMBERED = [pair(f"What is item {i}?", f"Item {i} is number {i * 7}.") for i in range(50)]


def test_it_says_how_much_is_read_and_how_much_is_left(tmp_path):
    """Of all bytes; nothing of the whole where a file is packed."""
    shown = []
    watch = Watch()
    watch.show = lambda progress, closed=False: shown.append(progress)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(f'{{"text": "row {n}"}}\n' for n in range(40)))
    (folder / "b.csv").write_text("text\n" + "".join(f"row {n}\n" for n in range(40)))
    for rules in ({}, {"pii": "off", "off": tuple(k for k in KINDS if k != "duplicate")}):
        clean_files(folder, tmp_path / "out", settings=rules, watch=watch)
        assert shown[-1].done == shown[-1].total == sum(p.stat().st_size for p in folder.iterdir())
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(b'{"text": "one more"}\n'))
    clean_files(folder, tmp_path / "out", watch=watch)
    assert shown[-1].total is None and shown[-1].done > 0


def test_clean_writes_train_test_dropped_and_account(tmp_path):
    rows = [*NUMBERED, NUMBERED[3], pair("blank", " "), pair("x" * 3000, "long")]
    source = write(tmp_path / "a.jsonl", rows) | {"ability": "lookup", "weight": 2.0}
    got = run(tmp_path, [source], clean={"max_tokens": 200})
    assert {r["id"]: r["reasons"] for r in got.dropped} == {
        "a.jsonl:51": ["duplicate"], "a.jsonl:52": ["empty"], "a.jsonl:53": ["too_long"],
    }  # fmt: skip
    assert (len(got.train), len(got.test)) == (40, 10)
    assert sorted(got.train + got.test, key=lambda r: int(r["id"][8:]))[0] == {
        "id": "a.jsonl:1", "ability": "lookup",
        "messages": [{"role": "user", "content": "What is item 0?"},
                     {"role": "assistant", "content": "Item 0 is number 0."}],
    }  # fmt: skip
    assert (got.account["in"], got.account["kept"], got.account["dropped"]) == (53, 50, 3)
    assert got.account["by_reason"] == {"duplicate": 1, "empty": 1, "too_long": 1}
    assert got.account["abilities"] == {"lookup": {"train": 40, "test": 10, "own_eval": False}}
    assert got.figures["rows_in"] == 53 and got.figures["bytes_in"] == (tmp_path / "a.jsonl").stat().st_size


LINE = st.one_of(
    st.builds(
        lambda a, b: json.dumps({"prompt": a, "completion": b}), st.text(max_size=20), st.text(max_size=20)
    ),
    st.builds(lambda t: json.dumps({"text": t}), st.text(max_size=60)),
    st.sampled_from(["", "{", "[]", "null", '{"messages": []}', '{"text": "\\ud800"}', '{"messages": [{}]}']),
    st.sampled_from([json.dumps(NUMBERED[0]), '{"text": "mail a@b.com"}', '{"text": "電話 13812345678"}']),
).map(str.encode)
BYTES = st.one_of(LINE, st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"").replace(b"\0", b"")))


@given(lines=st.lists(BYTES, max_size=25), rules=st.sampled_from([{}, {"dedup": "none"}, {"enabled": False}]))
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
def test_rows_in_are_kept_plus_dropped(tmp_path_factory, lines, rules):
    root = tmp_path_factory.mktemp("property")
    # A sound row comes first: a mark of UTF-16 is one at the start of a file alone.
    (root / "a.jsonl").write_bytes(b"\n".join([json.dumps(NUMBERED[9]).encode(), *lines]))
    got = run(root, [{"path": "a.jsonl"}], clean={**rules, "unreadable": "drop"})
    kept = [r["id"] for r in got.train + got.test]
    gone = [r["id"] for r in got.dropped]
    account = got.account
    assert account["in"] == account["kept"] + account["dropped"] == len(kept) + len(gone)
    assert len({*kept, *gone}) == account["in"] and all(r["reasons"] for r in got.dropped)
    assert account["dropped"] == sum(account["by_reason"].values())
    assert account["kept"] == account["train"] + account["held_out"]
    assert (account["train"], account["held_out"]) == (len(got.train), len(got.test))
    for file in account["sources"]:
        assert file["read"] == file["kept"] + sum(file["by_reason"].values())
        assert file["kept"] == file["train"] + file["held_out"]
    if rules.get("enabled") is False:
        assert set(account["by_reason"]) <= {"broken_json", "broken_encoding", "wrong_shape"}


def test_bytes_do_not_depend_on_the_folder(tmp_path):
    got = []
    for place in ("one", "two/deep"):
        root = tmp_path / place
        root.mkdir(parents=True)
        source = write(root / "a.jsonl", NUMBERED)
        other = write(root / "b.jsonl", NUMBERED[:10])
        order = [source, {"path": str(root / other["path"])}]
        got.append((run(root, order).raw, fingerprint({"sources": order, "root": str(root)})))
    assert got[0] == got[1]
    assert str(tmp_path).encode() not in b"".join(got[0][0].values())
    assert [f["name"] for f in got[0][1]] == ["a.jsonl", "b.jsonl"]


def test_clean_none_keeps_every_row(tmp_path):
    rows = [NUMBERED[0], NUMBERED[0], pair("", ""), pair("mail a@b.com", "ok"), {"text": "\ufffd" * 9}]
    got = run(tmp_path, [write(tmp_path / "a.jsonl", rows)], clean={"enabled": False, "test_share": 0})
    assert (got.account["in"], got.account["kept"], len(got.train), got.test) == (5, 5, 5, [])
    assert got.train[3]["messages"][0]["content"] == "mail a@b.com"


class Events(Watch):
    def __init__(self):
        self.events = {}

    def log(self, event, **fields):
        self.events[event] = fields


def test_personal_data_is_reported_and_masked_only_when_asked(tmp_path):
    rows = [pair("mail a@b.com and 13812345678", '{"to": "a@b.com"}', accept=["a@b.com"]), *NUMBERED]
    source = write(tmp_path / "a.jsonl", rows)
    watch = Events()
    got = run(tmp_path, [source], clean={"test_share": 0}, watch=watch)
    assert got.train[0]["messages"][1]["content"] == '{"to": "a@b.com"}'
    assert (got.account["personal"], got.account["masked"]) == ({"email": 3, "phone": 1}, {})
    assert watch.events["clean.personal"] == {"values": 4, "rows": 1}
    assert "clean.placeholders" not in watch.events
    watch = Events()
    got = run(tmp_path, [source], clean={"test_share": 0, "pii": "mask"}, watch=watch)
    assert watch.events["clean.placeholders"] == {"rows": 1, "of": 51}
    assert got.account["placeholder_answers"] == 1 and "clean.personal" not in watch.events
    first = got.train[0]
    assert [m["content"] for m in first["messages"]] == [
        "mail <EMAIL_1> and <PHONE_1>",
        '{"to": "<EMAIL_1>"}',
    ]
    assert first["accept"] == ["<EMAIL_1>"] and got.account["masked"] == {"email": 3, "phone": 1}
    assert got.account["masked_rows"] == 1 and got.figures["redacted"] == 4
    assert b"a@b.com" not in b"".join(got.raw.values())
    got = run(tmp_path, [source], clean={"test_share": 0, "pii": "off"})
    assert "a@b.com" in got.train[0]["messages"][0]["content"] and not got.account["personal"]


def test_held_out_rows_are_never_masked(tmp_path):
    rows = [pair(f"Where do I write, case {i}?", f"To desk{i}@shop.example.") for i in range(40)]
    write(tmp_path / "e.jsonl", [pair("Where does the press write?", "To press@shop.example.")])
    sources = [write(tmp_path / "a.jsonl", rows), write(tmp_path / "b.jsonl", NUMBERED) | {"ability": "b"}]
    got = run(tmp_path, sources, clean={"pii": "mask", "test_share": 0.25}, eval={"b": "e.jsonl"})
    answers = [r["messages"][1]["content"] for r in got.test if r["ability"] == "main"]
    assert len(answers) == 10 and all("desk" in a and "@shop.example" in a for a in answers)
    assert [r["messages"][1]["content"] for r in got.test if r["ability"] == "b"] == [
        "To press@shop.example."
    ]
    taught = [r["messages"][1]["content"] for r in got.train if r["ability"] == "main"]
    assert taught == ["To <EMAIL_1>."] * 30
    assert got.account["masked"] == {"email": 30} and got.account["placeholder_answers"] == 30


@pytest.mark.parametrize("mark", ["<EMAIL_1>", "[PHONE]", "[REDACTED]", "[NAME_2]"])
def test_placeholders_of_other_tools_are_counted_in_answers_alone(tmp_path, mark):
    rows = [
        pair(f"Hello, I am {mark}", "Hi."),
        pair("Whom do I ask?", f"Ask {mark}."),
        pair("[1] or <b>?", "[1]"),
    ]
    got = run(tmp_path, [write(tmp_path / "a.jsonl", rows)], clean={"test_share": 0})
    assert got.account["placeholder_answers"] == 1


def test_lost_characters_are_dropped_misread_ones_mended_and_quoted_ones_stay(tmp_path):
    bad = "Zwei StÃ¤dte, drei FlÃ¼sse, vier SchlÃ¶sser"
    rows = [{"text": "W\ufffdy d\ufffdes a d\ufffdg?"}, {"text": bad}, {"text": "ÖÜ½¨»ªÅÌ´øÁËÎÈ½¡µÄºóÎÀ"}]
    good = [{"text": "The sign \ufffd marks a lost character."}, {"text": "Städte, Flüsse, Âme, déjà vu"}]
    got = run(tmp_path, [write(tmp_path / "a.jsonl", rows + good)], clean={"test_share": 0})
    assert [r["reasons"][0] for r in got.dropped] == ["lost_characters"]
    assert [r["text"] for r in got.train[:2]] == [
        "Zwei Städte, drei Flüsse, vier Schlösser",
        "周建华盘带了稳健的后卫",
    ]
    assert len(got.train) == 4 and got.account["repaired"] == {"misread": 2}


def test_equal_prompts_never_straddle_and_the_choice_follows_from_content(tmp_path):
    rows = [pair(f"ask {i % 20}", f"answer {i}") for i in range(100)]
    one = run(tmp_path, [write(tmp_path / "a.jsonl", rows)], clean={"test_share": 0.2})
    two = run(tmp_path, [write(tmp_path / "a.jsonl", rows[::-1])], clean={"test_share": 0.2})

    def asked(part):
        return {r["messages"][0]["content"] for r in part}

    assert len(one.test) == 20 and not asked(one.train) & asked(one.test)
    assert asked(one.test) == asked(two.test)


def test_a_made_row_that_asks_what_is_held_out_neither_judges_nor_teaches(tmp_path):
    """Who rates answers would else have his own word held against the model."""
    own = [pair(f"question number {n}?", f"answer {n}") for n in range(20)]
    made = [row | {"completion": "wrong", "made": True} for row in own]
    sources = [write(tmp_path / "a.jsonl", own), write(tmp_path / "b.jsonl", made)]
    got = run(tmp_path, sources, clean={"test_share": 0.1})
    assert got.test and not any(row.get("made") for row in got.test)
    held = {row["messages"][0]["content"] for row in got.test}
    assert not held & {row["messages"][0]["content"] for row in got.train}
    assert got.account["by_reason"] == {"contamination": len(held)} and got.account["made"] == 20 - len(held)
    settings = {"sources": sources, "clean": {"test_share": 0.1}, "eval": {}, "root": str(tmp_path)}
    checked = check(settings)  # `validate` and `plan` count as cleaning does
    assert checked["by_reason"] == got.account["by_reason"] and checked["kept"] == got.account["kept"]
    assert checked["held_out"] == len(held) == checked["abilities"]["main"]["test"]
    assert checked["abilities"]["main"]["train"] == len(got.train)
    counted = count(settings, Words())
    assert (counted["held_out"], counted["rows"]) == (len(held), len(got.train))


def test_an_evaluation_file_is_the_test_and_stays_out_of_training(tmp_path):
    write(
        tmp_path / "eval.jsonl",
        [pair("  What is   item 3?", "21", compare="label"), pair("new", "n a@b.com")],
    )
    source = write(tmp_path / "a.jsonl", NUMBERED) | {"ability": "lookup"}
    more = [pair(f"And item {i}?", "none") for i in range(20)]
    other = write(tmp_path / "b.jsonl", [*NUMBERED[:20], *more]) | {"ability": "other"}
    gates = {"lookup": {"eval": "eval.jsonl", "compare": "text"}, "other": None}
    got = run(tmp_path, [source, other], clean={"dedup": "none"}, abilities=gates)
    lookup = [r for r in got.test if r["ability"] == "lookup"]
    assert [r["id"] for r in lookup] == ["eval.jsonl:1", "eval.jsonl:2"]
    assert [r["compare"] for r in lookup] == ["label", "text"]
    assert lookup[1]["messages"][1]["content"] == "n a@b.com"
    assert {r["id"] for r in got.dropped} == {"a.jsonl:4", "b.jsonl:4"}
    assert got.account["by_reason"] == {"contamination": 2}
    assert got.account["test_from_files"] == 2 and got.account["kept"] == 88
    assert got.account["abilities"]["other"] == {"train": 32, "test": 7, "own_eval": False}
    assert all("And" in r["messages"][0]["content"] for r in got.test if r["ability"] == "other")
    assert all("What is item 3?" not in json.dumps(r) for r in got.train)


def test_a_bad_line_of_an_evaluation_file_stops_or_is_counted(tmp_path):
    source = write(tmp_path / "a.jsonl", NUMBERED)
    (tmp_path / "e.jsonl").write_text('{"prompt": "new", "completion": "n"}\n{\n')
    with pytest.raises(WrongUse) as caught:
        run(tmp_path, [source], eval={"main": "e.jsonl"})
    assert caught.value.where.file.endswith("e.jsonl") and caught.value.where.line == 2
    got = run(tmp_path, [source], eval={"main": "e.jsonl"}, clean={"unreadable": "drop"})
    assert got.account["test_unreadable"] == 1 and got.account["in"] == 50 and len(got.test) == 1


def test_an_evaluation_table_may_have_the_columns_of_its_source(tmp_path):
    (tmp_path / "a.csv").write_text("问题,回复\n" + "".join(f"问{i},答{i}\n" for i in range(9)))
    (tmp_path / "e.csv").write_text("问题,回复\n新问,新答\n")
    source = {"path": "a.csv", "map": {"user": "问题", "assistant": "回复"}}
    got = run(tmp_path, [source], eval={"main": "e.csv"})
    assert [m["content"] for m in got.test[0]["messages"]] == ["新问", "新答"] and len(got.train) == 9


@pytest.mark.parametrize(
    ("lines", "code", "line"),
    [
        (b'{"text": "a"}\n{"text": \n', "data.broken_json", 2),
        (b'{"text": "a"}\n\n{"text": "\xff\xfe\xe4"}\n{"text": "\xe4\xb8\xad"}\n', "data.broken_encoding", 3),
        (b'{"text": "a"}\n{"txt": "b"}\n', "data.wrong_shape", 2),
        (b'{"text": "\xff\xfe\xff"}\n', "data.undecodable", 1),
        (b"", "data.empty", None),
        (b"\n\n", "data.empty", None),
        (b'{"text": ""}\n{"text": "  "}\n', "data.nothing_kept", None),
    ],
)
def test_up_stops_with_one_clear_error(tmp_path, lines, code, line):
    (tmp_path / "a.jsonl").write_bytes(lines)
    with pytest.raises(WrongUse) as caught:
        run(tmp_path, [{"path": "a.jsonl"}])
    problem = caught.value
    assert problem.code == code and problem.hint and problem.why
    if line:
        assert problem.where.line == line and problem.where.file == str(tmp_path / "a.jsonl")


def test_unreadable_lines_can_be_dropped(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "one"}\n{"text": \n{"text": "\xff"}\n{"text": "two"}\n')
    got = run(tmp_path, [{"path": "a.jsonl"}], clean={"unreadable": "drop"})
    assert {r["id"]: r["reasons"] for r in got.dropped} == {
        "a.jsonl:2": ["broken_json"], "a.jsonl:3": ["broken_encoding"],
    }  # fmt: skip


def test_a_stop_is_heard(tmp_path):
    watch = Watch()
    watch.stop = True
    with pytest.raises(Stopped):
        run(tmp_path, [write(tmp_path / "a.jsonl", NUMBERED)], watch=watch)


def test_a_full_disk_is_one_clear_error(tmp_path):
    write(tmp_path / "a.jsonl", [*NUMBERED, NUMBERED[0]])
    out = Store(tmp_path / "store").draft("dataset", "k" * 64, "clean", {}, {})
    (out.folder / "dropped.jsonl").symlink_to("/dev/full")
    with pytest.raises(Lacking) as caught:
        clean(Inputs(), {"sources": [{"path": "a.jsonl"}], "root": str(tmp_path)}, out, Watch())
    assert caught.value.code == "disk.full" and caught.value.hint
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.jsonl.part").symlink_to("/dev/full")
    with pytest.raises(Lacking):
        clean_files(tmp_path / "a.jsonl", tmp_path / "out")
    assert not outputs(tmp_path / "out")


WEIGHTS = st.none() | st.sampled_from([0.5, 1.0, 3.0, 9.0])


@given(st.lists(st.tuples(st.sampled_from("xy"), st.integers(1, 30), WEIGHTS), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_weights_share_an_ability_among_its_sources_and_leave_abilities_alone(tmp_path_factory, sources):
    """Two sources of one ability weighed 9 and 1 were drawn by their rows; one weight changed every mix."""
    root = tmp_path_factory.mktemp("weights")
    order = []
    for n, (ability, rows, weight) in enumerate(sources):
        made = [pair(f"source {n} row {i} asks?", f"answer {i}") for i in range(rows)]
        order.append(write(root / f"{n}.jsonl", made) | {"ability": ability, "weight": weight})
    got = run(root, order, clean={"test_share": 0})
    drawn = [0.0] * len(sources)
    for row in got.train:
        drawn[int(row["id"].split(".")[0])] += row.get("weight", 1.0)
    for ability in "xy":
        mine = [n for n, (a, _, _) in enumerate(sources) if a == ability]
        rows = {n: sources[n][1] for n in mine}
        assert sum(drawn[n] for n in mine) == pytest.approx(sum(rows.values()), rel=1e-4)
        if any(sources[n][2] is not None for n in mine):
            shares = {n: 1.0 if sources[n][2] is None else sources[n][2] for n in mine}
        else:
            shares = rows
        for n in mine:
            wanted = shares[n] / sum(shares.values()) * sum(rows.values())
            assert drawn[n] == pytest.approx(wanted, rel=1e-4)


# ------------------------------------------------------------------ the plan's count


class Words:
    """A tokenizer of words: `<s>` begins a turn, `</s>` ends it."""

    eos_ids, special_ids, end_id = (0,), frozenset({0, 2}), 0
    template_text = ""

    def encode(self, text):
        return [{"<s>": 2, "</s>": 0}.get(word, 1) for word in text.split()]

    def decode(self, ids, skip_special=True):
        return " ".join("word" for _ in ids)

    def chat_text(self, messages, generation_prompt=True, tools=None, variables=None):
        turns = "".join(f"<s> {m['content']} </s> " for m in messages)
        return f"{turns}<s> " if generation_prompt else turns

    def chat_ids(self, messages, generation_prompt=True):
        return self.encode(self.chat_text(messages, generation_prompt))


def test_count_agrees_with_clean(tmp_path):
    rows = [*NUMBERED, NUMBERED[0], pair("", "")]
    source = write(tmp_path / "a.jsonl", rows) | {"ability": "x"}
    got = run(tmp_path, [source])
    told = count({"sources": [source], "root": str(tmp_path)}, Words())
    assert told["rows"] == len(got.train) == 40
    assert told["held_out"] == 10 and told["held_out_by"] == {"x": 10}
    assert told["tokens"] == sum(told["lengths"]) == 40 * (6 + 7) and told["longest"] == 13
    assert told["texts"] == 0 and told["answer_tokens"] == 40 * 6 and told["abilities"] == {"x": 40}
    assert told["bytes"] == (tmp_path / "a.jsonl").stat().st_size


def test_count_samples_big_files(tmp_path):
    rows = [pair(f"ask {i:06}", "a b c") for i in range(30_000)]
    source = write(tmp_path / "a.jsonl", rows)
    told = count({"sources": [source], "root": str(tmp_path), "clean": {"test_share": 0.1}}, Words())
    assert abs(told["rows"] / 27_000 - 1) < 0.01 and len(told["lengths"]) <= 4000
    assert abs(told["tokens"] / (27_000 * 9) - 1) < 0.01


# ------------------------------------------------------------------ steelyard clean


def corpus(folder, rows=400):
    folder.mkdir(parents=True, exist_ok=True)
    made = [
        {"id": f"r{i}", "source": "s", "text": f"Row {i} says hello to a{i % 7}@b.com. " * 30}
        for i in range(rows)
    ]
    turns = [{"role": "user", "content": "q", "name": "n"}]
    turns += [{"role": "assistant", "content": "call 13812345678"}]
    made += [made[3] | {"id": "copy"}, {"id": "chat", "messages": turns}]
    write(folder / "a.jsonl", made)
    (folder / "b.jsonl").write_bytes(
        b'{"id": "x", "text": \n{"id": 7, "text": "seven"}\n{"id": "bad"}\n\xff\n'
    )
    return folder


def outputs(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.jsonl"))}


def test_clean_files_accounts_for_every_row_with_any_number_of_workers(tmp_path):
    corpus(tmp_path / "in")
    exact = {"dedup": "exact", "off": ("repetition", "too_short")}  # its rows differ in a number
    told = clean_files(tmp_path / "in", tmp_path / "one", settings=exact)
    again = clean_files(tmp_path / "in", tmp_path / "three", tmp_path / "r.json", workers=3, settings=exact)
    assert outputs(tmp_path / "one") == outputs(tmp_path / "three")
    assert (
        (told["in"], told["kept"], told["dropped"])
        == (406, 402, 4)
        == (again["in"], again["kept"], again["dropped"])
    )
    assert json.loads((tmp_path / "r.json").read_bytes())["by_reason"] == told["by_reason"]
    assert json.loads((tmp_path / "one" / "report.json").read_bytes()) == told
    dropped = {r["id"]: r["reasons"] for r in lines_of(tmp_path / "one" / "dropped.jsonl")}
    assert dropped == {
        "copy": ["duplicate"], "b.jsonl:1": ["broken_json"], "bad": ["wrong_shape"],
        "b.jsonl:4": ["broken_encoding"],
    }  # fmt: skip
    kept = {
        r["id"]: r for r in lines_of(tmp_path / "one" / "a.jsonl") + lines_of(tmp_path / "one" / "b.jsonl")
    }
    assert kept["r0"]["source"] == "s" and "a0@b.com" not in kept["r0"]["text"] and kept[7]["text"] == "seven"
    assert (
        kept["chat"]["messages"][0]["name"] == "n"
        and kept["chat"]["messages"][1]["content"] == "call <PHONE_1>"
    )


def test_clean_files_takes_many_files_and_two_of_one_name(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for n in range(40):
        write(tmp_path / "in" / "sub" / f"{n}.jsonl", [{"text": f"file {n}"}])
    (tmp_path / "in" / "dropped.jsonl").write_text('{"text": "mine"}')
    (tmp_path / "in" / "t.csv").write_text("prompt,completion\na,b\n")
    (tmp_path / "in" / "t.jsonl").write_text('{"text": "t"}')
    told = clean_files(tmp_path / "in", tmp_path / "out")
    assert told["kept"] == 43 and len(list((tmp_path / "out" / "sub").iterdir())) == 40
    assert [r["id"] for r in lines_of(tmp_path / "out" / "t.jsonl")] == ["t.csv:2", "t.jsonl:1"]
    assert lines_of(tmp_path / "out" / "dropped-rows.jsonl")[0]["text"] == "mine"


def test_clean_files_drops_evaluation_questions(tmp_path):
    write(tmp_path / "a.jsonl", [{"id": "1", "text": "How many?"}, {"id": "2", "text": "Intro\nHow  many?"},
                                 {"id": "3", "text": "How many more?"}])  # fmt: skip
    write(tmp_path / "eval.jsonl", [{"id": "q", "question": "How many?", "answer": "3"}])
    told = clean_files(tmp_path / "a.jsonl", tmp_path / "out", contamination=tmp_path / "eval.jsonl")
    assert told["by_reason"] == {"contamination": 2} and told["kept"] == 1


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"", "data.empty"), (b"{\n[\n", "data.all_unreadable"), (None, "data.missing_file")],
)
def test_clean_files_refuses_what_gives_nothing(tmp_path, content, code):
    (tmp_path / "in").mkdir()
    if content is not None:
        (tmp_path / "in" / "a.jsonl").write_bytes(content)
    with pytest.raises(WrongUse) as caught:
        clean_files(tmp_path / "in", tmp_path / "out")
    assert caught.value.code == code and not outputs(tmp_path / "out")
    with pytest.raises(WrongUse, match="input's"):
        clean_files(tmp_path / "in", tmp_path / "in")


def test_a_killed_clean_leaves_nothing_half_and_no_workers(tmp_path):
    corpus(tmp_path / "in", rows=6000)
    code = (
        "from pathlib import Path; from steelyard.data import clean_files\n"
        f"clean_files(Path({str(tmp_path / 'in')!r}), Path({str(tmp_path / 'out')!r}), workers=2)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    while child.poll() is None and not (tmp_path / "out" / "a.jsonl.part").exists():
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    left = outputs(tmp_path / "out")
    deadline = time.monotonic() + 30
    while group_lives(child.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not group_lives(child.pid)
    clean_files(tmp_path / "in", tmp_path / "out")
    clean_files(tmp_path / "in", tmp_path / "whole")
    whole = outputs(tmp_path / "whole")
    assert left.items() <= whole.items()  # the kill may come while they are given their names, or after
    assert "dropped.jsonl" not in left or left == whole
    assert outputs(tmp_path / "out") == whole
    assert not list((tmp_path / "out").glob("*.part"))


def group_lives(group):
    """A process of this group that is no zombie."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = stat.read_text().rsplit(")", 1)[1].split()[:3]
        except (OSError, ValueError):
            continue
        if int(pgrp) == group and state != "Z":
            return True
    return False


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    write(tmp_path / "a.jsonl", [{"text": "x"}])
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(Exception, match="cannot be written"):
        clean_files(tmp_path / "a.jsonl", tmp_path / "out")


def test_more_is_held_out_where_an_ability_may_forget_little(tmp_path):
    rows = [pair(f"ask {i}", "a") for i in range(1000)]
    order = {"sources": [write(tmp_path / "a.jsonl", rows) | {"ability": "x"}], "root": str(tmp_path)}
    assert count(order, Words())["held_out_by"] == {"x": 168}
    assert count(order | {"held_out": {"x": 2000}}, Words())["held_out_by"] == {"x": 200}
    assert count(order | {"held_out": {"x": 40}}, Words())["held_out_by"] == {"x": 100}
    share = order | {"held_out": {"x": 2000}, "clean": {"test_share": 0.05}}
    assert count(share, Words())["held_out_by"] == {"x": 50}
