"""The teacher of each stage `distil`: found, of the model's own vocabulary, known by its content."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ...artefact import Watch
from ...errors import Problem, Where, WrongUse
from ...model import ModelSource, resolve
from ...planner import Fill
from ...recipe import Recipe, writes
from ...shape import read, read_json
from .facts import base_of

FIELD = "teacher_model_name_or_path"


def check_teachers(recipe: Recipe, base: Path) -> None:
    """Whatever is wrong with a teacher, before anything is trained. Raises WrongUse at its place.

    Vocabularies are compared where both models are folders; of a GGUF file once it is converted.
    """
    for number, stage in enumerate(recipe.train):
        if stage.teacher_model_name_or_path:
            source = teacher_of(recipe, number)
            if base.is_dir() and source.path.is_dir():
                check_vocabulary(recipe, number, base, source.path)


def with_teachers(recipe: Recipe, filled: Fill, base: Path, watch: Watch) -> Fill:
    """The same settings; those of a stage `distil` with the teacher's folder and its content."""
    stages: list[dict[str, Any]] = [dict(settings) for settings in filled.settings["train"]]
    for number, stage in enumerate(recipe.train):
        if stage.teacher_model_name_or_path:
            teacher = base_of(teacher_of(recipe, number), watch)
            check_vocabulary(recipe, number, base, teacher.folder)
            # Where it lies is no part of the key, what it is, is.
            stages[number] |= {
                **{"teacher": str(teacher.folder.resolve()), "teacher_hash": teacher.hash},
                "teacher_params": read(teacher.folder).params,
            }
    return replace(filled, settings={**filled.settings, "train": stages})


def with_sizes(recipe: Recipe, filled: Fill) -> Fill:
    """The same settings; those of a stage with a teacher have its number of weights, for the predictions."""
    stages: list[dict[str, Any]] = [dict(settings) for settings in filled.settings["train"]]
    for number, stage in enumerate(recipe.train):
        if stage.teacher_model_name_or_path:
            stages[number]["teacher_params"] = read(teacher_of(recipe, number).path).params
    return replace(filled, settings={**filled.settings, "train": stages})


def teacher_of(recipe: Recipe, number: int) -> ModelSource:
    """A stage's teacher. Raises what `resolve` does."""
    name = recipe.train[number].teacher_model_name_or_path or ""
    where = Where(str(recipe.path), field=f"train.{number}.{FIELD}")
    try:
        return resolve(name, recipe.root)
    except Problem as problem:
        problem.where = where
        raise


def teacher_family(recipe: Recipe, number: int) -> str | None:
    """Of the teacher of a stage; None where it has none."""
    if not recipe.train[number].teacher_model_name_or_path:
        return None
    return family_in(teacher_of(recipe, number).path)


def family_in(source: Path) -> str:
    """model_type of a model folder, or of what a GGUF file becomes."""
    if source.is_dir():
        return str(read_json(source / "config.json").get("model_type"))
    return read(source).family


def check_vocabulary(recipe: Recipe, number: int, base: Path, teacher: Path) -> None:
    """Raises WrongUse where a token of one is another one of the other: its words would be taught wrong."""
    from ...model import Tokenizer  # and with it a template engine, which no other plan needs

    differs = Tokenizer(base).first_difference(Tokenizer(teacher))
    rows, taught_rows = read(base).vocab, read(teacher).vocab
    if differs is None and (taught_rows == rows or not writes(recipe.train[number])):
        return
    why = f"its head has {taught_rows} rows, the model's {rows}"
    if differs is not None:
        token, own, other = differs
        why = f"token {token} is {own!r} here and {other!r} there"
    name = recipe.train[number].teacher_model_name_or_path
    raise WrongUse(
        "train.teacher_vocabulary",
        f"the teacher {name} has another vocabulary than the model",
        where=Where(str(recipe.path), field=f"train.{number}.{FIELD}"),
        why=why,
        hint="take a teacher of the same family, with the same tokenizer",
    )
