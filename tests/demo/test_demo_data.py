"""The demo's data: the same bytes again, nothing shared by train and test, nothing to gain by copying."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from rapidfuzz import fuzz, process

DEMO = Path(__file__).parents[2] / "demo"


@pytest.fixture(scope="module")
def make():
    spec = importlib.util.spec_from_file_location("make_data", DEMO / "make_data.py")
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["make_data"] = module
    spec.loader.exec_module(module)
    return module


def test_equal_seeds_give_equal_bytes(make):
    assert make.files() == make.files()
    assert make.files(1) != make.files(2)


def test_three_abilities_in_two_languages_with_400_test_rows(make):
    assert len(make.ABILITIES) >= 3
    for ability in make.ABILITIES:
        train, test = make.pairs(ability)
        assert len(train) == make.TRAIN_ROWS
        assert len(test) >= 400
    assert any("\u4e00" <= c <= "\u9fff" for c in make.pairs("tickets")[0][0].user)


@pytest.mark.parametrize("ability", ["logs", "commands", "tickets"])
def test_no_test_row_is_in_the_training_rows(make, ability):
    train, test = make.pairs(ability)
    assert not {pair.user for pair in train} & {pair.user for pair in test}
    assert not {pair.assistant for pair in train} & {pair.assistant for pair in test}


@pytest.mark.parametrize("ability", ["logs", "commands", "tickets"])
def test_copying_the_nearest_training_row_answers_next_to_nothing(make, ability):
    """By construction 0 here; the bound that the issue sets is half of the tuned model's score."""
    train, test = make.pairs(ability)
    asked = [pair.user for pair in train]
    right = 0
    for pair in test:
        nearest = process.extractOne(pair.user, asked, scorer=fuzz.ratio)
        right += train[nearest[2]].assistant == pair.assistant
    assert right / len(test) < 0.3


def test_the_files_are_what_the_recipe_names(make):
    files = make.files()
    recipe = (DEMO / "recipe.yaml").read_text("utf-8")
    for name in files:
        assert name in recipe, name
    table = files["data/工单.csv"].decode("gb18030").splitlines()
    assert table[0] == "场景,问题,回复"
    with pytest.raises(UnicodeDecodeError):
        files["data/工单.csv"].decode("utf-8")
    row = json.loads(files["data/test/logs.jsonl"].splitlines()[0])
    assert row["compare"] == "json"
    assert json.loads(row["messages"][-1]["content"]).keys() == {"svc", "code"}


def test_the_recipe_is_valid(make, tmp_path):
    from steelyard.recipe import load

    (tmp_path / "recipe.yaml").write_bytes((DEMO / "recipe.yaml").read_bytes())
    for name, data in make.files().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    recipe = load(tmp_path / "recipe.yaml")
    assert {source.ability for source in recipe.data} == set(make.ABILITIES)
    assert set(recipe.gate.abilities) == set(make.ABILITIES)
