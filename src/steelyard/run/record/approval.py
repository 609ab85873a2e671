"""The approval of a second role: signed by a key that the recipe names, it says that a model may be served.

It names the model, the verdict and the recipe by hash: of another one it is none. Not here: who makes it
(leaving/approving.py). `serve` on an artefact asks for it too: run.json says whether one is wanted, and the
verdict is compared where that run has one on the artefact which can be read without a key.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...errors import CheckFailed, Refused, Where
from ...recipe import Recipe
from ...trust import Statement, Trust, load_trusted, read_signed

KIND = "urn:steelyard:approval:1"
NAME = "approval.json"  # in the run's folder
ASKED = "approve"  # in run.json: what the recipe of the last run asks for


def approvers(recipe: Recipe) -> Trust | None:
    """Whose approval the recipe asks for; None: nobody's. Raises WrongUse for what is no public key."""
    names = recipe.gate.approve
    return Trust([load_trusted(recipe.root / name) for name in names]) if names else None


def check_approved(recipe: Recipe, folder: Path, model: str, verdict: str | None) -> None:
    """Raises Refused where the recipe asks for an approval, and there is none of this model and verdict."""
    trust = approvers(recipe)
    if trust is None:
        return
    wanted = {"model": model, "verdict": verdict, "recipe": recipe.hash}
    if why := missing(folder, trust, wanted):
        raise Refused(
            "serve.not_approved",
            f"the model has passed its gate, and {' or '.join(recipe.gate.approve)} has not approved it",
            where=Where(str(recipe.path), field="gate.approve"), why=why, hint=approve_it(folder),
        )  # fmt: skip


def missing(folder: Path, trust: Trust, wanted: dict[str, str | None]) -> str | None:
    """Why the approval that lies in `folder` is none of what is `wanted`; None where it is one."""

    def fault_of(statement: Statement) -> str | None:
        stated = {**statement.predicate, "model": statement.sha256}
        other = [name for name, value in wanted.items() if stated.get(name) != value]
        return f"it is of another {other[0]}" if other else None

    path = folder / NAME
    try:
        read_signed(path, trust, KIND, fault_of)
    except CheckFailed as e:
        return (e.why or e.message) if path.exists() else f"there is no {path}"
    return None


def approve_it(folder: Path) -> str:
    return f"its owner: steelyard approve {folder} --key KEY; then the same command again"


# ------------------------------------------------------------------ an artefact that `serve` is given


def asked_of(recipe: Recipe) -> dict[str, Any]:
    """What run.json says of it; nothing where the recipe asks for no approval."""
    keys = [str(recipe.root / name) for name in recipe.gate.approve]
    return {ASKED: {"keys": keys, "recipe": recipe.hash}} if keys else {}


def unapproved(artefact: Path) -> Refused | None:
    """Why others may not be given this artefact: its run's recipe asks for an approval that is not there.

    `artefact` may be a link to one, or a file in it. None for what is no artefact of such a run. Raises
    WrongUse where a public key cannot be read.
    """
    places = [path for path in _ways_to(artefact) if path.parent.name == "artefacts"]
    runs = ((path, path.parents[1], read_json(path.parents[1] / "run.json").get(ASKED)) for path in places)
    return next(
        (refused for path, run, asked in runs if asked and (refused := _refused(path, run, asked))), None
    )


def _ways_to(path: Path) -> list[Path]:
    """Where it lies, links followed, and as it is named, as a store may be a link; with the folders above."""
    named = os.path.expanduser(path)
    ends = [Path(end) for end in dict.fromkeys((os.path.realpath(named), os.path.abspath(named)))]
    return [place for end in ends for place in (end, *end.parents)]


def _refused(artefact: Path, folder: Path, asked: dict[str, Any]) -> Refused | None:
    trust = Trust([load_trusted(Path(name)) for name in asked["keys"]])
    wanted = {"model": read_json(artefact / "manifest.json").get("hash"), "recipe": asked["recipe"]}
    wanted |= _verdict_on(wanted["model"], folder)
    if (why := missing(folder, trust, wanted)) is None:
        return None
    names = " or ".join(Path(name).name for name in asked["keys"])
    return Refused(
        "serve.not_approved",
        f"the recipe of {artefact.name} asks for an approval, and {names} has not approved this model",
        where=Where(str(artefact)), why=why,
        hint=approve_it(folder) + "; on 127.0.0.1 it may be looked at without",
    )  # fmt: skip


def _verdict_on(model: str | None, folder: Path) -> dict[str, str | None]:
    """{"verdict": hash} of the last run's on this model; nothing where it has none, or under seal."""
    names = read_json(folder / "run.json").get("artefacts", ())
    verdicts = (
        folder / "artefacts" / name / "manifest.json" for name in names if name.startswith("verdict-")
    )
    for one in map(read_json, verdicts):
        if any(part.get("hash") == model for part in one.get("inputs", ())):
            return {"verdict": one.get("hash")}
    return {}


def read_json(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        value = json.loads(path.read_text(encoding="utf-8"))
        return value if isinstance(value, dict) else {}
    return {}
