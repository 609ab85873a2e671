"""steelyard data trace, data erase, record: on the command line, in both languages."""

from __future__ import annotations

import json

import pytest

from tests.run.lineages import Made


@pytest.fixture
def made(told, tmp_path) -> Made:
    return Made(tmp_path)


def test_trace_then_plan_then_erase_with_a_proof(told, made, tmp_path):
    code, document = told("data", "trace", made.train[3])
    assert code == 0 and document["schema"] == "steelyard.data_trace/1"
    assert [h["kind"] for h in document["holders"]][:3] == ["dataset", "checkpoint", "compressed"]
    code, (out, _) = told("data", "trace", made.train[3], "--lang", "zh", as_json=False)
    assert code == 0 and "模型" in out and "步骤 4" in out
    (tmp_path / "ids").write_text(f"{made.train[3]}\n\n")
    code, plan = told("data", "erase", "--file", "ids")
    assert code == 0 and plan["done"] is False and made.dataset.folder.is_dir()
    code, (out, _) = told("data", "erase", made.train[3], as_json=False)
    assert "nothing was done; add --yes to do it" in out and "yours to change" in out
    code, done = told("data", "erase", made.train[3], "--yes", "--proof", "proof.json")
    assert code == 0 and done["done"] and not made.dataset.folder.exists()
    assert json.loads((tmp_path / "proof.json").read_text())[0]["hash"] == done["proofs"][0]["hash"]
    code, after = told("data", "trace", made.train[3])
    assert code == 0 and after["holders"] == []


def test_what_erase_cannot_read_or_find_is_one_error(told, made, tmp_path):
    for words, error in (
        (("data", "erase"), "cli.usage"),
        (("data", "erase", "--yes"), "cli.usage"),
        (("data", "erase", "rows.jsonl:999"), "data.no_row"),
        (("data", "erase", "--file", "nowhere"), "data.ids_file"),
        (("data", "trace", "x", "--work", str(tmp_path)), "data.no_work"),
    ):
        code, document = told(*words)
        assert (code, document["error"]["code"]) == (2, error)


def test_record_as_a_page_and_as_data(told, made, tmp_path):
    code, (out, _) = told("record", as_json=False)
    assert code == 0 and "to be filled in" in out
    code, _ = told("record", "--output", "record.json")
    assert code == 0 and json.loads((tmp_path / "record.json").read_text())["controller"]["name"] is None
    code, _ = told("record", "--output", "record.md", "--lang", "zh", as_json=False)
    assert "待填写" in (tmp_path / "record.md").read_text()
