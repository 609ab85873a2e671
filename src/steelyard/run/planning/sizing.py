"""The models a recipe may mean: the one it names, those it lists, or for `auto` what lies on this machine;
and which shares of their parameters are tried.

From small to large. Only headers are read here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...artefact import Watch
from ...errors import Lacking, Problem, Where, WrongUse
from ...model import FAMILIES, ModelSource, forms_of, models_folder, resolve
from ...planner import pruned_shape, pruning_where, shares_of
from ...recipe import Recipe
from ...shape import Shape
from ...shape import read as read_shape

ABSENT = ("model.unknown", "model.demo_missing", "model.none_here")  # it may be fetched before the run


@dataclass(frozen=True, slots=True, kw_only=True)
class Sized:
    """A candidate: where its files lie, and its sizes."""

    source: ModelSource
    shape: Shape

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def forms(self) -> tuple[str, ...]:
        """Those that its family can be served in."""
        return forms_of(self.source)


def candidates_of(recipe: Recipe, watch: Watch) -> tuple[Sized, ...]:
    """At least one, by parameters. Raises what `resolve` raises for a model that the recipe names."""
    if recipe.model != "auto":
        return (_sized(recipe.model, recipe),)
    if recipe.candidates:
        return _by_size(_sized(name, recipe) for name in recipe.candidates)
    candidates = _by_size(_whole(local_names(), recipe, watch))
    if not candidates:
        raise Lacking(
            "model.none_here",
            "model: auto takes the models on this machine, and there are none",
            where=Where(str(recipe.path), field="model"),
            hint="steelyard pull NAME fetches one, or list some: model: {auto: [small, larger]}",
        )
    return candidates


def check_model(recipe: Recipe) -> None:
    """See that the models which a recipe names can do what it wants of them. Raises WrongUse.

    One that is not on this machine is let pass.
    """
    for name in recipe.candidates or (() if recipe.model == "auto" else (recipe.model,)):
        try:
            _sized(name, recipe)
        except Problem as problem:
            if problem.code not in ABSENT:
                raise


def local_names() -> list[str]:
    """The packaged model and what `steelyard pull` fetched."""
    cache = models_folder()
    files = (*cache.glob("*/*/config.json"), *cache.glob("*/*/*.gguf"))
    pulled = {f.parent.relative_to(cache).as_posix() for f in files if not f.parent.name.startswith(".")}
    return ["demo", *sorted(pulled)]


def _whole(names: Iterable[str], recipe: Recipe, watch: Watch) -> Iterable[Sized]:
    """Those of the names that can be used; the others are noted, nobody asked for them by name."""
    for name in names:
        try:
            yield _sized(name, recipe)
        except Problem as problem:
            watch.log("model.left_out", model=name, why=problem.message)


def _sized(name: str, recipe: Recipe) -> Sized:
    source = resolve(name, recipe.root, "train" if recipe.train else "serve")
    _check_forms(recipe, source)
    return Sized(source=source, shape=read_shape(source.path))


def _check_forms(recipe: Recipe, source: ModelSource) -> None:
    """Raises WrongUse where the recipe wants a form in which the model's family cannot be served."""
    wanted, offered = recipe.compress.weights, forms_of(source)
    forms = () if wanted == "auto" else (wanted,) if isinstance(wanted, str) else tuple(wanted)
    if other := [form for form in forms if form not in offered]:
        raise WrongUse(
            "compress.form_of_family",
            f"{source.name} cannot be served in the form {other[0]}",
            where=Where(str(recipe.path), field="compress.weights"),
            why="its family goes through OpenVINO's converter, which does not round weights",
            hint=f"one of {', '.join(offered)}",
        )


def _by_size(candidates: Iterable[Sized]) -> tuple[Sized, ...]:
    return tuple(sorted(candidates, key=lambda c: (c.shape.params, c.name)))


# ------------------------------------------------------------------ shares of their parameters


def shares_for(recipe: Recipe, shape: Shape, family: str) -> tuple[float | None, ...]:
    """Smallest first; None is the whole model. Raises WrongUse for a share that the recipe names and this
    model cannot have."""
    shares = shares_of(recipe, experts=bool(shape.experts))
    if recipe.compress.prune == "auto":
        return tuple(share for share in shares if share is None or _can(recipe, shape, family, share))
    if shares[0] is not None:
        _check_share(recipe, shape, family, shares[0])
    return shares


def _can(recipe: Recipe, shape: Shape, family: str, share: float) -> bool:
    try:
        _check_share(recipe, shape, family, share)
    except WrongUse:
        return False
    return True


def _check_share(recipe: Recipe, shape: Shape, family: str, share: float) -> None:
    own = FAMILIES.get(family)
    if not shape.experts and (own is None or not own.trainable):
        able = ", ".join(name for name, each in FAMILIES.items() if each.trainable)
        raise WrongUse(
            "compress.prune_family",
            f"models of the family {family} are not pruned",
            where=pruning_where(recipe),
            why="there is no network of theirs here",
            hint=f"leave compress.prune out, or take a model of the families {able}",
        )
    pruned_shape(shape, share, recipe)
