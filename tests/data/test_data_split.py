"""Rows divided: near-duplicates stay together, and content and seed alone say where."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from steelyard.artefact import Inputs, Store, Watch
from steelyard.data import check, clean, clean_files, split_set
from steelyard.data.looking.split import parts_of
from steelyard.errors import WrongUse
from tests.data.test_data_whole import edited, prose, sentence, write

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def made(count=120, near=40, seed=1):
    """Texts and chats, a third of them with a near-duplicate; two abilities."""
    dice = random.Random(seed)
    rows = []
    for n in range(count):
        ask = prose(dice, 4)
        chat = [{"role": "user", "content": ask}, {"role": "assistant", "content": sentence(dice)}]
        body = {"text": prose(dice)} if n % 2 else {"messages": chat}
        rows.append({"id": f"r{n}", "ability": "b" if n % 3 else "a", **body})
    for n in range(near):
        rows.append(like(dice, rows[n], f"near{n}"))
    return rows


def like(dice, row, id):
    if "text" in row:
        return {**row, "id": id, "text": edited(dice, row["text"], 0.05)}
    user, _ = row["messages"]
    changed = {**user, "content": edited(dice, user["content"], 0.05)}
    return {**row, "id": id, "messages": [changed, {"role": "assistant", "content": sentence(dice)}]}


def divided(folder, rows, name="out", **settings):
    raw = write(folder / f"{name}.jsonl", rows)
    account = split_set(raw, folder / name, settings.pop("shares", SHARES), **settings)
    sides = {}
    for path in (folder / name).glob("*.jsonl"):
        sides |= {json.loads(line)["id"]: path.stem for line in path.read_bytes().splitlines()}
    return account, sides


def test_near_duplicates_never_stand_on_two_sides(tmp_path):
    rows = made()
    account, sides = divided(tmp_path, rows)
    assert len(sides) == len(rows) == account["rows"] == sum(p["rows"] for p in account["parts"].values())
    assert [n for n in range(40) if sides[f"r{n}"] != sides[f"near{n}"]] == []
    assert account["groups"] == 120 and account["largest_group"] == 2
    assert divided(tmp_path, rows, "plain", near=None)[0]["groups"] == 160


def test_each_part_has_its_share_of_each_ability(tmp_path):
    account, _ = divided(tmp_path, made(), shares={"train": 0.5, "validation": 0.25, "test": 0.25})
    rows = Counter(row["ability"] for row in made())
    for part in account["parts"].values():
        for ability, count in rows.items():
            assert abs(part["abilities"][ability] - part["wanted"] * count) <= 2


def test_neither_order_files_nor_workers_move_a_row(tmp_path):
    rows = made()
    _, sides = divided(tmp_path, rows)
    shuffled = list(rows)
    random.Random(5).shuffle(shuffled)
    assert divided(tmp_path, shuffled, "two")[1] == sides
    (tmp_path / "many").mkdir()
    for n in range(4):
        write(tmp_path / "many" / f"{n}.jsonl", shuffled[n::4])
    split_set(tmp_path / "many", tmp_path / "three", SHARES, workers=2)
    split_set(tmp_path / "many", tmp_path / "four", SHARES)
    for part in SHARES:
        lines = [(tmp_path / name / f"{part}.jsonl").read_bytes() for name in ("two", "three", "four")]
        assert lines[1] == lines[2] and sorted(lines[0].splitlines()) == sorted(lines[1].splitlines())


def test_another_seed_divides_otherwise_and_the_same_one_alike(tmp_path):
    rows = made()
    _, sides = divided(tmp_path, rows)
    again, more = divided(tmp_path, rows, "again")[1], divided(tmp_path, rows, "more", seed=7)[1]
    assert again == sides and sum(more[id] != side for id, side in sides.items()) > 20


def test_equal_questions_stay_together_however_short(tmp_path):
    dice = random.Random(3)
    rows = [
        {"id": f"{n}.{m}", "messages": [{"role": "user", "content": f"Order {n}?"},
                                        {"role": "assistant", "content": sentence(dice)}]}
        for n, m in [(n, m) for n in range(60) for m in range(2)]
    ]  # fmt: skip
    _, sides = divided(tmp_path, rows)
    assert all(sides[f"{n}.0"] == sides[f"{n}.1"] for n in range(60))
    assert Counter(sides.values()) == {"train": 96, "validation": 12, "test": 12}


def test_a_cleaned_set_is_divided_without_what_was_dropped(tmp_path):
    rows = made(60, 0)
    clean_files(write(tmp_path / "rows.jsonl", [*rows, {**rows[1], "id": "twice"}]), tmp_path / "set")
    account = split_set(tmp_path / "set", tmp_path / "out", SHARES)
    assert account["rows"] == 60 and not (tmp_path / "out" / "dropped.jsonl").exists()
    kept = (tmp_path / "set" / "rows.jsonl").read_bytes()
    inside = tmp_path / "set" / "parts"
    assert (
        split_set(tmp_path / "set", inside, SHARES) == split_set(tmp_path / "set", inside, SHARES) == account
    )
    parts = b"".join((tmp_path / "out" / f"{part}.jsonl").read_bytes() for part in SHARES)
    assert sorted(parts.splitlines()) == sorted(kept.splitlines())  # to the byte


def test_what_cannot_be_divided_is_said_before_anything_is_written(tmp_path):
    dice = random.Random(2)
    text = prose(dice, 12)
    rows = [{"id": str(n), "text": edited(dice, text, 0.02)} for n in range(30)]
    with pytest.raises(WrongUse, match="no row would be in validation and test") as caught:
        divided(tmp_path, rows)
    assert "--near" in caught.value.hint and list((tmp_path / "out").iterdir()) == []
    with pytest.raises(WrongUse, match="output folder is the input's"):
        split_set(tmp_path / "out.jsonl", tmp_path, SHARES)
    (tmp_path / "bad.jsonl").write_text("{broken\n")
    with pytest.raises(WrongUse, match="no rows that can be read"):
        split_set(tmp_path / "bad.jsonl", tmp_path / "bad", SHARES)


@pytest.mark.parametrize("text", ["80", "1,2,3,4", "80,-1,10", "a,b", "nan,1", "0,1,1", ""])
def test_shares_that_are_none(text):
    with pytest.raises(ValueError):
        parts_of(text)


def test_shares_of_two_and_three():
    assert parts_of("90,10") == {"train": 0.9, "test": 0.1}
    assert parts_of("8,1,1") == SHARES


def test_no_chain_of_near_rows_is_cut(tmp_path):
    """A like B, B like C: all on one side, though A and C share less than half."""
    dice = random.Random(6)
    rows = []
    for n in range(40):
        text = prose(dice)
        for link in "abc":
            rows.append({"id": f"{n}{link}", "text": text})
            text = edited(dice, text, 0.05)
    _, sides = divided(tmp_path, rows)
    for n in range(40):
        assert len({sides[f"{n}{link}"] for link in "abc"}) == 1


def held_out_of(tmp_path, rows, name, **clean_words):
    raw = write(tmp_path / f"{name}.jsonl", rows)
    source = {"path": raw.name, "map": {}}
    order = {
        "sources": [source],
        "root": str(tmp_path),
        "clean": {"dedup": "none", **clean_words},
        "eval": {},
    }
    out = Store(tmp_path / name).draft("dataset", "k" * 64, "clean", {}, {})
    clean(Inputs(), order, out, Watch())
    number = {f"{name}.jsonl:{n}": row["id"] for n, row in enumerate(rows, 1)}
    lines = (out.folder / "test.jsonl").read_bytes().splitlines()
    assert check(order)["held_out"] == len(lines)
    return {number[json.loads(line)["id"]] for line in lines}


def test_held_out_rows_of_a_recipe_are_not_nearly_trained(tmp_path):
    """`split: near`; without it, and without near-duplicates, the rows held out are those of always."""
    rows = made(90, 30)
    near = held_out_of(tmp_path, rows, "near", split="near", test_share=0.2)
    usual = held_out_of(tmp_path, rows, "usual", test_share=0.2)
    pairs = [(f"r{n}", f"near{n}") for n in range(30)]
    assert len(near) >= 20 and all((a in near) == (b in near) for a, b in pairs)
    assert any((a in usual) != (b in usual) for a, b in pairs)
    alone = made(90, 0)
    assert held_out_of(tmp_path, alone, "one", split="near") == held_out_of(tmp_path, alone, "two")


def test_a_large_group_stays_in_training(tmp_path):
    dice = random.Random(4)
    text = prose(dice, 12)
    rows = [{"id": f"l{n}", "text": edited(dice, text, 0.02)} for n in range(60)] + made(60, 0)
    held = held_out_of(tmp_path, rows, "large", split="near", test_share=0.1)
    assert held and not any(id.startswith("l") for id in held)


def test_training_rows_that_ask_nearly_the_same_share_a_group(tmp_path):
    """So that a stage holds none of them out beside the others (`val_size`); only with `split: near`."""
    dice = random.Random(6)
    rows = []
    for n in range(20):
        text = prose(dice)
        rows += [{"id": f"{n}a", "text": text}, {"id": f"{n}b", "text": edited(dice, text, 0.05)}]
    rows += [{"id": f"{n}", "text": prose(dice)} for n in range(20)]
    groups = {}
    for words in ({"split": "near"}, {}):
        held_out_of(tmp_path, rows, f"s{len(words)}", **words)
        written = next((tmp_path / f"s{len(words)}").rglob("train.jsonl")).read_bytes().splitlines()
        taught = [json.loads(line) for line in written]
        own = {rows[int(row["id"].split(":")[1]) - 1]["id"]: row.get("group") for row in taught}
        groups[len(words)] = own
    pairs = [n for n in range(20) if f"{n}a" in groups[1]]
    assert len(pairs) > 10 and all(groups[1][f"{n}a"] == groups[1][f"{n}b"] != None for n in pairs)  # noqa: E711
    assert len({groups[1][f"{n}a"] for n in pairs}) == len(pairs)
    assert all(group is None for name, group in groups[1].items() if name.isdecimal())
    assert set(groups[0].values()) == {None}
