"""A document of another version: read by what it has, or one clear error."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.errors import CheckFailed
from steelyard.older import read_as


@dataclass(frozen=True)
class Kind:
    name: str
    count: int = 3
    more: dict[str, int] = field(default_factory=dict)


@given(st.dictionaries(st.sampled_from(["name", "count", "more", "later"]), st.integers()))
def test_what_is_there_is_read_and_the_rest_has_its_default(document):
    if "name" not in document:
        with pytest.raises(ValueError, match="without name"):
            read_as(Kind, document)
        return
    expected = asdict(Kind("x")) | {k: v for k, v in document.items() if k != "later"}
    assert asdict(read_as(Kind, document)) == expected


@pytest.mark.parametrize("document", [None, [], "text", 3])
def test_no_document_is_a_value_error(document):
    with pytest.raises(ValueError, match="no Kind"):
        read_as(Kind, document)


def test_the_journal_of_another_version_is_one_clear_error(tmp_path):
    from steelyard.cluster.driving.journal import replayed

    fleet = {"fleet": {"training": 1, "serving": 0, "policy": "shared", "nodes": []}}
    decision = {"kind": "warn", "seq": 1, "epoch": 1, "later": 1}
    rows = (
        {"event": {"kind": "Elsewhere", "t_s": 1.0}, "decisions": []},
        {"event": {"kind": "Cancel", "t_s": 1.0}, "decisions": []},  # without its job
        {"event": {"kind": "Tick", "t_s": 1.0}, "decisions": [decision]},  # without its devices
    )
    for row in rows:
        path = tmp_path / "journal.jsonl"
        path.write_text("".join(f"{json.dumps(line)}\n" for line in (fleet, row)))
        with pytest.raises(CheckFailed) as caught:
            replayed(path)
        assert caught.value.code == "jobs.journal" and caught.value.hint
    path.write_text(json.dumps({"fleet": {"training": 1}}) + "\n" + json.dumps(rows[0]) + "\n")
    with pytest.raises(CheckFailed, match="another version"):
        replayed(path)


def test_an_erasure_that_another_version_began(tmp_path, monkeypatch):
    from steelyard.run.erasing.order import begun_orders, folder_of

    monkeypatch.setenv("STEELYARD_STATE", str(tmp_path))
    order = {"id": "1", "begun": "now", "rows": [{"id": "a", "hash": "b", "why": "asked"}], "works": []}
    order |= {"copies": [], "stored": [], "left": [], "later": 1}
    path = folder_of("orders") / "1.json"
    path.write_text(json.dumps(order))
    (read,) = begun_orders()
    assert read.hashes == {"b"} and not read.remake
    for text in ('{"id": "1"}', "[]", "{"):
        path.write_text(text)
        with pytest.raises(CheckFailed) as caught:
            begun_orders()
        assert caught.value.code == "data.erase_order" and caught.value.where.file == str(path)
