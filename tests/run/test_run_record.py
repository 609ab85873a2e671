"""`record`: what the lineage knows is filled in, what it cannot know is named, no row stands in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lineages import MAIL, Made

from steelyard.report import render_record
from steelyard.run import erase, processing_record


@pytest.fixture
def made(tmp_path, monkeypatch) -> Made:
    monkeypatch.setenv("STEELYARD_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("STEELYARD_CACHE", str(tmp_path / "cache"))
    return Made(tmp_path)


def test_a_record_tells_what_is_known_and_names_each_blank(made):
    record = processing_record()
    (activity,) = record["activities"]
    assert activity["personal_data"]["found"] == {"email": 1} == activity["personal_data"]["masked"]
    assert activity["rows"]["read"] == 36 and activity["sources"][0]["name"] == "rows.jsonl"
    assert next(one["kind"] for one in activity["steps"]) == "dataset"
    assert (
        activity["recipients"]["service"]["this_machine_alone"]
        and activity["security"]["personal_data_masked"]
    )
    assert [Path(one["folder"]).name for one in activity["recipients"]["exports"]] == ["export"]
    blanks = record["to_be_filled_in"]
    assert "controller.name" in blanks and "activities.0.purpose" in blanks
    assert "anna" not in json.dumps(record)
    page = render_record(record)
    assert page.count("**to be filled in**") == len(blanks) and "GDPR Art. 30(1)(b)" in page
    chinese = render_record(record, "zh")
    assert (
        chinese.count("**待填写**") == len(blanks) and "Recipients" not in chinese and "个人信息" in chinese
    )


def test_erasures_stand_in_it(made):
    proof = erase([f"rows.jsonl:{MAIL}"])[0]
    (activity,) = processing_record()["activities"]
    assert activity["retention"]["erased"] == [{"at": proof["finished"], "rows": 1, "proof": proof["hash"]}]
