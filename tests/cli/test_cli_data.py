"""steelyard data: sets shown and compared on the command line, in both languages."""

from __future__ import annotations

import json
import random

import pytest

from tests.data.test_data_whole import edited, prose, write


@pytest.fixture
def rows(tmp_path):
    dice = random.Random(3)
    made = [{"id": f"r{n}", "text": prose(dice)} for n in range(12)]
    return write(tmp_path / "rows.jsonl", [*made, {"id": "again", "text": made[4]["text"]}])


def test_show_pages_through_a_cleaned_set(told, rows):
    assert told("clean", "--input", "rows.jsonl", "--output", "out")[0] == 0
    code, document = told("data", "show", "out", "--dropped")
    assert code == 0 and document["schema"] == "steelyard.data_show/1"
    assert [(row["id"], row["reasons"]) for row in document["rows"]] == [("again", ["duplicate"])]
    code, (out, _) = told("data", "show", "out", "--limit", "2", as_json=False)
    assert code == 0 and out.splitlines()[0] == "r0   rows.jsonl   kept" and out.count("  | ") >= 2
    code, (out, _) = told("data", "show", "out", "--reason", "duplicate", "--lang", "zh", as_json=False)
    assert "丢弃：duplicate" in out and "of r4" in out


def test_only_some_rules(told, tmp_path):
    dice = random.Random(4)
    text = prose(dice) + " Write to ann@mail.example."
    write(tmp_path / "rows.jsonl", [{"text": text}, {"text": text}, {"text": edited(dice, text, 0.03)}])
    _, usual = told("clean", "--input", "rows.jsonl", "--output", "usual")
    assert usual["by_reason"] == {"duplicate": 1, "near_duplicate": 1} and usual["masked"] == {"email": 1}
    _, alone = told("clean", "--input", "rows.jsonl", "--output", "alone", "--only", "duplicate")
    assert alone["by_reason"] == {"duplicate": 1} and alone["masked"] == alone["personal"] == {}
    words = ("--only", "near_duplicate", "--pii", "mask")
    _, near = told("clean", "--input", "rows.jsonl", "--output", "near", *words)
    assert near["by_reason"] == {"near_duplicate": 2} and near["masked"] == {"email": 1}
    assert told("clean", "--input", "rows.jsonl", "--output", "no", "--only", "doubles")[0] == 2


def test_a_hostile_row_moves_no_terminal(told, tmp_path):
    row = {"id": "\x1b[2Jx", "text": "one \x1b]0;owned\x07 two three four five six"}
    write(tmp_path / "bad.jsonl", [row] * 2)
    code, (out, _) = told("data", "show", "bad.jsonl", as_json=False)
    assert code == 0 and "\x1b" not in out and "\\u001b" in out


def test_diff_of_rules_of_recipes_and_a_rule_that_is_none(told, rows, tmp_path):
    code, document = told("data", "diff", "usual", "dedup=none", "--on", "rows.jsonl")
    assert code == 0 and document["by_a"]["by_reason"] == {"duplicate": 1}
    for name, extra in (("a", ""), ("b", "clean: {dedup: none}\n")):
        text = f"model: demo\ndata: [{{path: rows.jsonl}}]\n{extra}train: [{{stage: pt}}]\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    code, both = told("data", "diff", "a.yaml", "b.yaml")
    assert code == 0 and both["by_a"]["by_reason"] == {"duplicate": 1}
    code, (out, _) = told("data", "diff", "a.yaml", "b.yaml", as_json=False)
    assert "1 rows dropped by a.yaml alone" in out and "duplicate, kept by b.yaml" in out
    code, failed = told("data", "diff", "usual", "of=spam", "--on", "rows.jsonl")
    assert code == 2 and failed["error"]["code"] == "cli.usage" and "of=spam" in failed["error"]["message"]


def test_json_holds_the_whole_text(told, tmp_path):
    text = " ".join(f"word{n}" for n in range(400))
    write(tmp_path / "long.jsonl", [{"id": "a", "text": text}])
    code, document = told("data", "show", "long.jsonl")
    assert code == 0 and document["rows"][0]["text"] == text
    assert json.dumps(document)


def test_the_page_of_a_set_by_clean_and_by_data_report(told, rows, tmp_path):
    code, _ = told("clean", "--input", "rows.jsonl", "--output", "out", "--page", "pages/clean.html")
    assert code == 0 and "r4" in (tmp_path / "pages/clean.html").read_text(encoding="utf-8")
    code, document = told("data", "report", "out", "--output", "b.html", "--max-length", "64")
    assert code == 0 and document["report"] == "b.html" and document["lengths"]["max_length"] == 64
    assert (tmp_path / "b.html").is_file() and document["rows"] == 13


def test_split_on_the_command_line(told, rows):
    code, document = told(
        "data", "split", "rows.jsonl", "--output", "parts", "--shares", "50,50", "--seed", "3"
    )
    assert code == 0 and document["groups"] == 12 and document["seed"] == 3
    assert abs(document["parts"]["test"]["rows"] - 6.5) <= 1
    for flag, value in (("--shares", "80"), ("--near", "2"), ("--near", "x")):
        code, failed = told("data", "split", "rows.jsonl", "--output", "p2", flag, value)
        assert code == 2 and failed["error"]["where"]["field"] == flag
