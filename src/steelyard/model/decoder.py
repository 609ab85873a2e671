"""A folder's config.json as the decoder that network and graph are built of."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import Where, WrongUse
from ..shape import read_json
from .families import FAMILIES, Decoder, Family


def family_of(folder: Path) -> Family:
    """The family of a Hugging Face folder. Raises WrongUse where it is none of ours."""
    where = folder / "config.json"
    name = str(read_json(where).get("model_type"))
    if name not in FAMILIES:
        raise WrongUse(
            "model.family", f"models of the family {name!r} are not supported",
            where=Where(str(where), field="model_type"), hint=families_hint(FAMILIES.values()),
        )  # fmt: skip
    return FAMILIES[name]


def families_hint(families: Iterable[Family]) -> str:
    """What to use instead, from the register: those that only the converter knows are named as such."""
    built = [f.name for f in families if f.trainable]
    rest = [f.name for f in families if not f.trainable]
    served = f"; only served, not trained: {', '.join(rest)}" if rest else ""
    return f"use one of {', '.join(built)} (decoders of dense layers){served}"


def check_trainable(family: Family, where: Path) -> None:
    """Raises WrongUse for a family that only the converter knows."""
    if not family.trainable:
        raise WrongUse(
            "model.not_trainable", f"models of the family {family.name!r} cannot be trained",
            where=Where(str(where), field="model_type"),
            why="they are served through OpenVINO's converter; there is no network of theirs here",
            hint=families_hint(f for f in FAMILIES.values() if f.trainable),
        )  # fmt: skip


def read_decoder(folder: Path) -> Decoder:
    """Raises WrongUse where the family is not ours or has no network here, or config.json is not covered."""
    path = folder / "config.json"
    family = family_of(folder)
    check_trainable(family, path)
    assert family.read is not None
    return family.read(read_json(path), path)
