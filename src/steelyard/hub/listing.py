"""What a hub lists of a model, and which of its files are fetched: only those that cannot run code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import WrongUse

SUFFIXES = (".safetensors", ".json", ".jinja", ".txt", ".model", ".md", ".gguf")
CODE = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5", ".py", ".sh", ".so")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A file as the hub lists it; either hash may be unknown."""

    name: str
    url: str
    size: int | None
    sha256: str | None = None
    git_sha1: str | None = None  # git's own blob hash, which the hub gives for small files


def choose(listed: Iterable[Listed], only: str = "") -> tuple[list[Listed], list[str]]:
    """The files to fetch, and why each other one is left. Raises WrongUse where no weights remain."""
    wanted, left = [], []
    files = sorted(listed, key=lambda file: file.name)
    sure = [file for file in files if not refusal(file.name)]
    has_tensors = any(f.name.endswith(".safetensors") for f in sure) and not only
    for file in files:
        why = refusal(file.name) or _second_copy(file.name, has_tensors, only)
        if why:
            left.append(f"{file.name}: {why}")
        else:
            wanted.append(file)
    _check_weights(files, wanted, has_tensors)
    return wanted, left


def _check_weights(files: Sequence[Listed], wanted: Sequence[Listed], has_tensors: bool) -> None:
    weights = [f.name for f in wanted if f.name.endswith((".safetensors", ".gguf"))]
    if not weights:
        pickles = [f.name for f in files if f.name.endswith(CODE)]
        why = (
            f"its weights are pickles ({pickles[0]}), which run code when they are read" if pickles else None
        )
        raise WrongUse(
            "hub.no_weights", "there is nothing in it that may be fetched as weights", why=why,
            hint="choose a model that has *.safetensors or *.gguf",
        )  # fmt: skip
    if not has_tensors and len(weights) > 1:
        raise WrongUse(
            "hub.which_file", f"it holds {len(weights)} GGUF files", why=", ".join(weights[:8]),
            hint=f"name one behind a colon: org/name:{weights[0]}",
        )  # fmt: skip


def refusal(name: str) -> str | None:
    """Why a file is never fetched, by its name; None where it may be."""
    if "/" in name or "\\" in name or name.startswith("."):
        return "not at the top of the model"
    if name.endswith(CODE):
        return "can run code when it is read"
    if not name.endswith(SUFFIXES) and not re.fullmatch(r"(LICEN[SC]E|NOTICE)[\w.-]*", name):
        return "not needed"
    return None if re.fullmatch(r"[\w.+-]+", name) else "an odd name"


def _second_copy(name: str, has_tensors: bool, only: str) -> str | None:
    """Why these weights are not taken: others of the same model are, or one file was requested."""
    if name.endswith(".gguf") and has_tensors:
        return "the safetensors are taken"
    if name.endswith(".gguf"):
        return None if only in ("", name) else "another file is requested"
    if only and name.endswith((".safetensors", ".safetensors.index.json")):
        return "another file is requested"
    return "a second copy of the weights" if name.startswith("consolidated") else None
