"""Drafts, publishing, reuse by key, and lineage.

Publishing: payload written and fsynced in `.draft-<id>/`, manifest last, rename, fsync of the parent. A
crash leaves a draft, never half an artefact; a published one never changes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ..clock import utc_now
from ..errors import CheckFailed, Refused, Where
from .file_hashes import unchanged_sha256
from .files import (
    fsync_file,
    fsync_folder,
    lies_beside,
    payload_files,
    private_folder,
    sha256_of,
    sweep_private_folders,
    write_durably,
)
from .scratch import Scratch, set_aside

SCHEMA = 1
Settings = dict[str, Any]
Figures = dict[str, float]
MANIFEST = "manifest.json"


def canonical(value: Any) -> bytes:
    """One byte form for equal values: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def key_of(step: str, settings: Settings, inputs: Mapping[str, str], code: Mapping[str, Any]) -> str:
    """SHA-256 over all that makes a step's bytes: equal key, equal payload.

    `inputs`: their hashes by role. `code`: what code_of says of the step, and the machine's instruction set.
    """
    parts = {"step": step, "settings": settings, "inputs": dict(inputs), "code": dict(code)}
    return hashlib.sha256(canonical(parts)).hexdigest()


def file_rows(folder: Path, hash_of: Callable[[Path], str] = sha256_of) -> list[dict[str, Any]]:
    return [row_of(folder, name, hash_of) for name in payload_files(folder)]


def row_of(folder: Path, name: Path, hash_of: Callable[[Path], str]) -> dict[str, Any]:
    path = folder / name
    return {"path": name.as_posix(), "bytes": path.stat().st_size, "sha256": hash_of(path)}


