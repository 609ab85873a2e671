"""Plain work that `run` hands to a child process, so that `up` itself stays small. Arguments are JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def convert(name: str, out: str) -> None:
    """A GGUF file as a Hugging Face folder."""
    from ..model import resolve, to_hf

    to_hf(resolve(name), Path(out))


def engine_folder(folder: str, out: str | None) -> str:
    """A BF16 form that an engine loads: written to `out`, or kept in the cache by content."""
    if out is None:
        return served_folder(folder, ".")
    from ..model import export_openvino

    export_openvino(Path(folder), Path(out), "bf16")
    return out


def served_folder(name: str, root: str) -> str:
    """What an engine loads of a model by its name, kept in the cache by content."""
    from ..serving import prepare

    return str(prepare(name, root=root).folder)


def count(order: dict[str, Any], base: str) -> dict[str, Any]:
    """The facts of the data that a plan needs (fields of planner.DataFacts)."""
    from .. import data
    from ..model import Tokenizer

    return data.count(order, Tokenizer(Path(base)))
