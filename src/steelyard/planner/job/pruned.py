"""A model after pruning: the sizes that a share of its parameters leaves, and what they are expected to lose.

Pure, and by sizes alone: which layers and channels go, the rows decide (compression).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from typing import Any

from steelyard.errors import Where, WrongUse
from steelyard.forms import FORMS
from steelyard.recipe import Recipe
from steelyard.shape import Shape
from steelyard.units import Figure

from .abilities import lift_of
from .pruned_experts import UNREACHED, fewer_experts, with_experts

# Of what goes, on a logarithmic scale, the part that whole layers take; widths take the rest. Layers alone
# would be faster to serve, and heal worse: decisions/155.
DEPTH = 0.5
CHANNELS = 64  # an MLP's width stays a multiple of it: whole groups of int4, and whole vectors
LEAST = 0.25  # of layers and of channels: with fewer no rows have been seen to heal a model
SHARES = (0.7, 0.85)  # of prune: auto, before the whole model
# Share of the tuned scores that is lost for each share of the parameters that goes, after healing: a prior,
# until runs here have shown others. LLM-Pruner (Ma 2023, arXiv 2305.11627): LLaMA-7B less 20 %,
# healed with LoRA, keeps 95 % of its zero-shot mean.
LOST = 0.25
LOSS_SOURCE = "a prior: LLM-Pruner (arXiv 2305.11627), LLaMA-7B, 20 % fewer parameters, healed with LoRA"


def shares_of(recipe: Recipe, experts: bool = False) -> tuple[float | None, ...]:
    """The shares of a model's parameters that are tried, smallest first; None is the whole model.

    Of a mixture of `experts` `auto` tries UNREACHED too.
    """
    wanted = recipe.compress.prune
    if wanted is None or wanted == 1 or not recipe.train:
        return (None,)
    return (*SHARES, *[UNREACHED] * experts, None) if wanted == "auto" else (float(wanted),)


def optional_steps(recipe: Recipe) -> tuple[str, ...]:
    """The steps of a run that not every recipe asks for."""
    asked: tuple[str, ...] = ("pick",) if recipe.goal.lift and len(lift_of(recipe)["routes"]) > 1 else ()
    asked += ("prune", "heal") if shares_of(recipe)[0] is not None else ()
    wanted = recipe.compress.weights
    forms = (wanted,) if isinstance(wanted, str) else wanted
    trained = any(form in FORMS and FORMS[form].trained for form in forms)
    return (*asked, "qat") if trained and recipe.train else asked


def pruned_shape(shape: Shape, share: float | None, recipe: Recipe, depth: float = DEPTH) -> Shape:
    """The largest shape of at most that share of the parameters; None leaves it whole.

    Of a mixture of experts those alone go. Raises WrongUse where fewer sizes than LEAST would be needed, or
    fewer experts than a token takes.
    """
    if share is None:
        return shape
    if shape.experts:
        return fewer_experts(shape, share, pruning_where(recipe))
    check_dense(shape, recipe)
    ends, rest = _ends(shape), shape.params - _ends(shape)
    budget = share * shape.params - ends
    left = budget / rest
    least = _least(shape.layers)
    most = max(least, ceil(shape.layers * left**depth - 1e-9)) if left > 0 else 0
    for layers in range(most, least - 1, -1):
        for kv_heads in range(ceil(shape.kv_heads * min(1.0, left * shape.layers / layers)), 0, -1):
            ffn = _channels(shape, budget / layers, kv_heads)
            if ffn >= _least(shape.ffn):
                return _sized(shape, layers, kv_heads, min(ffn, shape.ffn))
    raise too_few(shape, share, recipe)


def check_dense(shape: Shape, recipe: Recipe) -> None:
    """Raises WrongUse for a model with layers of several kinds."""
    if len(shape.stack) > 1:
        raise WrongUse(
            "compress.prune_family",
            f"models of the family {shape.family} are not pruned",
            where=pruning_where(recipe),
            why="its layers are not all alike and dense",
            hint="leave compress.prune out, or take a dense decoder",
        )


def too_few(shape: Shape, share: float, recipe: Recipe) -> WrongUse:
    smallest = _sized(shape, _least(shape.layers), 1, _least(shape.ffn))
    least = ceil(100 * smallest.params / shape.params) / 100
    return WrongUse(
        "compress.prune_too_small",
        f"prune: {share:g} is less than {shape.layers} layers of {shape.ffn} channels allow",
        where=pruning_where(recipe),
        why=f"embedding and head alone are {_ends(shape) / shape.params:.0%} of the parameters, "
        f"and a quarter of the layers and channels stays",
        hint=f"prune: {least:g} or more",
    )


def no_rows_to_heal(recipe: Recipe) -> WrongUse:
    return WrongUse(
        "compress.prune_no_rows",
        "no row shows what is needed",
        where=pruning_where(recipe),
        why="importance is measured on chats and texts that were taught",
        hint="give rows of messages or text, or leave compress.prune out",
    )


def pruning_where(recipe: Recipe) -> Where:
    """The recipe's line of compress.prune."""
    line = recipe.origins.get("compress.prune", "").rpartition(":")[2]
    return Where(str(recipe.path), int(line) if line.isdecimal() else None, "compress.prune")


