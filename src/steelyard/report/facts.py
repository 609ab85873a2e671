"""What the plan and the artefacts of a run add to the document of `up --json`.

    plan      plan.json: machine, settings with their origins, every prediction with its interval
    account   of the dataset; taught: of the last checkpoint; rows: both in one, where `up` has not given it
    curve     loss a step; details: scores with intervals; lineage: what was made of what

A file that is missing, sealed or damaged adds nothing: a report is made of what there is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..artefact import Artefact, Store, write_durably
from ..errors import Problem, Where, WrongUse
from ..units import show_bytes

Document = Mapping[str, Any]
SCHEMA = "steelyard.up/1"


def read_document(path: Path) -> dict[str, Any]:
    """The document of `up --json`, or report.json of a run's folder, with its facts. Raises WrongUse."""
    file = path / "report.json" if path.is_dir() else path
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no JSON"
        raise _no_run(file, f"cannot read {file}: {why}") from error
    if not isinstance(document, dict) or not isinstance(document.get("steps"), list):
        raise _no_run(file, f"{file} is no document of a run")
    return facts_of(document) | document


def save(document: Document, keys: Any = None, language: str = "en") -> None:
    """report.json and report.html of a run, in its folder: the same facts for programs and for people."""
    from .page import write_report

    page = Path(document["report"])
    whole = {**facts_of(document, keys), **document}
    write_durably(page.with_suffix(".json"), json.dumps(whole, ensure_ascii=False).encode())
    write_report(whole, page, language)


def _no_run(file: Path, message: str) -> WrongUse:
    hint = "steelyard up RECIPE --json > UP.json, or name a run: steelyard status lists them"
    return WrongUse("report.no_run", message, where=Where(str(file)), hint=hint)


def facts_of(document: Document, keys: Any = None) -> dict[str, Any]:
    """{"plan", "account", "taught", "curve", "details", "lineage"}, as far as the disk has them."""
    artefacts = _artefacts(document, keys)
    facts: dict[str, Any] = {"lineage": [lineage_row(a.manifest) for a in artefacts]}
    plan = _json(Path(document.get("workdir") or ".") / "plan.json")
    facts |= {"plan": plan} if isinstance(plan, dict) and "plans" in plan else {}
    for artefact in artefacts:
        with suppress(OSError, ValueError, Problem):
            facts |= _facts_of_one(artefact)
    return facts


def _artefacts(document: Document, keys: Any) -> list[Artefact]:
    opened = []
    for step in document["steps"]:
        folder = Path(step.get("artefact") or "")
        with suppress(OSError, ValueError, Problem):  # sealed, or damaged
            if step.get("artefact") and step["step"] != "serve":
                opened.append(Store(folder.parent, keys).open(folder))
    return opened


def _facts_of_one(artefact: Artefact) -> dict[str, Any]:
    match artefact.kind:
        case "dataset":
            return {"account": _json(artefact.path("account.json"))}
        case "checkpoint":
            curve = artefact.path("curve.jsonl").read_text(encoding="utf-8").splitlines()
            return {
                "curve": [json.loads(line) for line in curve],
                "taught": _json(artefact.path("taught.json")),
                "interference": _json(artefact.path("interference.json")),
                "lift": _json(artefact.path("lift.json")),
            }
        case "verdict":
            return {"details": (_json(artefact.path("verdict.json")) or {}).get("details") or {}}
    return {}


def _json(path: Path) -> Any:
    with suppress(OSError, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))
    return None


def lineage_row(manifest: Document) -> dict[str, Any]:
    """One artefact: its step, kind, hash, size, and what it was made of."""
    return {
        "step": manifest["step"],
        "kind": manifest["kind"],
        "hash": manifest["hash"],
        "size": show_bytes(sum(f["bytes"] for f in manifest["files"])),
        "inputs": [f"{i['role']} {i['hash'][:12]}" for i in manifest["inputs"]],
        "sealed": bool(manifest["seal"]),
    }
