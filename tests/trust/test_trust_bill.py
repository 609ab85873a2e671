"""Bills of material: what is installed with its licences, a model with its files, advisories on a version."""

from __future__ import annotations

import json
from dataclasses import replace
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.cli.main import run as command
from steelyard.errors import WrongUse
from steelyard.trust import Advisories, Part, affected, bill_of_parts, parts, read_advisories
from steelyard.trust.bill.installed import hashes_of
from steelyard.trust.bill.licences import licence_of


@pytest.fixture(scope="module")
def installed() -> list[Part]:
    return parts(extras={"cpu"})


def test_every_locked_dependency_has_its_licence_and_release(installed):
    names = [part.name for part in installed]
    assert names[0] == "steelyard" and {"torch", "cryptography", "orjson", "typer", "openvino"} <= set(names)
    assert not {"pytest", "mypy", "hypothesis"} & set(names)
    assert [part.name for part in installed if part.licence is None] == []
    assert [part.name for part in installed if part.record is None or not part.version] == []


def test_a_bill_names_each_part_once_and_no_other(installed):
    bill = bill_of_parts(installed)
    refs = [bill["metadata"]["component"]["bom-ref"], *(c["bom-ref"] for c in bill["components"])]
    assert len(set(refs)) == len(refs) == len(installed)
    assert {ref for row in bill["dependencies"] for ref in (row["ref"], *row["dependsOn"])} == set(refs)
    assert bill["serialNumber"] == bill_of_parts(installed)["serialNumber"]
    torch = next(c for c in bill["components"] if c["name"] == "torch")
    assert "+" not in torch["purl"] and torch["version"] in torch["purl"].replace("%2B", "+")


