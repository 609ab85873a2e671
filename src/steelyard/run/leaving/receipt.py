"""The receipt of a run: recipe, data, base, artefacts, verdict and figures, each by its hash, signed.

    subject      what is served: the compressed model, else the last checkpoint
    predicate    as `described` gives it from a work folder, and again when it is compared with one

Not here: the signature (trust), comparing a folder (compared.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...artefact import Artefact
from ...clock import utc_now
from ...errors import CheckFailed, Where, WrongUse
from ...trust import Signer, keys_of, sign_statement
from ..known import entries
from ..record.workdir import Workdir

KIND = "urn:steelyard:receipt:1"
SCHEMA = "steelyard.receipt/1"
SERVED = ("compressed", "checkpoint")  # kinds, what is served first


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was written, and of what."""

    path: Path
    subject: str
    predicate: dict[str, Any]


def write_receipt(run: str, signer: Signer, output: Path | None = None) -> Receipt:
    """Sign what the last run in a folder came to; every artefact is read and checked first.

    `run`: its id, name or folder. Raises WrongUse, and CheckFailed for an artefact that is damaged.
    """
    place = workdir_named(run)
    predicate = described(place) | {"made": utc_now()}
    path = output or place.folder / "receipt.json"
    subject = served(predicate["artefacts"])
    sign_statement(path, signer, KIND, (predicate["recipe"]["name"], subject["hash"]), predicate)
    return Receipt(path, subject["hash"], predicate)


def workdir_named(run: str) -> Workdir:
    """The work folder of a run, with its keys where it is sealed."""
    folder, runs = Path(run), entries()
    found = [e for e in runs if run in (e["run"], e["name"]) or Path(e["workdir"]) == folder.absolute()]
    if found:
        return Workdir(Path(found[-1]["workdir"]), keys_of(found[-1]["trust"]))
    if (folder / "artefacts").is_dir():
        return Workdir(folder.absolute())
    names = ", ".join(e["run"] for e in runs) or "none"
    raise WrongUse(
        "receipt.no_run",
        f"there is no run {run!r}",
        where=Where(field="RUN"),
        hint=f"known runs: {names}; or name a run's folder",
    )


# ------------------------------------------------------------------ what is stated


def described(place: Workdir) -> dict[str, Any]:
    """All of a receipt but its time. Raises CheckFailed where a file is not what was published."""
    plan, run = _document(place.plan), _document(place.refers)
    if run.get("plan", plan["hash"]) != plan["hash"]:
        raise planned_since(place)
    artefacts = lineage(place, run["artefacts"])
    rows = [row_of(artefact) for artefact in artefacts]
    known = {row["hash"] for row in rows} | {run["base"]}
    inputs = {(i["role"], i["kind"], i["hash"]) for row in rows for i in row["inputs"]}
    newest = artefacts[-1].manifest["made_by"]
    return {
        "schema": SCHEMA,
        "run": run["run"],
        "recipe": {"name": plan["name"], "hash": plan["recipe_hash"]},
        "plan": {"hash": plan["hash"], "sha256": hashlib.sha256(place.plan.read_bytes()).hexdigest()},
        "data": data_of(artefacts),
        "base": {"name": plan["model"], "hash": run["base"]},
        "elsewhere": [
            dict(zip(("role", "kind", "hash"), i, strict=True)) for i in sorted(inputs) if i[2] not in known
        ],
        "artefacts": rows,
        "gate": gate_of(artefacts),
        "machine": {"cpu": plan["machine"], "fingerprint": plan["fingerprint"]},
        "versions": {"python": newest.get("python")} | dict(newest.get("versions") or {}),
    }


def planned_since(place: Workdir) -> WrongUse:
    """plan.json tells what the next run would do, perhaps of another recipe: no part of what this one did."""
    return WrongUse(
        "receipt.planned_since",
        f"{place.folder.name} was planned anew after its last run",
        where=Where(str(place.plan)),
        why="plan.json is not the plan that its artefacts were made by",
        hint="steelyard up RECIPE, which reuses every step that is the same; then its receipt",
    )


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as e:
        raise WrongUse(
            "receipt.unfinished",
            f"no run in {path.parent} has come to its end",
            where=Where(str(path)),
            why=f"{path.name} cannot be read",
            hint="steelyard up RECIPE; then its receipt",
        ) from e
    return dict(document)


