"""From what a user names to the folder that an engine loads: exported once, kept by content.

OpenVINO: a served folder is taken as it is; a Hugging Face or `train` artefact folder is exported to an IR; a
GGUF goes through the model room first. llama.cpp reads the GGUF itself, transformers, vLLM and SGLang a
Hugging Face one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import orjson

# By their doors: what writes is imported where something is written, and a later start is spared it.
from ... import compression
from ... import model as models
from ...artefact import adopt, code_of, copies_folder, note_copy
from ...errors import Lacking, Refused, Where, WrongUse
from ...model import ModelSource, encoder_folder, resolve
from ...trust import check_scanned
from ..engines import CAPABILITIES

DEFAULT_FORM = "bf16"
DEMO = "demo"
GGUF = "model.gguf"  # as engines/llamacpp/engine.py names it


@dataclass(frozen=True, slots=True)
class Prepared:
    """A folder that an engine loads, and the hash that names its content."""

    folder: Path
    fingerprint: str


def is_demo(source: str | Path) -> bool:
    """`demo` names the packaged model, in a folder that holds a `demo/` too; that one is `./demo`."""
    return source == DEMO


def place_of(source: str | Path, root: Path | str = ".") -> Path:
    """Where a folder or file of this name would be. Raises Lacking where the packaged model is not there."""
    return resolve(DEMO).path if is_demo(source) else Path(root) / Path(source).expanduser()


def prepare(
    source: str | Path, form: str | None = None, root: Path | str = ".", engine: str = "openvino"
) -> Prepared:
    """The folder of `source` that `engine` loads, made if need be. Raises WrongUse, Lacking, Refused,
    CheckFailed (unsafe to load)."""
    place = place_of(source, root)
    if place.is_dir():
        _refuse_sealed(place)
    if engine in OTHERS:
        _check_form(engine, form)
        return OTHERS[engine](source, place, root)
    if place.is_dir() and (place / "openvino_model.xml").exists() and form is None:
        check_scanned(place)
        return Prepared(place, _hash(place))
    if not is_demo(source) and (encoder := encoder_folder(str(source), root)):
        return _encoder(encoder)
    model = resolve(str(source), root)
    if model.kind != "gguf":
        _check_family(model.path, engine)
    folder, key = _hf(model)
    form = form or DEFAULT_FORM
    built = _built(key, form, "compression:export_form")
    exported = _exported_once(f"ir-{built[:32]}", lambda out: compression.export_form(folder, out, form))
    note_copy(exported.name, key)
    return Prepared(exported, built)


def _check_family(folder: Path, engine: str) -> None:
    family = models.family_of(folder)
    if family.foreign:
        raise WrongUse(
            "serve.family", f"{engine} has no graph of the family {family.name!r}",
            where=Where(str(folder)), why="only transformers and vLLM run it", hint="--engine transformers",
        )  # fmt: skip


def _hf(model: ModelSource) -> tuple[Path, str]:
    """The Hugging Face folder of a model, and the hash of what it comes from."""
    if model.kind != "gguf":
        return model.path, _hash(model.path)
    key = _file_hash(model.path)
    name = f"hf-{_built(key, 'hf', 'model:to_hf')[:32]}"
    note_copy(name, key)
    return _exported_once(name, lambda out: models.to_hf(model, out)), key


def _built(source: str, form: str, call: str) -> str:
    """SHA-256 over a source's content, the form, and the code that writes it: other code writes it anew."""
    parts = [source, form, code_of(call)]
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


# ------------------------------------------------------------------ other engines


def _check_form(engine: str, form: str | None) -> None:
    forms = CAPABILITIES[engine]().forms
    if form is not None and form not in forms:
        raise WrongUse(
            "serve.form", f"{engine} serves no form {form!r}", why=f"it serves {', '.join(forms)}",
            hint="leave the form out, or use --engine openvino",
        )  # fmt: skip


def _gguf(source: str | Path, place: Path, root: Path | str) -> Prepared:
    """Tokenizer and template as the model room derives them, and a link to the file itself."""
    if (place / GGUF).exists():
        check_scanned((place / GGUF).resolve())
        return Prepared(place, _file_hash(place / GGUF))
    model = resolve(str(source), root)
    if model.kind != "gguf":
        raise WrongUse(
            "serve.not_gguf", "llama.cpp serves GGUF files, and this is none", where=Where(str(model.path)),
            hint="give a *.gguf file, or use --engine openvino",
        )  # fmt: skip
    key = _file_hash(model.path)

    def write(out: Path) -> None:
        models.to_hf(model, out, weights=False)
        config = orjson.loads((out / "config.json").read_bytes())
        form = {"form": "gguf", "weights": model.path.stem.rpartition(".")[2], "precision": "f32",
                "kv_precision": "f16", "max_context": config["max_position_embeddings"]}  # fmt: skip
        (out / "form.json").write_bytes(orjson.dumps(form, option=orjson.OPT_INDENT_2))

    folder = _exported_once(f"gguf-{_built(key, 'gguf', 'model:to_hf')[:32]}", write)
    _link(folder / GGUF, model.path.resolve())
    return Prepared(folder, hashlib.sha256(f"{key} gguf".encode()).hexdigest())


def _link(link: Path, target: Path) -> None:
    """A link, not a copy: a GGUF may be tens of GB. The file may have moved since."""
    if link.is_symlink() and link.resolve() == target:
        return
    part = link.with_name(f".{link.name}.{os.getpid()}")
    part.symlink_to(target)
    part.rename(link)


def _weights(source: str | Path, place: Path, root: Path | str) -> Prepared:
    """A Hugging Face folder as it is."""
    if (place / "openvino_model.xml").exists() and not any(place.glob("*.safetensors")):
        raise WrongUse(
            "serve.only_ir", "it reads safetensors, and this folder holds OpenVINO's form of a model",
            where=Where(str(place)),
            hint="name the model or the train artefact it was made from",
        )  # fmt: skip
    folder, key = _hf(resolve(str(source), root, "reference"))  # vLLM reads quantised weights too
    return Prepared(folder, key)


OTHERS = {"llamacpp": _gguf, "transformers": _weights, "vllm": _weights, "sglang": _weights}


def _encoder(folder: Path) -> Prepared:
    """A sentence encoder: the engine `encoder` loads it."""
    built = _built(_hash(folder), "encoder", "model:export_encoder")
    exported = _exported_once(f"encoder-{built[:32]}", lambda out: models.export_encoder(folder, out))
    return Prepared(exported, built)


def _refuse_sealed(folder: Path) -> None:
    if any(folder.glob("*.sealed")):
        raise Refused(
            "serve.sealed",
            f"{folder.name} is sealed",
            where=Where(str(folder)),
            hint="serve it through its recipe (steelyard up), which knows the key file",
        )


def _hash(folder: Path) -> str:
    """The content hash, of what lies there: what a manifest beside it claims may be of another model."""
    return adopt(folder).hash


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _exported_once(name: str, write: Callable[[Path], object]) -> Path:
    """`name` in the cache, written where it is not there yet: beside, then renamed."""
    cache = copies_folder()
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
