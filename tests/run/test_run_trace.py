"""`data trace`: a row from its file through splitting, masking and merging to what was made of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from lineages import BEST, CRANE, MAIL, ROWS, TWIN, Made

from steelyard.run import trace
from steelyard.serving.base.store import ObjectStore, Stored, store_folder

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def made(home) -> Made:
    return Made(home)


def kinds(told: Any) -> list[str]:
    return [one.kind for one in told.holders]


def ids(told: Any) -> list[str]:
    return [one.row.id for one in told.found]


def test_a_taught_row_is_in_the_model_its_form_its_copies_and_its_export(made):
    told = trace([made.train[4]])
    assert told.by == "name" and ids(told) == [made.train[4]]
    assert kinds(told) == ["dataset", "checkpoint", "compressed", "cache", "export"]
    assert dict(told.holders[1].steps) == {made.train[4]: (5,)}
    assert all(one.rows == (made.train[4],) for one in told.holders)


def test_a_held_out_row_is_in_the_verdict_and_in_no_model(made):
    told = trace([made.held()[0]])
    assert kinds(told) == ["dataset", "verdict"]


def test_a_row_that_no_step_reached_is_in_the_data_set_alone(made):
    assert kinds(trace([made.unreached])) == ["dataset"]


def test_what_was_merged_stands_with_its_row(made):
    for asked in (f"rows.jsonl:{CRANE}", "crane-a", "the spare keys since the spring"):
        told = trace([asked])
        rows = {one.row.id: one.row for one in told.found}
        assert set(rows) == {f"rows.jsonl:{CRANE}", f"rows.jsonl:{BEST}"}, asked
        assert rows[f"rows.jsonl:{CRANE}"].reasons == ("near_duplicate",)
        assert rows[f"rows.jsonl:{CRANE}"].of == f"rows.jsonl:{BEST}"
    twins = {one.row.id: one.row.why for one in trace([f"rows.jsonl:{TWIN}"]).found}
    assert twins == {f"rows.jsonl:{TWIN}": "asked", "rows.jsonl:4": "merged"}


def test_a_masked_row_is_found_by_what_was_masked_while_its_source_is_there(made):
    told = trace(["anna.lind@example.org"])
    assert told.by == "text" and ids(told) == [f"rows.jsonl:{MAIL}"] and told.found[0].row.masked
    whole = json.dumps(ROWS[MAIL - 1])
    (made.root / "rows.jsonl").unlink()
    assert ids(trace(["anna.lind@example.org"])) == []
    assert ids(trace([whole])) == [f"rows.jsonl:{MAIL}"]  # the whole row by its hash


def test_lines_that_moved_since_mislead_nobody(made):
    path = made.root / "rows.jsonl"
    path.write_text(
        '{"text": "a new first line that stands before all others of the file"}\n' + path.read_text()
    )
    assert ids(trace(["anna.lind@example.org"])) == [f"rows.jsonl:{MAIL}"]
    assert ids(trace(["a new first line that stands before"])) == []


def test_a_hash_names_a_row_and_other_folders_are_left_out_on_request(made, home):
    other = Made(home, "other")
    hash = trace([made.train[4]], made.place.folder).found[0].row.hash
    both = trace([hash[:16]])
    assert [one.work.name for one in both.found] == ["desk", "other"]
    alone = trace([hash], other.place.folder)
    assert {one.work for one in alone.holders if one.work} == {str(other.place.folder)}


def test_uploads_jobs_and_stored_answers_are_looked_through(made):
    row = ROWS[7]
    chat = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
    store = ObjectStore(store_folder("desk"))
    line = json.dumps({"messages": chat}).encode() + b"\n"
    store.folder_of("content")
    store.content("file-1").write_bytes(b'{"messages": []}\n' + line)
    store.content("file-2").write_bytes(b'{"messages": []}\n')
    for name in ("file-1", "file-2"):
        store.put("files", Stored(id=name, owner="local", shown={"id": name, "status": "processed"}))
    job = {"training_file": "file-1", "validation_file": None, "status": "succeeded"}
    store.put("jobs", Stored(id="ftjob-1", owner="local", shown=job, hidden={"checkpoint": "/x"}))
    store.put(
        "responses",
        Stored(id="resp-1", owner="local", shown={"output": [{"text": "see " + row["completion"]}]}),
    )
    store.close()
    told = trace(["rows.jsonl:8"])
    assert kinds(told)[-2:] == ["upload", "job"]
    assert [one.more["id"] for one in told.holders[-2:]] == ["file-1", "ftjob-1"]
    by_text = trace([row["completion"]])
    assert {"upload", "job", "responses"} <= set(kinds(by_text))


def test_a_text_that_other_rows_share_makes_no_upload_a_holder(made):
    store = ObjectStore(store_folder("desk"))
    chat = [{"role": "user", "content": ROWS[34]["prompt"]}, {"role": "assistant", "content": "Ask again."}]
    store.folder_of("content")
    store.content("file-1").write_text(json.dumps({"messages": chat}) + "\n")
    store.put("files", Stored(id="file-1", owner="local", shown={"status": "processed"}))
    store.close()
    assert "upload" not in kinds(trace(["rows.jsonl:35"]))
    assert "upload" in kinds(trace([ROWS[34]["prompt"]]))


def test_a_look_changes_nothing(made):
    (made.checkpoint.folder / "manifest.json").write_text("{half")
    before = sorted(str(p) for p in made.place.folder.rglob("*"))
    told = trace(["rows.jsonl:8"])
    assert sorted(str(p) for p in made.place.folder.rglob("*")) == before
    assert any("checkpoint" in one for one in told.unread)
