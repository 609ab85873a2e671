"""Which engine trains each stage, and why: into the settings and origins of a plan.

Not here: what an engine can do (training), what a step of it takes (planner: of the engine own).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import Problem, Where
from ...planner import Fill
from ...recipe import Recipe, Stage
from ...shape import read, read_json
from ...training import CAPABILITIES, TrainNeed, choose


def family_in(source: Path) -> str:
    """model_type of a model folder, or of what a GGUF file becomes."""
    if source.is_dir():
        return str(read_json(source / "config.json").get("model_type"))
    return read(source).family


def with_engines(recipe: Recipe, filled: Fill, family: str) -> Fill:
    """The same settings with an engine for each stage. Raises WrongUse where none can train it, Lacking where
    the one that could is not installed, both with the place in the recipe."""
    stages, origins = [], dict(filled.origins)
    for number, (stage, settings) in enumerate(zip(recipe.train, filled.settings["train"], strict=True)):
        name = f"train.{number}"
        engine, why = _chosen(recipe, stage, name, family)
        stages.append({**settings, "engine": engine, **_more(engine, stage)})
        origins[f"{name}.engine"] = "recipe" if stage.engine else f"plan: {why}"
        origins[f"{name}.device"] = "recipe" if stage.device else "plan: untested ones are used by name alone"
    return replace(filled, settings={**filled.settings, "train": stages}, origins=origins)


def _chosen(recipe: Recipe, stage: Stage, name: str, family: str) -> tuple[str, str]:
    need = TrainNeed(
        family=family,
        stage=stage.stage,
        finetuning_type=stage.finetuning_type,
        device=stage.device or "cpu",
    )
    try:
        return choose(need, stage.engine or "auto")
    except Problem as problem:
        problem.where = Where(str(recipe.path), field=f"{name}.engine")
        raise


def _more(engine: str, stage: Stage) -> dict[str, Any]:
    """What else makes an engine's bits, of those that are not of this environment."""
    capability = CAPABILITIES[engine]()
    if not capability.versions:
        return {}
    return {"device": stage.device or "cpu", "versions": dict(capability.versions)}


def engine_document(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each stage: its engine, its device, and whether anybody has run it there."""
    rows = []
    for stage in settings.get("train") or ():
        engine, device = stage.get("engine", "own"), stage.get("device", "cpu")
        untested = device in CAPABILITIES[engine]().untested
        rows.append({"engine": engine, "device": device, "untested": untested})
    return rows
