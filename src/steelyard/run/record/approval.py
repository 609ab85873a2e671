"""The approval of a second role: signed by a key that the recipe names, it says that a model may be served.

It names the model, the verdict and the recipe by hash: of another one it is none. Not here: who makes it
(leaving/approving.py).
"""

from __future__ import annotations

from pathlib import Path

from ...errors import CheckFailed, Refused, Where
from ...recipe import Recipe
from ...trust import Statement, Trust, load_trusted, read_signed

KIND = "urn:steelyard:approval:1"
NAME = "approval.json"  # in the run's folder


def approvers(recipe: Recipe) -> Trust | None:
    """Whose approval the recipe asks for; None: nobody's. Raises WrongUse for what is no public key."""
    names = recipe.gate.approve
    return Trust([load_trusted(recipe.root / name) for name in names]) if names else None


def check_approved(recipe: Recipe, folder: Path, model: str, verdict: str | None) -> None:
    """Raises Refused where the recipe asks for an approval, and there is none of this model and verdict."""
    trust = approvers(recipe)
    if trust is None:
        return

    def fault_of(statement: Statement) -> str | None:
        wanted = {"model": model, "verdict": verdict, "recipe": recipe.hash}
        stated = {**statement.predicate, "model": statement.sha256}
        other = [name for name, value in wanted.items() if stated.get(name) != value]
        return f"it is of another {other[0]}" if other else None

    path = folder / NAME
    try:
        read_signed(path, trust, KIND, fault_of)
    except CheckFailed as e:
        raise Refused(
            "serve.not_approved",
            f"the model has passed its gate, and {' or '.join(recipe.gate.approve)} has not approved it",
            where=Where(str(recipe.path), field="gate.approve"),
            why=e.why or e.message if path.exists() else f"there is no {path}",
            hint=f"its owner: steelyard approve {folder} --key KEY; then the same command again",
        ) from e
