"""`record`: what is processed here, as GDPR Art. 30 and PIPL Art. 55 and 56 ask, from what the lineage knows.

A work folder is one activity. What no artefact, recipe or account can know is None: to be filled in by a
person. Values of rows, ids and texts are in none of it. Not here: how it reads (report).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...artefact import Artefact
from ...clock import utc_now
from ...errors import Problem
from ...recipe import Recipe, load
from ..known import exports
from ..record.lineage import ordered
from .lineage import DATASET, Work, read_text, works
from .order import folder_of

CONTROLLER = ("name", "contact", "joint_controller", "representative", "data_protection_officer")
ASSESSMENT = ("necessity", "impact_on_individuals", "automated_decisions", "entrusted_to")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def processing_record(workdir: Path | None = None) -> dict[str, Any]:
    """{"made_at", "controller", "activities", "to_be_filled_in": names of what is None}."""
    proofs = erasures()
    document: dict[str, Any] = {
        "made_at": utc_now(),
        "controller": dict.fromkeys(CONTROLLER),
        "activities": [activity(work, proofs) for work in works(workdir)],
    }
    return document | {"to_be_filled_in": list(blanks(document))}


def activity(work: Work, proofs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One work folder: data and people, steps, who receives it, how long, how it is kept safe."""
    recipe = recipe_of(work)
    datasets = work.of_kind(DATASET)
    account = json.loads(read_text(datasets[-1], "account.json") or "{}") if datasets else {}
    clean = datasets[-1].manifest["settings"].get("clean", {}) if datasets else {}
    return {
        "name": work.name,
        "folder": str(work.folder),
        "purpose": None,
        "legal_basis": None,
        "data_subjects": None,
        "personal_data": personal_data(account),
        "sensitive_data": None,
        "rows": {name: account.get(name) for name in ("read", "kept", "dropped", "train", "held_out")},
        "sources": sources(account),
        "steps": [step_of(a) for a in ordered(work.artefacts)],
        "recipients": recipients(work, recipe),
        "transfers_abroad": None,
        "retention": retention(work, proofs),
        "security": security(work, recipe, clean),
        "assessment": dict.fromkeys(ASSESSMENT),
    }  # fmt: skip


def recipe_of(work: Work) -> Recipe | None:
    with suppress(Problem, OSError):
        return load(Path(work.recipe), []) if work.recipe else None
    return None


def published_at(artefact: Artefact) -> str:
    return str(artefact.manifest["made_by"].get("published", ""))


def step_of(artefact: Artefact) -> dict[str, Any]:
    return {
        "step": artefact.manifest["step"], "kind": artefact.kind, "hash": artefact.hash,
        "at": published_at(artefact), "made_of": [i["hash"] for i in artefact.manifest.get("inputs", ())],
    }  # fmt: skip


def personal_data(account: Mapping[str, Any]) -> dict[str, Any]:
    """Kinds that cleaning found by their form; what it cannot see (names in prose) is no zero."""
    return {
        "found": account.get("personal"), "rows": account.get("personal_rows"),
        "masked": account.get("masked"), "other_kinds": None,
    }  # fmt: skip


def sources(account: Mapping[str, Any]) -> list[dict[str, Any]]:
    told = [
        {"name": one["name"], "rows": one["read"], "collected_from": None}
        for one in account.get("sources", ())
    ]
    terms = {name: account[name] for name in ("licences", "consent") if name in account}
    return [one | terms for one in told]


def recipients(work: Work, recipe: Recipe | None) -> dict[str, Any]:
    hashes = {a.hash for a in work.artefacts}
    left = [{"to": e["to"], "folder": e["folder"]} for e in exports() if e["hash"] in hashes]
    serve = None
    if recipe is not None:
        serve = {
            "host": recipe.serve.host, "port": recipe.serve.port,
            "this_machine_alone": recipe.serve.host in LOOPBACK,
        }  # fmt: skip
    return {"service": serve, "exports": left, "named": None}


def retention(work: Work, proofs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """`erased`: when, how many rows; uploads for batches go after 30 days by themselves."""
    folder = str(work.folder)
    done = [
        {"at": proof["finished"], "rows": len(proof["rows"]), "proof": proof["hash"]}
        for proof in proofs
        if any(str(one["path"]).startswith(folder) for one in proof["removed"])
    ]
    return {"time_limit": None, "batch_uploads_days": 30, "erased": done}


def security(work: Work, recipe: Recipe | None, clean: Mapping[str, Any]) -> dict[str, Any]:
    sealed = bool(work.artefacts) and all(a.manifest.get("seal") for a in work.artefacts)
    told: dict[str, Any] = {"sealed_at_rest": sealed, "personal_data_masked": clean.get("pii") == "mask"}
    if recipe is not None:
        told |= {
            "trust": recipe.trust.level, "tls": recipe.serve.tls is not None,
            "keys": bool(recipe.serve.api_key or recipe.serve.keys),
        }  # fmt: skip
    return told | {"models_scanned_before_load": True, "organisational": None}


def erasures() -> list[dict[str, Any]]:
    found = []
    for path in sorted(folder_of("proofs").glob("*.json")):
        with suppress(OSError, ValueError):
            found.append(json.loads(path.read_text(encoding="utf-8")))
    return found


def blanks(value: Any, path: str = "") -> Iterable[str]:
    """Dotted names of all that is None."""
    if value is None:
        yield path
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from blanks(one, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from blanks(one, f"{path}.{number}")
