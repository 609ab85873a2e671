"""Words for several abilities: mixes by a word, shares beside auto, a lift; one clear error each."""

from __future__ import annotations

import pytest

from steelyard import recipe
from steelyard.errors import WrongUse

DATA = """
model: demo
data:
  - {path: poems.jsonl, ability: poems}
  - {path: code.jsonl, ability: code}
  - {path: more.jsonl, ability: code}
"""


@pytest.fixture
def load(tmp_path):
    def loaded(text: str):
        path = tmp_path / "recipe.yaml"
        path.write_text(DATA + text)
        return recipe.load(path)

    return loaded


@pytest.mark.parametrize(
    ("text", "mix"),
    [
        ("mix: auto", {"poems": "auto", "code": "auto"}),
        ("mix: rows", {}),
        ("mix: equal", {"poems": 1.0, "code": 1.0}),
        ("mix: temperature", {"poems": "temperature", "code": "temperature"}),
        ("mix: {poems: auto, code: 0.25}", {"poems": "auto", "code": 0.25}),
    ],
)
def test_a_word_is_the_mix_of_every_ability(load, text, mix):
    assert load(text).mix == mix


def test_a_lift_is_an_ability_or_a_table(load):
    assert load("goal: {lift: code}").goal.lift == recipe.Lift(ability="code")
    made = load("goal: {lift: {ability: code, routes: [replay, ties], adapters: [a/b]}}")
    assert made.goal.lift == recipe.Lift(ability="code", routes=("replay", "ties"), adapters=("a/b",))
    assert made.origins["goal.lift.ability"].startswith("recipe.yaml:")


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("mix: often", "recipe.bad_value", "'often' is no mix"),
        ("mix: {poems: auto, code: -1}", "recipe.bad_value", "code: -1 is neither"),
        ("mix: {poems: auto, code: 1}", "recipe.impossible_pair", "leave nothing to it"),
        ("mix: {poems: auto, cod: 0.5}", "recipe.unknown_ability", "no data has the ability cod"),
        ("mix: {poems: auto}", "recipe.impossible_pair", "mix leaves out code"),
        ("mix: auto\ntrain: [{stage: dpo}]", "recipe.impossible_pair", "a stage sft or pt"),
        ("gate: {abilities: {code: {min: 1.2}}}", "recipe.bad_value", "not between 0 and 1"),
        ("goal: {lift: cod}", "recipe.unknown_ability", "no data has the ability cod"),
        ("goal: {lift: code}\ntrain: [{beta: 2}]", "recipe.impossible_pair", "beta of its own"),
        ("goal: {lift: code}\nmix: equal", "recipe.impossible_pair", "a mix of its own"),
        ("goal: {lift: code}\ntrain: [{finetuning_type: full}]", "recipe.impossible_pair", "sft with LoRA"),
        ("goal: {lift: {ability: code, routes: [magic]}}", "recipe.bad_value", "'magic'"),
        (
            "goal: {lift: {ability: code, routes: [alone], adapters: [x]}}",
            "recipe.impossible_pair",
            "routes name none of them",
        ),
    ],
)
def test_one_clear_error(load, text, code, words):
    with pytest.raises(WrongUse) as caught:
        load(text)
    assert caught.value.code == code and words in caught.value.message
    assert caught.value.where.line and caught.value.hint


def test_one_ability_has_nothing_to_weigh(tmp_path):
    path = tmp_path / "one.yaml"
    for more in ("mix: auto", "goal: {lift: main}"):
        path.write_text(f"model: demo\ndata: [{{path: a.jsonl}}]\n{more}\n")
        with pytest.raises(WrongUse, match=r"have one|have none"):
            recipe.load(path)


def test_general_text_has_a_budget(load):
    assert load("gate: {general: 3%}").gate.general == 0.03
    assert load("").gate.general is None
