"""A receipt read by a third party: its signature and what it says alone; then beside a folder, hash by hash.

A folder is a run's work folder (everything must be there), one artefact, a model's folder (the base), or one
with the data files. What a folder does not have is named, never passed over in silence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...artefact import Store, adopt, sha256_of
from ...errors import CheckFailed, Where
from ...trust import Statement, Trust, read_signed
from ..record.workdir import Workdir
from .receipt import KIND, SCHEMA, check_whole, gate_of, row_of, served

HASH = re.compile("[0-9a-f]{64}")
SHAPE: dict[str, type | tuple[type, ...]] = {
    "schema": str, "run": str, "made": str, "recipe": dict, "plan": dict, "data": list, "base": dict,
    "elsewhere": list, "artefacts": list, "gate": (dict, type(None)), "machine": dict, "versions": dict,
}  # fmt: skip
ROW: dict[str, type] = {
    "name": str, "kind": str, "step": str, "hash": str, "key": str, "manifest": str, "files": int,
    "bytes": int, "inputs": list, "figures": dict,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verified:
    """What holds. `compared`: names whose hash was taken anew; `not_there`: the rest of those named."""

    subject: str
    key: str
    hybrid: bool | None
    predicate: dict[str, Any]
    compared: tuple[str, ...] = ()
    not_there: tuple[str, ...] = ()


def verify_receipt(path: Path, trust: Trust, folder: Path | None = None) -> Verified:
    """Raises CheckFailed with the reason: who signed, what it says, or which hash in `folder` is another."""
    statement, by = read_signed(path, trust, KIND, fault_of)
    predicate = statement.predicate
    names = names_in(predicate)
    compared = compare(path, predicate, folder) if folder else ()
    left = tuple(name for name in names if name not in compared)
    return Verified(statement.sha256, by.key, True if by.hybrid else None, predicate, tuple(compared), left)


def names_in(predicate: Mapping[str, Any]) -> list[str]:
    """What has a hash that a folder can be compared with."""
    data = [f"data {row['name']}" for row in predicate["data"]]
    return ["plan", "base", *data, *(row["name"] for row in predicate["artefacts"])]


# ------------------------------------------------------------------ alone


def fault_of(statement: Statement) -> str | None:
    """What is wrong in a receipt by itself; None where its parts hold together."""
    predicate = statement.predicate
    wrong = [name for name, kind in SHAPE.items() if not isinstance(predicate.get(name), kind)]
    if wrong or predicate["schema"] != SCHEMA:
        return f"{wrong[0] if wrong else 'schema'} is missing or of another kind"
    rows = predicate["artefacts"]
    if not rows or not all(isinstance(r, dict) and _is_row(r) for r in rows):
        return "artefacts has a row that is none"
    hashes = [predicate["base"].get("hash"), predicate["recipe"].get("hash"), predicate["plan"].get("sha256")]
    hashes += [row.get("sha256") if isinstance(row, dict) else None for row in predicate["data"]]
    if not all(isinstance(value, str) and HASH.fullmatch(value) for value in hashes):
        return "a hash is none"
    return _unlinked(predicate, statement.sha256)


def _is_row(row: Mapping[str, Any]) -> bool:
    shaped = all(isinstance(row.get(name), kind) for name, kind in ROW.items())
    plain = shaped and "/" not in row["name"] and not row["name"].startswith(".")
    linked = shaped and all(isinstance(i, dict) and isinstance(i.get("hash"), str) for i in row["inputs"])
    return plain and linked and all(HASH.fullmatch(row[name]) for name in ("hash", "manifest"))


def _unlinked(predicate: Mapping[str, Any], subject: str) -> str | None:
    """Every input is named in it, the verdict is one of its artefacts, the subject is what is served."""
    rows = predicate["artefacts"]
    known = {row["hash"] for row in rows} | {predicate["base"]["hash"]}
    known |= {row.get("hash") for row in predicate["elsewhere"] if isinstance(row, dict)}
    loose = [row["name"] for row in rows if any(i["hash"] not in known for i in row["inputs"])]
    if loose:
        return f"{loose[0]} was made of something that it does not name"
    gate = predicate["gate"]
    if gate is not None and gate.get("hash") not in known:
        return "its verdict is none of its artefacts"
    if (
        not any(row["kind"] in ("compressed", "checkpoint") for row in rows)
        or served(rows)["hash"] != subject
    ):
        return "its subject is not what is served"
    return None


# ------------------------------------------------------------------ beside a folder


def compare(path: Path, predicate: Mapping[str, Any], folder: Path) -> list[str]:
    """The names whose hash in `folder` is the receipt's. Raises CheckFailed for the first that is not."""
    if (folder / "artefacts").is_dir():
        return _workdir(predicate, Workdir(folder))
    if (folder / "manifest.json").is_file():
        return [_artefact(predicate, folder)]
    same = [*_base(predicate, folder), *_data(predicate, folder)]
    if not same:
        raise CheckFailed(
            "receipt.nothing",
            f"nothing in {folder} is named by {path.name}",
            where=Where(str(folder)),
            why=f"it names {', '.join(names_in(predicate)[:6])}",
            hint="name a run's folder, an artefact, the base model's folder, or the data's",
        )
    return same


