"""The adapter that a first stage goes on from: found, of this base, its sizes those of the stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ...artefact import adopt
from ...errors import WrongUse
from ...model import Adapter, check_base, read_adapter
from ...planner import Fill
from ...recipe import Recipe

FIELD = "adapter_name_or_path"
LIFTED = "goal.lift.adapters"


def with_adapters(recipe: Recipe, filled: Fill, base: Path, base_hash: str | None = None) -> Fill:
    """The same settings; those of a stage with an adapter have its folder, its content, and its sizes.

    Raises WrongUse at its place in the recipe, before anything is trained. What a GGUF file holds is compared
    once it is converted.
    """
    stages: list[dict[str, Any]] = [dict(settings) for settings in filled.settings["train"]]
    origins = dict(filled.origins)
    for number, stage in enumerate(recipe.train):
        if stage.adapter_name_or_path:
            adapter = _checked(recipe, number, base, base_hash)
            stages[number] |= {
                **{"lora_rank": adapter.rank, "lora_alpha": adapter.alpha},
                "target_modules": adapter.target_modules,
                "adapter": str(adapter.folder.resolve()),
                "adapter_hash": adopt(adapter.folder, "adapter").hash,
            }
            names = ("lora_rank", "lora_alpha", "target_modules")
            origins |= {f"train.{number}.{name}": "plan: the adapter's own" for name in names}
    if recipe.goal.lift and recipe.goal.lift.adapters:
        stages[0] |= _standing(recipe, stages[0]["lift"], base, base_hash)
    return replace(filled, settings={**filled.settings, "train": stages}, origins=origins)


def _standing(recipe: Recipe, lift: dict[str, Any], base: Path, base_hash: str | None) -> dict[str, Any]:
    """The adapters that a lift merges with: where they lie, and what they are."""
    assert recipe.goal.lift is not None
    found = [checked(recipe, name, LIFTED, base, base_hash) for name in recipe.goal.lift.adapters]
    hashes = [adopt(adapter.folder, "adapter").hash for adapter in found]
    folders = [str(adapter.folder.resolve()) for adapter in found]
    return {"adapters": folders, "lift": {**lift, "adapter_hashes": hashes}}


def _checked(recipe: Recipe, number: int, base: Path, base_hash: str | None) -> Adapter:
    name = recipe.train[number].adapter_name_or_path or ""
    return checked(recipe, name, f"train.{number}.{FIELD}", base, base_hash)


def checked(recipe: Recipe, name: str, field: str, base: Path, base_hash: str | None) -> Adapter:
    """The adapter of a folder, of this base. Raises WrongUse at the field that names it."""
    try:
        adapter = read_adapter(recipe.root / name)
        if base.is_dir():
            check_base(adapter, base, base_hash)
    except WrongUse as problem:
        if problem.where is not None:
            problem.where = replace(problem.where, file=str(recipe.path), field=field)
        raise
    return adapter
