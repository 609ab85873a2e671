"""Rows keep their origin in a dataset, and rows that were erased are never taken again."""

from __future__ import annotations

import json
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.artefact import Inputs, Store, Watch
from steelyard.data import Row, clean, clean_files, fingerprint, suppress, suppressed, text_hash
from steelyard.errors import WrongUse
from steelyard.places import erased_file as list_file


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("STEELYARD_STATE", str(tmp_path / "state"))


def pair(number, **more):
    return {"prompt": f"What is item {number}?", "completion": f"Item {number} is {number * 7}.", **more}


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def dataset(root, name="a", **settings):
    order = {"sources": [{"path": "a.jsonl"}], "root": str(root), **settings}
    out = Store(root / "store").draft("dataset", name * 64, "clean", {}, {})
    clean(Inputs(), order, out, Watch())
    return out.folder


def lines(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def chat(asked, answer):
    messages = ({"role": "user", "content": asked}, {"role": "assistant", "content": answer})
    return Row("x", "x", 1, messages=messages)


def test_each_row_that_was_read_keeps_its_place_its_hash_and_its_own_id(tmp_path):
    rows = [pair(n) for n in range(20)]
    rows[3] = pair(3, id="ticket-3") | {"completion": "Write to ann@example.org for it."}
    rows += [rows[5], pair(8) | {"completion": " "}]
    write(tmp_path / "a.jsonl", rows)
    write(tmp_path / "e.jsonl", [pair(100)])
    folder = dataset(tmp_path, clean={"pii": "mask", "test_share": 0.0}, eval={"other": "e.jsonl"})
    origins = lines(folder / "origins.jsonl")
    assert [one["id"] for one in origins] == [*(f"a.jsonl:{n}" for n in range(1, 23)), "e.jsonl:1"]
    assert origins[0]["hash"] == text_hash(chat("What is item 0?", "Item 0 is 0."))
    assert origins[3] | {"hash": ""} == {"id": "a.jsonl:4", "hash": "", "own": "ticket-3", "masked": True}
    assert origins[5]["hash"] == origins[20]["hash"] and "masked" not in origins[5]
    assert b"ann@" not in (folder / "origins.jsonl").read_bytes()


def test_the_hash_of_a_text_is_fixed():
    """Lists of erased rows outlive versions: another hash would let every row pass."""
    assert text_hash(chat("a", "b\u00e9 \uff43")) == "bf66abcb4b24da1de03f4203805296ec"
    assert text_hash(Row("", "", 0, text="plain")) == text_hash(Row("other", "f", 9, text=" plain\n"))


@given(st.lists(st.text(max_size=30), min_size=1, max_size=4))
def test_white_space_and_width_do_not_count(parts):
    spaced = [f"  {part}\u3000\n" for part in parts]
    rows = [Row("", "", 0, text=texts[0], accept=tuple(texts[1:])) for texts in (parts, spaced)]
    assert text_hash(rows[0]) == text_hash(rows[1])


@pytest.mark.parametrize("enabled", (True, False))
def test_an_erased_row_is_dropped_from_every_later_set(tmp_path, enabled):
    write(tmp_path / "a.jsonl", [pair(n) for n in range(20)])
    write(tmp_path / "e.jsonl", [pair(40), pair(41)])
    order = {"clean": {"enabled": enabled}, "eval": {"main": "e.jsonl"}}
    before = dataset(tmp_path, "a", **order)
    plain = fingerprint({"sources": [{"path": "a.jsonl"}], "root": str(tmp_path)})
    suppress([text_hash(chat("What is item 4?", "Item 4 is 28.")),
              text_hash(chat("What is item 41?", "Item 41 is 287."))])  # fmt: skip
    after = dataset(tmp_path, "b", **order)
    assert {"id": "a.jsonl:5", "reasons": ["erased"]} in lines(after / "dropped.jsonl")
    assert len(lines(before / "train.jsonl")) - 1 == len(lines(after / "train.jsonl"))
    assert [one["id"] for one in lines(after / "test.jsonl")] == ["e.jsonl:1"]
    account = json.loads((after / "account.json").read_bytes())
    assert account["read"] == account["kept"] + account["dropped"] and account["by_reason"]["erased"] == 1
    now = fingerprint({"sources": [{"path": "a.jsonl"}], "root": str(tmp_path)})
    assert [f["name"] for f in now] == [*(f["name"] for f in plain), "erased rows"]


def test_clean_drops_it_from_another_file_with_any_number_of_workers(tmp_path):
    suppress([text_hash(chat("What is item 4?", "Item 4 is 28."))])
    write(tmp_path / "b.jsonl", [pair(n, id=f"row-{n}") for n in range(9)])
    told = [clean_files(tmp_path / "b.jsonl", tmp_path / f"out{n}", workers=n) for n in (1, 2)]
    assert [one["by_reason"] for one in told] == [{"erased": 1}] * 2
    dropped = [(tmp_path / f"out{n}" / "dropped.jsonl").read_bytes() for n in (1, 2)]
    assert dropped[0] == dropped[1] == b'{"id":"row-4","reasons":["erased"]}\n'


def test_the_list_holds_no_text_is_private_and_is_never_ignored(tmp_path):
    hash = text_hash(Row("", "", 0, text="call me on 555"))
    first = suppress([hash])
    assert suppress([hash, "0" * 32]).rows > first.rows and suppressed().holds(hash)
    body = list_file().read_text()
    assert hash not in body and "call" not in body
    assert stat.S_IMODE(os.stat(list_file()).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(list_file().parent).st_mode) == 0o700
    list_file().write_text("{half")
    write(tmp_path / "a.jsonl", [pair(1)])
    with pytest.raises(WrongUse) as refused:
        dataset(tmp_path)
    assert refused.value.code == "data.erased_list"
