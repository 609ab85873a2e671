"""Whatever `draft` writes, `load` reads, in both languages."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard import recipe
from steelyard.errors import WrongUse

TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
NAME = TEXT.filter(lambda name: name.isprintable() and "/" not in name and name[0] not in ". ")
COLUMNS = st.one_of(
    st.fixed_dictionaries({"user": TEXT, "assistant": TEXT}, optional={"thread": TEXT, "system": TEXT}),
    st.just({}),
)
FILES = st.builds(
    recipe.DataFile,
    path=TEXT.map(lambda name: f"rows/{name}.csv"),
    ability=TEXT,
    format=st.sampled_from([None, "csv"]),
    map=COLUMNS,
    rows=st.none() | st.integers(0, 10**9),
)
ANSWERS = st.builds(
    recipe.Answers,
    name=NAME,
    model=TEXT.filter(lambda name: name.strip().lower() != "auto"),
    data=st.lists(FILES, max_size=3).map(tuple),
    budget=st.none()
    | st.builds(recipe.Money, amount=st.sampled_from([0.05, 5, 1200]), currency=st.just("CNY")),
    deadline=st.sampled_from([None, "8h", "90min"]),
    min_score=st.none() | st.floats(0, 1),
    trust=st.sampled_from(["open", "guarded", "sealed"]),
)


@settings(max_examples=60)
@given(ANSWERS, st.sampled_from(["en", "zh"]))
def test_a_draft_loads_again(answers: recipe.Answers, language: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "steelyard.yaml"
        path.write_text(recipe.draft(answers, language), encoding="utf-8")
        made = recipe.load(path)
    assert (made.name, made.model, made.trust.level) == (answers.name, answers.model, answers.trust)
    assert [(s.path, s.ability, s.map) for s in made.data] == [
        (f.path, f.ability, f.map) for f in answers.data
    ]
    assert bool(made.train) == bool(answers.data)
    assert made.goal.budget == answers.budget
    assert set(made.gate.abilities) == {f.ability for f in answers.data}


def test_comments_are_in_the_language() -> None:
    answers = recipe.Answers(data=(recipe.DataFile(path="工单.csv", ability="客服", rows=3),))
    assert "# one entry a file" in recipe.draft(answers, "en")
    assert "每项能力单独评分" in recipe.draft(answers, "zh")
    with pytest.raises(WrongUse, match="language fr"):
        recipe.draft(answers, "fr")
