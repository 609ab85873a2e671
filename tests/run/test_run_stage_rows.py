"""A stage without rows of its kind is refused before the first step, with the line to change."""

from __future__ import annotations

from pathlib import Path

import pytest

from steelyard.errors import WrongUse
from steelyard.planner import DataFacts
from steelyard.recipe import Recipe, Source, Stage
from steelyard.run.planning.facts import with_rows_to_teach


def recipe(*stages):
    train = tuple(Stage(stage=stage) for stage in stages)
    path = Path("recipe.yaml")
    return Recipe(path=path, root=Path(), name="r", model="m", data=(Source(path="a"),), train=train)


@pytest.mark.parametrize(
    "stages, texts, field",
    [
        (("pt",), 0, "train.0.stage"),
        (("pt", "sft"), 0, "train.0.stage"),
        (("pt", "sft"), 10, "train.1.stage"),
    ],
)
def test_a_stage_without_rows_is_refused(stages, texts, field):
    with pytest.raises(WrongUse) as caught:
        with_rows_to_teach(recipe(*stages), DataFacts(rows=10, texts=texts))
    assert caught.value.code == "train.no_rows" and caught.value.where.field == field and caught.value.hint


@pytest.mark.parametrize(
    "stages, texts", [(("sft",), 10), (("sft",), 0), (("pt",), 3), (("pt", "sft"), 3), (("pt",), None)]
)
def test_a_stage_with_rows_goes_on(stages, texts):
    facts = DataFacts(rows=10, texts=texts)
    assert with_rows_to_teach(recipe(*stages), facts) is facts