def test_files_come_with_the_hashes_of_record(installed):
    alone = [replace(part, needs=()) for part in installed if part.name in ("steelyard", "typer")]
    bill = bill_of_parts(alone, files=True)
    rows = bill["components"][0]["components"]
    assert len(rows) > 5 and all(len(row["hashes"][0]["content"]) == 64 for row in rows)
    record = 'a.py,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0\n"b,c.py",,\nRECORD,,\n'
    assert hashes_of(record) == [("a.py", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")]


class Told:
    """A distribution that says so much of its licence."""

    def __init__(self, folder: Path, fields: dict[str, Any], text: str = "") -> None:
        self.metadata = Message()
        for name, values in fields.items():
            for value in values if isinstance(values, list) else [values]:
                self.metadata[name] = value
        (folder / "LICENSE").write_text(text)
        self.folder, self.files = folder, ["x.py", "LICENSE"] if text else None

    def locate_file(self, name: str) -> Path:
        return self.folder / name


BSD = "Redistribution and use in source and binary forms ... "
MIT = "Permission is hereby granted, free of charge, to any person obtaining a copy"


@pytest.mark.parametrize(
    ("fields", "text", "expected"),
    [
        ({"License-Expression": "mit or apache-2.0"}, "", "MIT OR Apache-2.0"),
        ({"License": "BSD-3-Clause"}, "", "BSD-3-Clause"),
        ({"License": "Apache License 2.0"}, "", "Apache-2.0"),
        ({"License": "BSD", "Classifier": ["License :: OSI Approved :: BSD License"]}, BSD, "BSD-2-Clause"),
        ({"License": "BSD"}, BSD + "Neither the name of ...", "BSD-3-Clause"),
        ({"Classifier": ["License :: OSI Approved :: MIT License"]}, "", "MIT"),
        ({"Classifier": ["License :: OSI Approved :: Apache Software License",
                         "License :: OSI Approved :: MIT License"]}, "", "Apache-2.0 AND MIT"),
        ({"License": "Apache License\n   Version 2.0, January 2004 " + "x" * 100}, "", "Apache-2.0"),
        ({"License": "see the file"}, MIT, "MIT"),
        ({"License": "proprietary"}, "All rights reserved", None),
        ({}, "", None),
    ],
)  # fmt: skip
def test_a_licence_is_read_from_what_there_is(tmp_path, fields, text, expected):
    assert licence_of(Told(tmp_path, fields, text)) == expected  # type: ignore[arg-type]


# ------------------------------------------------------------------ advisories


def known(*intervals: dict[str, str], versions: tuple[str, ...] = ()) -> Advisories:
    row = {
        "id": "PYSEC-1",
        "aliases": ["CVE-1"],
        "package": "x",
        "ranges": list(intervals),
        "versions": versions,
    }
    return Advisories("test", "2026-01-01", [row])


def part(version: str, name: str = "x") -> Part:
    return Part(name, version, "MIT", None)


@pytest.mark.parametrize(
    ("version", "hit"),
    {"0.9": True, "1.9.9": True, "2.0rc1": True, "2.0": False, "2.0.post1": False, "2.5": True, "3.0": True,
     "3.0.1": False, "1.0+cpu": True, "4.0": False, "4.1": True, "4.1+cpu": True}.items(),
)  # fmt: skip
def test_a_version_is_affected_from_its_introduction_to_its_fix(version, hit):
    first, second = {"introduced": "0", "fixed": "2.0"}, {"introduced": "2.5", "last_affected": "3.0"}
    found = affected([part(version), part(version, "other")], known(first, second, versions=("4.1",)))
    assert len(found) == hit
    if hit and version < "2":
        assert (found[0].fixed, found[0].aliases) == ("2.0", ("CVE-1",))


VERSIONS = st.tuples(*[st.integers(0, 20)] * 3).map(lambda v: ".".join(map(str, v)))


@given(VERSIONS, VERSIONS, VERSIONS)
def test_intervals_are_half_open(begin, end, version):
    number = [tuple(map(int, v.split("."))) for v in (begin, version, end)]
    found = affected([part(version)], known({"introduced": begin, "fixed": end}))
    assert bool(found) == (number[0] <= number[1] < number[2])


def test_the_shipped_list_is_sound_and_says_its_age(installed):
    shipped = read_advisories()
    assert shipped.age_days > 0 and "PyPA" in shipped.source and len(shipped.rows) > 100
    assert all(row["id"] and (row["ranges"] or row["versions"]) for row in shipped.rows)
    assert affected([part("1.0", row["package"]) for row in shipped.rows], shipped)
    assert affected(installed, shipped) == []


OSV = """
id: GHSA-x
modified: "2026-05-01T00:00:00Z"
aliases: [CVE-2]
affected:
- package: {name: Some_Package, ecosystem: PyPI}
  ranges:
  - type: GIT
    events: [{introduced: "0"}, {fixed: abc}]
  - type: ECOSYSTEM
    events: [{introduced: "0"}, {fixed: "1.5"}, {introduced: "2"}]
- package: {name: other, ecosystem: npm}
"""


def test_a_folder_of_osv_files_is_a_list(tmp_path):
    (tmp_path / "a.yaml").write_text(OSV)
    gone = {
        "id": "b",
        "withdrawn": "2026-01-01",
        "affected": [{"package": {"name": "y", "ecosystem": "PyPI"}}],
    }
    (tmp_path / "b.json").write_text(json.dumps(gone))
    (tmp_path / "c.json").write_text("[]")
    found = read_advisories(tmp_path)
    assert (found.date, [row["package"] for row in found.rows]) == ("2026-05-01", ["some-package"])
    hits = [v for v in ("1.4", "1.5", "2.1") if affected([part(v, "some-package")], found)]
    assert hits == ["1.4", "2.1"]


@pytest.mark.parametrize("text", ["", "[]", '{"schema": "x"}', "\x00"])
def test_what_is_no_list_is_refused(tmp_path, text):
    (tmp_path / "list.json").write_text(text)
    for path in (tmp_path / "list.json", tmp_path / "none"):
        with pytest.raises(WrongUse):
            read_advisories(path)


# ------------------------------------------------------------------ the command line


def test_the_command_line(tmp_path, capsys):
    assert command(["sbom", "--output", str(tmp_path / "sbom.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unknown_licences"] == []
    assert json.loads((tmp_path / "sbom.json").read_text())["specVersion"] == "1.6"
    assert command(["sbom", "--check", "--json"]) == 0
    checked = json.loads(capsys.readouterr().out)
    assert checked["affected"] == [] and checked["age_days"] > 0
    row = {"id": "X-1", "aliases": [], "package": "typer", "ranges": [{"introduced": "0"}]}
    own = {"schema": "steelyard.advisories/1", "source": "own", "date": "2026-01-01", "advisories": [row]}
    (tmp_path / "own.json").write_text(json.dumps(own))
    assert command(["sbom", "--check", "--advisories", str(tmp_path / "own.json"), "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["affected"][0]["id"] == "X-1"
    assert command(["sbom", "--check", "--files"]) == 2


def test_a_model_is_its_files_and_what_it_was_made_of(tmp_path, capsys):
    (tmp_path / "m").mkdir()
    (tmp_path / "m/config.json").write_text("{}")
    (tmp_path / "m/README.md").write_text("---\nlicense: apache-2.0\n---\n# model\n")
    assert command(["sbom", str(tmp_path / "m")]) == 0
    subject = json.loads(capsys.readouterr().out)["metadata"]["component"]
    assert [c["name"] for c in subject["components"]] == ["README.md", "config.json"]
    assert (subject["type"], subject["licenses"]) == (
        "machine-learning-model",
        [{"expression": "Apache-2.0"}],
    )
    assert command(["sbom", str(tmp_path / "none")]) == 2
