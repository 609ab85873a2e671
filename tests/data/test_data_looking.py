"""A person looks at a set: verdicts, evidence, texts without personal data; two rule sets side by side."""

from __future__ import annotations

import random

import pytest

from steelyard.artefact import Inputs, Store, Watch
from steelyard.data import (
    Wanted,
    clean,
    clean_files,
    differences,
    judged_now,
    open_set,
    page_facts,
    plain_settings,
    plain_text,
    show,
    visible,
)
from steelyard.errors import Refused, WrongUse
from tests.data.test_data_whole import edited, prose, write


@pytest.fixture(scope="module")
def rows():
    dice = random.Random(4)
    texts = [prose(dice) for _ in range(30)]
    made = [{"id": f"r{n}", "text": text} for n, text in enumerate(texts)]
    made[3]["text"] += " Write to lucia.brandt@mail.example about it."
    made.append({"id": "near", "text": edited(dice, texts[5], 0.05)})
    made.append({"id": "same", "text": texts[7]})
    made.append({"id": "hidden", "text": texts[8][:90] + "\u200b\u202e" + prose(dice)})
    made.append({"id": "private", "text": prose(dice) + " Call 138 1234 5678."})
    return made


@pytest.fixture
def raw(tmp_path, rows):
    return write(tmp_path / "rows.jsonl", rows)


@pytest.fixture
def cleaned(tmp_path, raw):
    clean_files(raw, tmp_path / "out")
    return tmp_path / "out"


def ids(dataset, **wanted):
    return [row["id"] for row in show(dataset, Wanted(**wanted))]


def test_every_row_is_shown_once_with_its_verdict(cleaned, rows):
    shown = list(show(open_set(cleaned), Wanted()))
    assert sorted(row["id"] for row in shown) == sorted(row["id"] for row in rows)
    by_id = {row["id"]: row for row in shown}
    assert by_id["near"]["reasons"] == ["near_duplicate"] or by_id["r5"]["reasons"] == ["near_duplicate"]
    assert by_id["same"]["reasons"] == ["duplicate"] and by_id["same"]["evidence"] == {"of": "r7"}
    assert by_id["r3"]["kept"] and by_id["r3"]["part"] == "rows.jsonl"
    assert {row["language"] for row in shown} == {"en"} and by_id["r3"]["form"] == "prose"


def test_filters_by_reason_ability_language_and_id(cleaned):
    dataset = open_set(cleaned)
    assert ids(dataset, reasons=("duplicate",)) == ["same"]
    assert ids(dataset, ids=("r1", "same")) == ["r1", "same"]
    assert "same" not in ids(dataset, kept=True) and "same" in ids(dataset, kept=False)
    assert ids(dataset, languages=("zh",)) == [] == ids(dataset, abilities=("code",))
    assert [row["id"] for row in show(dataset, Wanted(), offset=2, limit=3)] == ids(dataset)[2:5]


def test_personal_data_is_shown_replaced_in_kept_and_in_dropped_rows(tmp_path, rows):
    more = [*rows, {"id": "twice", "text": rows[-1]["text"]}]
    raw = write(tmp_path / "rows.jsonl", more)
    clean_files(raw, tmp_path / "out", settings={"pii": "off"})
    shown = {row["id"]: row for row in show(open_set(tmp_path / "out"), Wanted())}
    assert "lucia.brandt" not in plain_text(shown["r3"]) and "<EMAIL_1>" in plain_text(shown["r3"])
    assert shown["twice"]["reasons"] == ["duplicate"] and "1234" not in plain_text(shown["twice"])
    assert shown["twice"]["personal"] == {"phone": 1}


def test_without_its_source_a_dropped_row_has_no_text(cleaned, raw, tmp_path):
    moved = raw.rename(tmp_path / "elsewhere.jsonl")
    [row] = show(open_set(cleaned), Wanted(reasons=("duplicate",)))
    assert row["id"] == "same" and "text" not in row and row["evidence"] == {"of": "r7"}
    [row] = show(open_set(cleaned, source=moved), Wanted(reasons=("duplicate",)))
    assert plain_text(row)


def test_rows_that_share_an_id_are_told_apart(tmp_path):
    text = prose(random.Random(1))
    other = {"id": "b", "text": prose(random.Random(2))}
    raw = write(tmp_path / "rows.jsonl", [{"id": "a", "text": text}] * 3 + [other])
    clean_files(raw, tmp_path / "out")
    shown = list(show(open_set(tmp_path / "out"), Wanted()))
    verdicts = [(row["id"], row["kept"]) for row in shown]
    assert verdicts == [("a", True), ("b", True), ("a", False), ("a", False)]