def lineage(place: Workdir, used: Iterable[str]) -> list[Artefact]:
    """What the run refers to: its artefacts, those they were made of first; each read and checked."""
    folders = [place.store.folder / name for name in used if not name.startswith(".")]
    artefacts = [place.store.open(folder) for folder in folders if folder.is_dir()]
    if not any(a.kind in SERVED for a in artefacts):
        raise WrongUse(
            "receipt.no_model",
            f"the run in {place.folder} has made no model yet",
            where=Where(str(place.folder)),
            hint="steelyard up RECIPE makes one",
        )
    for artefact in artefacts:
        check_whole(artefact)
    return in_order(artefacts)


def in_order(artefacts: Iterable[Artefact]) -> list[Artefact]:
    """Each after what it was made of; else by the time of its publishing, which has whole seconds."""
    left = sorted(artefacts, key=lambda a: (a.manifest["made_by"]["published"], a.folder.name))
    done: list[Artefact] = []
    while left:
        waiting = {a.hash for a in left}
        ready = (a for a in left if not any(i["hash"] in waiting - {a.hash} for i in a.manifest["inputs"]))
        done.append(next(ready, left[0]))
        left.remove(done[-1])
    return done


def check_whole(artefact: Artefact) -> None:
    """Its files are those that were published, and no others. Raises CheckFailed."""
    artefact.check()
    ending = ".sealed" if artefact.keys else ""
    named = {f"{row['path']}{ending}" for row in artefact.manifest["files"]}
    about = {f"manifest.json{ending}", "model.sig", "model.hybrid.sig"}
    places = (p for p in artefact.folder.rglob("*") if p.is_symlink() or not p.is_dir())
    strange = sorted({p.relative_to(artefact.folder).as_posix() for p in places} - named - about)
    links = sorted(name for name in named if (artefact.folder / name).is_symlink())
    if strange or links:
        name = (strange or links)[0]
        raise CheckFailed(
            "receipt.added",
            f"{name} in {artefact.folder.name} is not of what was published",
            where=Where(str(artefact.folder / name)),
            why="a file was added, or made a link",
            hint="take it out, then ask again",
        )


def row_of(artefact: Artefact) -> dict[str, Any]:
    """One artefact: names, hashes and figures. Under seal the manifest's hash is of what was sealed."""
    manifest = artefact.manifest
    row = {name: manifest[name] for name in ("kind", "step", "hash", "key", "inputs", "figures")}
    return row | {
        "name": artefact.folder.name,
        "manifest": manifest_hash(artefact),
        "files": len(manifest["files"]),
        "bytes": artefact.bytes,
    }


def manifest_hash(artefact: Artefact) -> str:
    text = json.dumps(artefact.manifest, indent=2, sort_keys=True, ensure_ascii=False).encode()
    data = text if artefact.keys else (artefact.folder / "manifest.json").read_bytes()
    return hashlib.sha256(data).hexdigest()


def data_of(artefacts: Iterable[Artefact]) -> list[dict[str, str]]:
    """The files that were cleaned, as the dataset's manifest has them."""
    reads = {
        name: value
        for a in artefacts
        if a.kind == "dataset"
        for name, value in a.manifest.get("reads", {}).items()
    }
    return [{"name": name.removeprefix("file:"), "sha256": value} for name, value in sorted(reads.items())]


def gate_of(artefacts: Iterable[Artefact]) -> dict[str, Any] | None:
    """The last verdict, or refusal: its artefact, its checks and its scores."""
    verdict = next((a for a in reversed(list(artefacts)) if a.kind in ("verdict", "refusal")), None)
    if verdict is None:
        return None
    document = json.loads(verdict.path("verdict.json").read_text("utf-8"))
    checks = [{k: c.get(k) for k in ("name", "passed", "value", "limit")} for c in document.get("checks", [])]
    return {
        "hash": verdict.hash,
        "verdict": document.get("verdict"),
        "checks": checks,
        "scores": document.get("scores"),
    }


def served(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The row of what a receipt is about: what the last verdict let pass, else the newest model."""
    newest = list(rows)[::-1]
    models = [row for kind in SERVED for row in newest if row["kind"] == kind]
    passed = [i["hash"] for row in newest if row["kind"] == "verdict" for i in row["inputs"]]
    return next((row for row in models if row["hash"] in passed), models[0])
