"""What a bill of a model says of it: its files by hash, its manifest where it is an artefact, its licence.

Not here: the form of a bill (trust/bill).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...artefact import Store, adopt
from ...errors import Where, WrongUse

FRONT = re.compile(r"\A---\n(.*?)\n---", re.DOTALL)  # of a model card
LICENCE = re.compile(r"^license(?:_name)?: *['\"]?([^'\"\n]+?)['\"]? *$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    name: str
    manifest: dict[str, Any]
    artefact: bool
    licence: str | None


def model_facts(folder: Path) -> ModelFacts:
    """Of an artefact every file is checked first. Raises WrongUse, CheckFailed, Refused (sealed)."""
    if not folder.is_dir():
        raise WrongUse(
            "sbom.no_model",
            f"there is no model folder {folder}",
            where=Where(str(folder)),
            hint="name an artefact of a run, or a model's folder",
        )
    place = folder.absolute()
    is_artefact = any((place / f"manifest.json{ending}").is_file() for ending in ("", ".sealed"))
    artefact = Store(place.parent).open(place) if is_artefact else adopt(place)
    if is_artefact:
        artefact.check()
    if not artefact.manifest["files"]:
        raise WrongUse(
            "sbom.empty",
            f"there is no file in {folder}",
            where=Where(str(folder)),
            hint="name an artefact of a run, or a model's folder",
        )
    return ModelFacts(place.name, artefact.manifest, is_artefact, licence_in(place))


def licence_in(folder: Path) -> str | None:
    """What the model card says; None where there is none."""
    try:
        with (folder / "README.md").open(encoding="utf-8", errors="replace") as file:
            front = FRONT.match(file.read(1 << 16))
    except OSError:
        return None
    found = LICENCE.search(front.group(1)) if front else None
    return found.group(1) if found else None