def test_a_dataset_of_a_run_and_data_nobody_has_cleaned(tmp_path, raw, rows):
    settings = {"sources": [{"path": str(raw), "ability": "essays"}], "clean": {}, "root": str(tmp_path)}
    made = Store(tmp_path / "store").draft("dataset", "k" * 64, "clean", {}, {})
    clean(Inputs(), settings, made, Watch())
    dataset = open_set(made.folder, settings=settings)
    shown = list(show(dataset, Wanted(abilities=("essays",))))
    assert len(shown) == len(rows)
    assert {row["part"] for row in shown if row["kept"]} == {"train.jsonl", "test.jsonl"}
    judged = judged_now("now", settings)
    assert sorted(ids(judged, kept=False)) == sorted(ids(dataset, kept=False))
    assert ids(judged, ids=("same",)) == ["rows.jsonl:32"]  # by the id that the row brought


def test_what_cannot_be_read_is_shown_with_its_cause(tmp_path, raw):
    raw.write_bytes(raw.read_bytes() + b'{"broken\n')
    clean_files(raw, tmp_path / "out")
    [row] = show(open_set(tmp_path / "out"), Wanted(reasons=("broken_json",)))
    assert row["id"] == "rows.jsonl:35" and row["why"] and "ability" not in row


def test_bad_sets_are_named(tmp_path):
    with pytest.raises(WrongUse, match="no set and no file"):
        open_set(tmp_path / "nothing")
    (tmp_path / "train.jsonl.sealed").write_bytes(b"x")
    with pytest.raises(Refused, match="sealed"):
        open_set(tmp_path)


def test_two_rule_sets_on_one_file(raw, rows):
    usual = judged_now("usual", plain_settings(raw))
    exact = judged_now("exact", plain_settings(raw, {"dedup": "exact"}))
    told = differences(usual, exact)
    assert told["rows"] == len(rows) and told["by_a"]["by_reason"] == {"near_duplicate": 1}
    [sample] = told["by_a"]["samples"]["near_duplicate"]
    assert sample["evidence"]["jaccard"] >= 0.5 and sample["text"] and not sample["kept"]
    assert told["by_b"]["rows"] == 0 and told["other_reason"] == []
    assert told["both_kept"] + told["both_dropped"] + told["by_a"]["rows"] == told["rows"]
    assert differences(exact, usual)["by_b"] == told["by_a"]


def test_two_cleaned_sets_and_rows_that_one_never_met(tmp_path, raw, cleaned, rows):
    more = write(tmp_path / "more.jsonl", [*rows, {"id": "new", "text": prose(random.Random(9))}])
    clean_files(more, tmp_path / "two", settings={"dedup": "none"})
    told = differences(open_set(cleaned), open_set(tmp_path / "two"))
    assert told["by_a"]["by_reason"] == {"duplicate": 1, "near_duplicate": 1} and told["only_in_b"] == 1
    assert told["rows"] == len(rows)


@pytest.mark.parametrize("sign", ["\x1b", "\x00", "\u202e", "\u200b", "\x9b", "\U000e0041", "\ud800"])
def test_signs_that_hide_are_made_visible(sign):
    assert sign not in visible(f"a{sign}b") and visible("a\tb\n中文") == "a\tb\n中文"


def test_what_the_page_shows(tmp_path, rows):
    dice = random.Random(8)
    more = [{**row, "licence": "cc-by-4.0"} for row in rows] + [
        {"id": "zh", "text": "北方的港口很繁忙，" * 3}
    ]
    more += [{"id": f"again{n}", "text": edited(dice, rows[5]["text"], 0.04)} for n in range(4)]
    clean_files(write(tmp_path / "rows.jsonl", more), tmp_path / "out")
    facts = page_facts(open_set(tmp_path / "out"), max_length=100)
    assert facts["rows"] == len(more) == facts["kept"] + facts["dropped"]
    counts = {one["reason"]: one for one in facts["reasons"]}
    assert counts["kept"]["rows"] == facts["kept"] and counts["duplicate"]["languages"] == {"en": 1}
    assert sum(one["rows"] for one in facts["reasons"]) == facts["rows"]
    assert sum(one["rows"] for one in facts["lengths"]["bins"]) == facts["kept"]
    assert 0 < facts["lengths"]["over"] <= facts["kept"] and facts["licences"] == {"cc-by-4.0": facts["kept"]}
    [cluster] = facts["clusters"]
    assert cluster["rows"] == 6 and cluster["kept"]["kept"] and len(cluster["dropped"]) == 3
    assert all(len(group["rows"]) <= 10 for group in facts["samples"])
    assert {g["of"] for g in facts["samples"] if (g["reason"], g["language"]) == ("kept", "en")} == {
        facts["kept"]
    }
    [ability] = facts["abilities"]
    assert (ability["ability"], ability["share"], ability["parts"]) == (
        "main",
        1.0,
        {"rows.jsonl": facts["kept"]},
    )
    assert "lucia.brandt" not in str(facts)
    assert page_facts(open_set(tmp_path / "out"), max_length=100) == facts
