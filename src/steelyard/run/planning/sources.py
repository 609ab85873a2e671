"""What the clean step is told of the recipe's data, and the hashes of the files it will read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ...artefact import Settings
from ...recipe import TEACHES, Recipe
from ...sample_size import held_out_needed


def data_settings(recipe: Recipe, clean: Mapping[str, Any] | None = None) -> Settings:
    """Settings of the clean step; `clean` are the plan's, the recipe's where it has not filled them yet.

    `root` says where the paths start and is no part of the key.
    """
    return kinds_of(recipe) | {
        "root": str(recipe.root),
        "sources": [{k: v for k, v in asdict(s).items() if k != "line"} for s in recipe.data],
        "clean": asdict(recipe.clean) | dict(clean or {}),
        "eval": {name: asdict(gate) for name, gate in recipe.gate.abilities.items()},
        "held_out": {name: held_out_needed(loss) for name, loss in recipe.gate.forget.items()},
    }


def kinds_of(recipe: Recipe) -> Settings:
    """{"kinds"}: answers to compare that a stage teaches; {} where none does: they are refused."""
    taught = {TEACHES[stage.stage] for stage in recipe.train} & {"pairs", "labels"}
    return {"kinds": sorted(taught)} if taught else {}


def check_data(recipe: Recipe) -> dict[str, Any]:
    """The account of the recipe's data, or what cleaning would refuse of it; {} where it names none.

    Reads and judges every row, trains nothing. Raises WrongUse at the line of the recipe or of the data.
    """
    if not recipe.data or not recipe.train:
        return {}
    from ...data import check

    settings = data_settings(recipe)
    sources = [source | {"line": s.line} for source, s in zip(settings["sources"], recipe.data, strict=True)]
    return check({**settings, "sources": sources}, recipe.path)


def input_hashes(settings: Settings) -> dict[str, str]:
    """SHA-256 of every file that the settings name, by its name. Raises WrongUse where one is missing."""
    from ...data import fingerprint

    return {f"file:{file['name']}": file["sha256"] for file in fingerprint(settings)}