def _workdir(predicate: Mapping[str, Any], place: Workdir) -> list[str]:
    if not place.plan.is_file():
        raise missing(place.plan, "plan")
    if sha256_of(place.plan) != predicate["plan"]["sha256"]:
        raise changed(place.plan, "plan.json is another one")
    folders = [place.store.folder / row["name"] for row in predicate["artefacts"]]
    gone = [folder for folder in folders if not folder.is_dir()]
    if gone:
        raise missing(gone[0], gone[0].name)
    return ["plan", *(_artefact(predicate, folder) for folder in folders)]


def _artefact(predicate: Mapping[str, Any], folder: Path) -> str:
    """Every file against the manifest, the manifest and its figures against the receipt."""
    artefact = Store(folder.absolute().parent).open(folder.absolute())
    rows = {row["name"]: row for row in predicate["artefacts"]}
    row = rows.get(artefact.folder.name) or next(
        (r for r in rows.values() if r["hash"] == artefact.hash), None
    )
    if row is None:
        raise changed(folder, "its hash is not in the receipt")
    _same(folder, row_of(artefact) | {"name": row["name"]}, row)
    check_whole(artefact)
    if artefact.kind in ("verdict", "refusal") and artefact.hash == (predicate["gate"] or {}).get("hash"):
        _same(folder, gate_of([artefact]) or {}, predicate["gate"])
    return str(row["name"])


def _same(folder: Path, now: Mapping[str, Any], then: Mapping[str, Any]) -> None:
    other = [name for name in then if plain(now.get(name)) != plain(then[name])]
    if other:
        raise changed(folder, f"{other[0]} is another than in the receipt")


def plain(value: Any) -> str:
    """As it is after a way through JSON."""
    return json.dumps(value, sort_keys=True)


def _base(predicate: Mapping[str, Any], folder: Path) -> list[str]:
    """A model's folder is the base, or it is not what was signed."""
    if not (folder / "config.json").is_file() and not any(folder.glob("*.gguf")):
        return []
    if adopt(folder).hash != predicate["base"]["hash"]:
        raise changed(folder, f"it is not the base {predicate['base'].get('name')}")
    return ["base"]


def _data(predicate: Mapping[str, Any], folder: Path) -> list[str]:
    places = {f"data {row['name']}": (folder / row["name"], row["sha256"]) for row in predicate["data"]}
    there = {name: place for name, place in places.items() if place[0].is_file()}
    for path, sha256 in there.values():
        if sha256_of(path) != sha256:
            raise changed(path, "it is not the file that was cleaned")
    return list(there)


def changed(path: Path, why: str) -> CheckFailed:
    return CheckFailed(
        "receipt.changed",
        f"{path.name} is not what the receipt names",
        where=Where(str(path)),
        why=why,
        hint="the folder is of another run, or was changed after it was signed",
    )


def missing(path: Path, name: str) -> CheckFailed:
    return CheckFailed(
        "receipt.missing",
        f"{name} is in the receipt and is not there",
        where=Where(str(path)),
        hint="name the whole folder of the run, or one artefact",
    )