def prune_settings(recipe: Recipe, shape: Shape, share: float, threads: int, dtype: str) -> dict[str, Any]:
    """What the step is told: sizes, and what it computes with."""
    left = pruned_shape(shape, share, recipe)
    told = {"share": share, "dtype": dtype, "threads": threads}
    if shape.experts:  # where the rows reach fewer, auto loses nothing by going further
        return told | {"experts": left.experts, "further": recipe.compress.prune == "auto"}
    sizes = {"layers": left.layers, "kv_heads": left.kv_heads, "ffn": left.ffn}
    return {**told, **sizes}


def shape_left(shape: Shape, settings: Mapping[str, Any]) -> Shape:
    """The shape that the step's settings leave; the whole one where a plan has no such step."""
    sizes = settings.get("prune")
    if sizes and "experts" in sizes:
        return with_experts(shape, sizes["experts"])
    return _sized(shape, sizes["layers"], sizes["kv_heads"], sizes["ffn"]) if sizes else shape


def score_kept(share: float) -> float:
    """Expected share of the tuned scores that pruning and healing keep, before any run."""
    return 1 - LOST * (1 - share)


def pruned_loss(kept: Figure) -> Figure:
    """What is lost where so much is kept: never less than nothing."""
    value, low, high = (max(0.0, 1 - end) for end in (kept.value, kept.high, kept.low))
    return Figure(value, low, high, "share", kept.provenance)


# ------------------------------------------------------------------ sizes


def _ends(shape: Shape) -> int:
    """Weights of the embedding, a head of its own, and the last norm."""
    return shape.vocab * shape.hidden * (1 if shape.tied else 2) + shape.hidden


def _least(size: int) -> int:
    return max(1, ceil(LEAST * size))


def _attention(shape: Shape, kv_heads: int) -> int:
    heads = shape.heads // shape.kv_heads * kv_heads
    return 2 * shape.hidden * shape.head_dim * (heads + kv_heads)


def _mlp(shape: Shape, ffn: int) -> int:
    return (3 if shape.gated else 2) * shape.hidden * ffn


def _fixed(shape: Shape) -> float:
    """Weights of a layer that no width changes: its norms."""
    inner = (shape.params - _ends(shape)) / shape.layers
    return inner - _attention(shape, shape.kv_heads) - _mlp(shape, shape.ffn)


def _channels(shape: Shape, budget: float, kv_heads: int) -> int:
    """Channels of an MLP that a layer's weights leave."""
    ffn = (budget - _attention(shape, kv_heads) - _fixed(shape)) / _mlp(shape, 1)
    step = CHANNELS if shape.ffn >= 8 * CHANNELS else 1
    return int(ffn // step) * step


def _sized(shape: Shape, layers: int, kv_heads: int, ffn: int) -> Shape:
    each = _attention(shape, kv_heads) + _mlp(shape, ffn) + _fixed(shape)
    params = round(_ends(shape) + layers * each)
    heads = shape.heads // shape.kv_heads * kv_heads
    return replace(
        shape,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        ffn=ffn,
        params=params,
        active_params=params,
        stack=(),
    )
