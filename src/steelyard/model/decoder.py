"""A folder's config.json as the decoder that network and graph are built of."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import Where, WrongUse
from ..shape import read_json
from .families import FAMILIES, Decoder, Family
from .transformers_backend.environment import transformers_families, trl_missing


def family_of(folder: Path) -> Family:
    """The family of a Hugging Face folder. Raises WrongUse where neither we nor transformers have it."""
    where = folder / "config.json"
    config = read_json(where)
    name = str(config.get("model_type"))
    if name in FAMILIES:
        return FAMILIES[name]
    if name in transformers_families():
        return Family(name=name, architecture=str((config.get("architectures") or [""])[0]), foreign=True)
    why = "there is no network of it here, nor in the transformers of this machine"
    raise WrongUse(
        "model.family", f"models of the family {name!r} are not supported",
        why=why if not trl_missing() else None,
        where=Where(str(where), field="model_type"), hint=families_hint(FAMILIES.values()),
    )  # fmt: skip


def families_hint(families: Iterable[Family]) -> str:
    """What to use instead, from the register: those that only the converter knows are named as such."""
    built = [f.name for f in families if f.trainable]
    rest = [f.name for f in families if not f.trainable]
    use = f"use one of {', '.join(built)} (decoders of dense layers)"
    if not trl_missing():
        return f"{use}, or another that transformers has: {', '.join(rest)} and many more"
    served = f"; only served, not trained: {', '.join(rest)}" if rest else ""
    return f"{use}{served}; for other families: steelyard engines install trl"


def check_trainable(family: Family, where: Path) -> None:
    """Raises WrongUse for a family that has no network here, and none in an environment of TRL."""
    if not (family.trainable or family.name in transformers_families()):
        raise no_network(family, where, "cannot be trained here")


def no_network(family: Family, where: Path, message: str) -> WrongUse:
    return WrongUse(
        "model.not_trainable", f"models of the family {family.name!r} {message}",
        where=Where(str(where), field="model_type"), why="there is no network of theirs here",
        hint=families_hint(f for f in FAMILIES.values() if f.trainable),
    )  # fmt: skip


def read_decoder(folder: Path) -> Decoder:
    """Raises WrongUse where the family is not ours or has no network here, or config.json is not covered."""
    path = folder / "config.json"
    family = family_of(folder)
    if family.read is None:
        raise no_network(family, path, "have no network of ours")
    return family.read(read_json(path), path)
