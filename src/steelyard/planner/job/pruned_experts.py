"""A mixture of experts after pruning: the most experts a layer that a share of its parameters leaves.

Pure, and by sizes alone: which of them stay, the rows decide (compression/experts).
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil

from steelyard.architectures import ROUTERS
from steelyard.errors import Where, WrongUse
from steelyard.layers import Half, Layers
from steelyard.shape import Shape

UNREACHED = 1.0  # the share of prune: auto that leaves out only what no row reaches
BIASED = ("deepseek_v3",)  # families whose router has a bias for each expert


def fewer_experts(shape: Shape, share: float, where: Where) -> Shape:
    """The shape with the most experts of at most that share of the parameters.

    Raises WrongUse for a router that is not known, and where fewer would stay than a token takes.
    """
    check_router(shape, where)
    spare = shape.experts - shape.experts_per_token
    each = expert_params(shape) if spare else 0.0
    gone = ceil((1 - share) * shape.params / each - 1e-9) if spare else spare + (share < 1)
    if gone > spare:
        raise too_few_experts(shape, share, each, where)
    return with_experts(shape, shape.experts - gone)


def check_router(shape: Shape, where: Where) -> None:
    """Raises WrongUse for a family whose router is not known, or one that chooses groups first."""
    if shape.family in ROUTERS and shape.expert_groups == 1:
        return
    grouped = shape.family in ROUTERS
    raise WrongUse(
        "compress.prune_router",
        f"experts of the family {shape.family} are not pruned",
        where=where,
        why=f"its router chooses among {shape.expert_groups} groups of experts first, of equal size"
        if grouped
        else "how its router weighs experts is not known here",
        hint=f"leave compress.prune out, or take a model of the families {', '.join(sorted(ROUTERS))}",
    )


def too_few_experts(shape: Shape, share: float, each: float, where: Where) -> WrongUse:
    """Of a share that would leave fewer experts than a token takes; `each`: weights of one in all layers."""
    takes, spare = shape.experts_per_token, shape.experts - shape.experts_per_token
    least = ceil(100 * (1 - spare * each / shape.params)) / 100
    return WrongUse(
        "compress.prune_too_small",
        f"prune: {share:g} would leave fewer than the {takes} experts that a token takes",
        where=where,
        why=f"the model has {shape.experts} experts a layer; what is no expert stays whole",
        hint=f"prune: {least:g} or more" if spare else "leave compress.prune out: a token takes all experts",
    )


def expert_params(shape: Shape) -> float:
    """Weights of one expert and its part of the router, over all layers."""
    return sum(run.count * (_one(half) + _routed(shape)) for run, half in _mixtures(shape))


def with_experts(shape: Shape, count: int) -> Shape:
    """The same shape with so many experts a layer."""
    gone = shape.experts - count
    if not gone:
        return shape
    params = round(shape.params - gone * expert_params(shape))
    stack = tuple(
        Layers(run.count, tuple(_fewer(half, gone) if half.experts else half for half in run.halves))
        for run in shape.stack
    )
    idle = sum(run.count * run.idle for run in stack)
    active = round(params - idle - shape.tower_params)
    return replace(shape, experts=count, params=params, active_params=active, stack=stack)


def _mixtures(shape: Shape) -> list[tuple[Layers, Half]]:
    return [(run, half) for run in shape.stack for half in run.halves if half.experts]


def _one(half: Half) -> float:
    """Weights of one expert: a layer's idle ones are all but those that a token takes."""
    return half.idle / (half.experts - half.chosen)


def _routed(shape: Shape) -> int:
    """Weights that a router has for each expert."""
    return shape.hidden + (shape.family in BIASED)


def _fewer(half: Half, gone: int) -> Half:
    one = _one(half)
    return replace(
        half,
        experts=half.experts - gone,
        weights=half.weights - gone * (one + half.hidden),
        idle=half.idle - gone * one,
    )
