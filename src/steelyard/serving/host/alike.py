"""Adapters that are served together, and the router that chooses among them: do they belong together?

By headers alone, before an engine loads anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...errors import Where, WrongUse
from ...router import Router, read_router
from ...shape import read_json, safetensors_header
from ..engines.lora import KEY, TENSORS

Matrices = dict[tuple[str, str, str], int]


def check_alike(adapters: Mapping[str, str]) -> None:
    """Raises WrongUse where two were trained on different bases: by the content that their artefacts name, or
    by the shapes of the matrices that both adapt."""
    bases = {name: base for name in adapters if (base := _base_hash(Path(adapters[name])))}
    shapes = {name: _shapes(Path(folder)) for name, folder in adapters.items()}
    first = next(iter(bases), None)
    for name, base in bases.items():
        if first is not None and base != bases[first]:
            raise _differ(first, name, f"{bases[first][:12]} and {base[:12]} are the contents of their bases")
    for name, own in shapes.items():
        for other, theirs in shapes.items():
            if odd := next((key for key in own.keys() & theirs.keys() if own[key] != theirs[key]), None):
                where = f"layers.{odd[0]}.{odd[1]}"
                raise _differ(name, other, f"{where} is {own[odd]} wide in one, {theirs[odd]} in the other")


def _differ(one: str, other: str, why: str) -> WrongUse:
    return WrongUse(
        "serve.adapters_differ", f"the adapters {one} and {other} are of different bases",
        where=Where(field="--adapter"), why=why, hint="serve each with the base that it was trained on",
    )  # fmt: skip


def _base_hash(folder: Path) -> str | None:
    """Content hash of the base, where the adapter lies in an artefact of ours."""
    manifest = folder.parent / "manifest.json"
    if not manifest.is_file():
        return None
    inputs = read_json(manifest).get("inputs") or ()
    return next((str(i["hash"]) for i in inputs if i.get("role") == "base"), None)


def _shapes(folder: Path) -> Matrices:
    """The outer size of each factor: columns of A, rows of B; the rank is each adapter's own."""
    file = folder / TENSORS
    if not file.is_file():
        return {}  # its engine says what is missing
    matches = ((KEY.match(name), at.shape) for name, at in safetensors_header(file).items())
    return {
        (m[1], m[2], m[3]): shape[1 if m[3] == "A" else 0] for m, shape in matches if m and len(shape) == 2
    }


def router_of(route: str | None, adapters: Mapping[str, str]) -> Router | None:
    """The router in the folder `route`. Raises WrongUse where it was made of other abilities."""
    if route is None:
        return None
    if not adapters:
        raise WrongUse(
            "serve.route_alone", "a router without adapters has nothing to choose from",
            where=Where(field="--route"), hint="--adapter NAME=DIR for each ability",
        )  # fmt: skip
    router = read_router(Path(route))
    strange = [name for name in adapters if name not in router.abilities]
    if strange:
        raise WrongUse(
            "serve.route_abilities", f"the router knows no ability {strange[0]}",
            where=Where(str(route), field="--route"), why=f"it was made of {', '.join(router.abilities)}",
            hint="name the adapters after abilities, or make a router of these: steelyard route ROWS.jsonl",
        )  # fmt: skip
    return router
