"""Approve what a run came to: every artefact is read and checked, then the model's hash is signed.

The newest approval has the name that counts; older ones stay beside it as NAME-1.json, NAME-2.json, ...
"""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import count
from pathlib import Path

from ...clock import utc_now
from ...errors import CheckFailed, Where
from ...trust import Signer, sign_statement
from ..record.approval import KIND, NAME
from .receipt import Receipt, described, served, workdir_named

SCHEMA = "steelyard.approval/1"


def approve(run: str, signer: Signer, output: Path | None = None) -> Receipt:
    """Sign that the model of the last run in a folder may be served.

    `run`: its id, name or folder. Raises WrongUse, and CheckFailed for an artefact that is damaged and for a
    model that its gate has refused.
    """
    place = workdir_named(run)
    facts = described(place)
    gate = facts["gate"]
    if gate is not None and gate["verdict"] != "passed":
        raise CheckFailed(
            "approve.not_passed", f"the gate has not passed this model: {gate['verdict']}",
            where=Where(str(place.folder)), hint="nothing was signed; see the report",
        )  # fmt: skip
    subject = served(facts["artefacts"])
    predicate = {
        "schema": SCHEMA,
        "run": facts["run"],
        "recipe": facts["recipe"]["hash"],
        "verdict": gate["hash"] if gate else None,
        "made": utc_now(),
    }
    path = output or place.folder / NAME
    older = keep_older(path)
    try:
        sign_statement(path, signer, KIND, (facts["recipe"]["name"], subject["hash"]), predicate)
    except BaseException:
        if older:
            older.unlink()
        raise
    return Receipt(path, subject["hash"], predicate | {"checks": gate["checks"] if gate else []})


def keep_older(path: Path) -> Path | None:
    """What lies there has the next free number beside it too."""
    if not path.is_file():
        return None
    for number in count(1):
        older = path.with_name(f"{path.stem}-{number}{path.suffix}")
        with suppress(FileExistsError):
            os.link(path, older)  # the same bytes: never half of them
            return older
    return None
