"""Licence and consent of a row: counted always, demanded where the recipe says so."""

from __future__ import annotations

import json

import pytest

from steelyard import recipe
from steelyard.data import clean_files
from steelyard.data.row import Row
from steelyard.data.steps import Rules
from steelyard.data.steps.terms import terms, terms_of
from tests.data.test_data_whole import write


def row(**raw):
    return Row("a", "a.jsonl", 1, text="some text", raw={"text": "some text", **raw})


@pytest.mark.parametrize(
    ("raw", "licence", "consent"),
    [
        ({}, "", ""), ({"license": "MIT"}, "MIT", ""),
        ({"licence": "cc-by-4.0", "license": "MIT"}, "cc-by-4.0", ""),
        ({"license": ["MIT", "Apache-2.0"]}, "Apache-2.0 + MIT", ""), ({"consent": True}, "", "given"),
        ({"consent": "no"}, "", "refused"), ({"consent": "已同意"}, "", "given"),
        ({"consent": "拒绝"}, "", "refused"),
        ({"consent": "asked twice"}, "", "asked twice"), ({"licence": None, "consent": None}, "", ""),
    ],
)  # fmt: skip
def test_what_a_row_says(raw, licence, consent):
    assert terms_of(row(**raw)) == (licence, consent)


def test_a_licence_is_known_however_it_is_written():
    allowed = Rules(licences=("Apache 2.0", "CC-BY-4.0"))
    for name in ("apache-2.0", "APACHE_2.0", "cc by 4.0"):
        assert terms(row(license=name), allowed)[1] == []
    for raw in ({}, {"license": "gpl-3.0"}, {"license": ["apache-2.0", "gpl-3.0"]}, {"license": "apache-20"}):
        assert [f.kind for f in terms(row(**raw), allowed)[1]] == ["licence"]


def test_rows_are_counted_and_dropped_only_where_it_is_demanded(tmp_path):
    rows = [
        {"id": "a", "text": "the first row of some words", "license": "MIT", "consent": True},
        {"id": "b", "text": "a second row of other words", "license": "GPL-3.0", "consent": "no"},
        {"id": "c", "text": "and the third one says nothing of it"},
    ]
    raw = write(tmp_path / "rows.jsonl", rows)
    usual = clean_files(raw, tmp_path / "usual")
    assert usual["kept"] == 3 and usual["licences"] == {"GPL-3.0": 1, "MIT": 1}
    assert usual["consent"] == {"given": 1, "refused": 1}
    asked = clean_files(raw, tmp_path / "asked", settings={"licences": ("mit",), "consent": "required"})
    assert asked["by_reason"] == {"licence": 2} and asked["licences"] == {"MIT": 1}
    dropped = (tmp_path / "asked" / "dropped.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["reasons"] for line in dropped] == [["licence", "consent"]] * 2
    plain = clean_files(write(tmp_path / "plain.jsonl", rows[2:]), tmp_path / "plain")
    assert "licences" not in plain and "consent" not in plain


def test_the_words_of_a_recipe(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "x"}\n')
    (tmp_path / "r.yaml").write_text(
        "model: demo\ndata: [{path: rows.jsonl}]\ntrain: [{stage: pt}]\n"
        "clean: {licences: [mit, cc-by-4.0], consent: required, pii_model: models/names}\n"
    )
    clean = recipe.load(tmp_path / "r.yaml").clean
    assert (clean.licences, clean.consent, clean.pii_model) == (
        ("mit", "cc-by-4.0"),
        "required",
        "models/names",
    )