def content_hash(files: list[dict[str, Any]]) -> str:
    """SHA-256 over the sorted lines (path, bytes, sha256): no time, machine or place in it."""
    lines = sorted(f"{f['path']}\t{f['bytes']}\t{f['sha256']}\n" for f in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def model_hash(folder: Path) -> str:
    """content_hash of a fetched model, every byte read; what lies beside it (.git, .cache) does not count."""
    names = [name for name in payload_files(folder) if not lies_beside(name)]
    return content_hash([row_of(folder, name, sha256_of) for name in names])


@dataclass(slots=True)
class Artefact:
    """A published folder. `path()` is always plain to read, `folder` is what lies on disk."""

    folder: Path
    manifest: dict[str, Any]
    keys: Any = None
    _plain: Path | None = None

    @property
    def hash(self) -> str:
        return self.manifest["hash"]

    @property
    def kind(self) -> str:
        return self.manifest["kind"]

    @property
    def figures(self) -> Figures:
        return self.manifest["figures"]

    @property
    def bytes(self) -> int:
        return sum(f["bytes"] for f in self.manifest["files"])

    def path(self, name: str = "") -> Path:
        """The payload folder, or a file in it; a sealed one is opened into private memory first."""
        if self._plain is None:
            self._plain = self._open() if self.keys else self.folder
        return self._plain / name if name else self._plain

    def _open(self) -> Path:
        plain = private_folder()
        for row in self.manifest["files"]:
            target = plain / row["path"]
            target.parent.mkdir(parents=True, exist_ok=True)
            sealed = self.folder / f"{row['path']}.sealed"
            if not sealed.is_file():
                raise self._changed(row["path"])
            self.keys.open(sealed, target)
        return plain

    def _row(self, name: str) -> dict[str, Any] | None:
        """A payload file as it lies there; None where it does not."""
        path = self.path(name)
        if not path.is_file():
            return None
        return {"path": name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}

    def check(self) -> None:
        """Raises CheckFailed where a payload file is missing or differs from the manifest."""
        for row in self.manifest["files"]:
            if self._row(row["path"]) != row:
                raise self._changed(row["path"])

    def _changed(self, name: str) -> CheckFailed:
        return CheckFailed(
            "artefact.changed",
            f"{name} is not the file that was published",
            where=Where(str(self.folder / name)),
            why="it is missing, or its size or SHA-256 differs from the manifest",
            hint="remove the artefact's folder and run `steelyard up` again: the step is done anew",
        )


def read_manifest(folder: Path, keys: Any = None) -> dict[str, Any]:
    """The manifest of a published folder. Raises CheckFailed where it is missing, cut, or no manifest."""
    name = f"{MANIFEST}.sealed" if keys else MANIFEST
    try:
        data = (folder / name).read_bytes()
        manifest = json.loads(keys.open_bytes(data, str(folder / name)) if keys else data)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise damaged_manifest(folder / name, "it is not there") from error
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8
        raise damaged_manifest(folder / name, "it is no JSON") from error
    if why := fault_of(manifest):
        raise damaged_manifest(folder / name, why)
    return manifest


def damaged_manifest(path: Path, why: str) -> CheckFailed:
    return CheckFailed(
        "artefact.manifest",
        f"{path.parent.name} is no whole artefact: its manifest is damaged",
        where=Where(str(path)),
        why=why,
        hint="remove the folder and run `steelyard up` again: the step is done anew",
    )


FIELDS = {
    "schema": int, "kind": str, "hash": str, "key": str, "step": str, "settings": dict, "inputs": list,
    "files": list, "figures": dict, "made_by": dict,
}  # fmt: skip


def fault_of(manifest: Any) -> str | None:
    """What is wrong with a manifest, as JSON gave it; None where nothing is."""
    if not isinstance(manifest, dict):
        return "it is no object"
    wrong = [name for name, kind in FIELDS.items() if type(manifest.get(name)) is not kind]
    if wrong:
        return f"{wrong[0]} is missing or of another type"
    if not all(_is_file_row(row) for row in manifest["files"]):
        return "files has a row that is none"
    if not all(_has(row, "role", "kind", "hash") for row in manifest["inputs"]):
        return "inputs has a row that is none"
    if not all(isinstance(x, int | float) for x in manifest["figures"].values()):
        return "figures has a value that is no number"
    if not _has(manifest["made_by"], "published"):
        return "made_by.published is missing"
    return (
        None if content_hash(manifest["files"]) == manifest["hash"] else "its hash is not that of its files"
    )


def _has(row: Any, *names: str) -> bool:
    return isinstance(row, dict) and all(isinstance(row.get(name), str) for name in names)


def _is_file_row(row: Any) -> bool:
    """A row of a file below the folder: a path that leads out of it is none."""
    if not _has(row, "path", "sha256") or type(row.get("bytes")) is not int:
        return False
    path = PurePosixPath(row["path"])
    return not path.is_absolute() and ".." not in path.parts and path.parts != ()


@dataclass(slots=True)
class Draft:
    """Where a step writes. `folder` is plain; at `guarded` it lies in private memory until published."""

    kind: str
    key: str
    step: str
    settings: Settings
    inputs: list[dict[str, str]]
    folder: Path
    scratch: Scratch


@dataclass(slots=True)
class Inputs:
    """What a step is given: artefacts by role, and callables that `run` binds for it."""

    artefacts: dict[str, Artefact] = field(default_factory=dict)
    calls: dict[str, Callable[..., Any]] = field(default_factory=dict)


class Store:
    """Artefacts of one work folder. With `keys` (trust: guarded) payload and manifest are sealed at rest."""

    def __init__(self, folder: Path, keys: Any = None) -> None:
        self.folder, self.keys = folder, keys
        if keys:
            sweep_private_folders()

    def draft(
        self, kind: str, key: str, step: str, settings: Settings, inputs: Mapping[str, Artefact]
    ) -> Draft:
        """A fresh, empty draft; leftovers of an earlier attempt are cleared, its scratch is kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = self._name(kind, key)
        folder = private_folder() if self.keys else self.folder / f".draft-{name}"
        if not self.keys:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        lineage = [{"role": role, "kind": a.kind, "hash": a.hash} for role, a in sorted(inputs.items())]
        scratch = Scratch(self.folder / f".scratch-{name}", self.keys)
        return Draft(kind, key, step, settings, lineage, folder, scratch)

    def publish(self, draft: Draft, figures: Figures, made_by: dict[str, Any], **more: Any) -> Artefact:
        """Make the draft an artefact, at once; `more` adds manifest fields (recipe_hash, plan_id, seed)."""
        files = file_rows(draft.folder)
        manifest = {
            "schema": SCHEMA,
            "kind": draft.kind,
            "hash": content_hash(files),
            "key": draft.key,
            "inputs": draft.inputs,
            "step": draft.step,
            "settings": draft.settings,
            "files": files,
            "figures": figures,
            "made_by": made_by | {"published": utc_now()},
            "seal": self.keys.scheme if self.keys else None,
            "signature": None,
        } | more
        target = self.folder / self._name(draft.kind, draft.key)
        staged = self._seal(draft, files) if self.keys else draft.folder
        self._commit(staged, target, manifest)
        draft.scratch.remove()
        # Under seal the draft is the opened payload: a second copy of a model would fill the memory.
        return Artefact(target, manifest, self.keys, draft.folder if self.keys else None)

    def find(self, kind: str, key: str) -> Artefact | None:
        """The artefact with that key, checked; a damaged one is set aside and does not count."""
        folder = self.folder / self._name(kind, key)
        if not folder.is_dir():
            return self._made_by_others(kind, key)
        try:
            artefact = self.open(folder)
            artefact.check()
        except CheckFailed:
            set_aside(folder)
            return None
        plain = self.keys is not None and artefact.keys is None  # whoever may write there needs no key for it
        if plain or (artefact.kind, artefact.manifest["key"]) != (kind, key):  # or somebody renamed a folder
            set_aside(folder)
            return None
        return artefact

    def _made_by_others(self, kind: str, key: str) -> Artefact | None:
        """Of a team each names folders by a key of its own: theirs are found by what their manifests say."""
        theirs = self.all() if self.keys and self.keys.others else []
        wanted = (kind, key, self.keys.scheme if self.keys else None)
        found = next((a for a in theirs if (a.kind, a.manifest["key"], a.manifest["seal"]) == wanted), None)
        try:
            if found:
                found.check()
            return found
        except CheckFailed:
            set_aside(found.folder) if found else None
            return None

    def open(self, folder: Path) -> Artefact:
        """A published folder by its manifest. Raises CheckFailed where damaged, Refused where sealed."""
        sealed = folder / f"{MANIFEST}.sealed"
        if sealed.exists() and not self.keys:
            raise Refused(
                "artefact.sealed",
                f"{folder.name} is sealed",
                where=Where(str(folder)),
                hint="name its key file, or go through its recipe",
            )
        keys = self.keys if sealed.exists() else None
        return Artefact(folder, read_manifest(folder, keys), keys)

    def all(self) -> list[Artefact]:
        """Every published artefact that these keys open, oldest first; damaged ones are set aside."""
        if not self.folder.is_dir():
            return []
        artefacts = []
        for folder in self.folder.iterdir():
            if folder.is_dir() and not folder.name.startswith("."):
                try:
                    artefacts.append(self.open(folder))
                except CheckFailed:
                    set_aside(folder)
                except Refused:  # of another key, or of another trust level of this recipe
                    continue
        return sorted(artefacts, key=lambda a: a.manifest["made_by"]["published"])

    def _name(self, kind: str, key: str) -> str:
        # A key is made of content hashes; under seal even that would confirm a guess.
        name = self.keys.name(key) if self.keys else key
        return f"{kind}-{name[:16]}"

    def _seal(self, draft: Draft, files: list[dict[str, Any]]) -> Path:
        staged = self.folder / f".draft-{self._name(draft.kind, draft.key)}"
        shutil.rmtree(staged, ignore_errors=True)
        for row in files:
            target = staged / f"{row['path']}.sealed"
            target.parent.mkdir(parents=True, exist_ok=True)
            self.keys.seal(draft.folder / row["path"], target)
        return staged

    def _commit(self, staged: Path, target: Path, manifest: dict[str, Any]) -> None:
        for name in payload_files(staged):
            fsync_file(staged / name)
        text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False).encode()
        if self.keys:
            write_durably(staged / f"{MANIFEST}.sealed", self.keys.seal_bytes(text))
        else:
            write_durably(staged / MANIFEST, text)
        for folder in sorted({(staged / n).parent for n in payload_files(staged)} | {staged}):
            fsync_folder(folder)
        staged.rename(target)
        fsync_folder(self.folder)


def adopt(folder: Path, kind: str = "checkpoint") -> Artefact:
    """A folder from elsewhere (a downloaded model) as a read-only artefact, hashed as it lies there.

    Large files that have not changed since they were last hashed are not read again.
    """
    files = file_rows(folder, unchanged_sha256)
    manifest = {
        "schema": SCHEMA,
        "kind": kind,
        "hash": content_hash(files),
        "files": files,
        "figures": {},
        "made_by": {},
    }
    return Artefact(folder, manifest)
