"""From what a user names to the folder that an engine loads: exported once, kept by content.

A served folder is taken as it is; a Hugging Face or `train` artefact folder is exported to an IR; a GGUF
goes through the model room first.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import orjson

from ..artefact import adopt
from ..errors import Lacking, Refused, Where
from ..model import encoder_folder, export_encoder, export_openvino, resolve, to_hf

ENCODER_VERSION = 1  # as IR_VERSION, of model/openvino_encoder.py
IR_VERSION = 1  # of the graph builder: raise it where equal weights give another IR
DEFAULT_FORM = "bf16"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A folder that an engine loads, and the hash that names its content."""

    folder: Path
    fingerprint: str


def prepare(source: str | Path, form: str | None = None, root: Path | str = ".") -> Prepared:
    """The served folder of `source`, exported if need be. Raises WrongUse, Lacking, Refused."""
    place = Path(root) / Path(source).expanduser()
    if place.is_dir():
        _refuse_sealed(place)
        if (place / "openvino_model.xml").exists() and form is None:
            return Prepared(place, _hash(place))
    if encoder := encoder_folder(str(source), root):
        return _encoder(encoder)
    model = resolve(str(source), root)
    if model.kind == "gguf":
        key = _file_hash(model.path)
        folder = _kept(f"hf-{key[:32]}", lambda out: to_hf(model, out))
    else:
        folder, key = model.path, _hash(model.path)
    form = form or DEFAULT_FORM
    built = hashlib.sha256(f"{key} {form} {IR_VERSION} {_version('openvino')}".encode()).hexdigest()
    kept = _kept(f"ir-{built[:32]}", lambda out: export_openvino(folder, out, form))
    return Prepared(kept, built)


def _encoder(folder: Path) -> Prepared:
    """A sentence encoder: the engine `encoder` loads it."""
    built = hashlib.sha256(f"{_hash(folder)} encoder {ENCODER_VERSION} {_version('openvino')}".encode())
    kept = _kept(f"encoder-{built.hexdigest()[:32]}", lambda out: export_encoder(folder, out))
    return Prepared(kept, built.hexdigest())


def _refuse_sealed(folder: Path) -> None:
    if any(folder.glob("*.sealed")):
        raise Refused(
            "serve.sealed",
            f"{folder.name} is sealed",
            where=Where(str(folder)),
            hint="serve it through its recipe (steelyard up), which knows the key file",
        )


def _hash(folder: Path) -> str:
    """The content hash: an artefact's own, else taken now."""
    manifest = folder / "manifest.json"
    if manifest.exists():
        return orjson.loads(manifest.read_bytes())["hash"]
    return adopt(folder).hash


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _kept(name: str, write: Callable[[Path], object]) -> Path:
    """`name` in the cache, written where it is not there yet: beside, then renamed."""
    cache = Path(os.environ.get("STEELYARD_CACHE") or Path.home() / ".cache" / "steelyard") / "served"
    target = cache / name
    if target.is_dir():
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=cache))
    except OSError as e:
        raise Lacking(
            "serve.cache",
            f"cannot write into {cache}",
            why=e.strerror,
            hint="set STEELYARD_CACHE to a folder of yours",
        ) from e
    try:
        write(part)
        part.rename(target)
    except OSError:
        if not target.is_dir():  # else another process was first, with the same content
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target
