"""Several trainings of one base as one change of its matrices: by what PEFT's `add_weighted_adapter` calls
linear, ties, dare and svd, but over whole changes B A in place of factors, so that ranks need not be equal.

    linear   the weighted sum                           Wortsman et al. 2022 (arXiv 2109.01903)
    ties     the largest elements of each, of those the ones that agree with the sign of the weighted sum,
             their mean                                 Yadav et al. 2023 (arXiv 2306.01708)
    dare     elements dropped at random and the others scaled up, then the sum
                                                        Yu et al. 2023 (arXiv 2311.03099)
    svd      the sum at the rank of the first           as PEFT's svd

A change is [out, in] by the name of the model's own matrix, computed when it is asked for: all of them are as
large as the model. What does not name a matrix changes it by 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

DENSITY = 0.2  # of ties, the share that is kept: the best in the paper (table 6)
DROPPED = 0.5  # of dare; the paper drops up to 0.9 of full fine-tunings, a LoRA's change is denser
BEYOND = 8  # directions that svd looks for beyond those it keeps (Halko et al. 2011, section 4.2)
RANK_SHARE = 0.5  # of svd with one change: half of its rank

Change = Mapping[str, Tensor]


class Computed(Mapping[str, Tensor]):
    """A change whose matrices are made one at a time."""

    def __init__(self, names: Sequence[str], of: Callable[[str], Tensor]) -> None:
        self.names, self.of = list(names), of

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        return self.of(name)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


Merge = Callable[[str, Sequence[Tensor], Sequence[float], int], Tensor]


def linear(name: str, changes: Sequence[Tensor], weights: Sequence[float], rank: int) -> Tensor:
    total = torch.zeros_like(changes[0])
    for change, weight in zip(changes, weights, strict=True):
        total.add_(change, alpha=weight)
    return total


def ties(name: str, changes: Sequence[Tensor], weights: Sequence[float], rank: int) -> Tensor:
    """Disjoint mean, each change by its weight."""
    trimmed = [_largest(change) * weight for change, weight in zip(changes, weights, strict=True)]
    stacked = torch.stack(trimmed)
    sign = torch.sign(stacked.sum(0))
    agrees = (torch.sign(stacked) == sign) & (stacked != 0)
    return (stacked * agrees).sum(0) / agrees.sum(0).clamp_min(1)


def _largest(change: Tensor) -> Tensor:
    count = max(1, round(DENSITY * change.numel()))
    least = change.abs().flatten().kthvalue(change.numel() - count + 1).values
    return change * (change.abs() >= least)


def dare(name: str, changes: Sequence[Tensor], weights: Sequence[float], rank: int) -> Tensor:
    """What is dropped follows from the name of the matrix and the place of the change."""
    kept = []
    for place, change in enumerate(changes):
        seed = int.from_bytes(hashlib.blake2b(f"{name}:{place}".encode(), digest_size=7).digest())
        generator = torch.Generator().manual_seed(seed)
        mask = torch.rand(change.shape, generator=generator) >= DROPPED
        kept.append(change * mask / (1 - DROPPED))
    return linear(name, kept, weights, rank)


def svd(name: str, changes: Sequence[Tensor], weights: Sequence[float], rank: int) -> Tensor:
    total, kept = linear(name, changes, weights, rank), _lowered(rank, len(changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # it begins with a random product
        u, s, v = torch.svd_lowrank(total, q=min(kept + BEYOND, *total.shape), niter=4)
    return (u[:, :kept] * s[:kept]) @ v[:, :kept].t()


def _lowered(rank: int, changes: int) -> int:
    return max(1, round(RANK_SHARE * rank)) if changes == 1 else rank


MERGES: dict[str, Merge] = {"linear": linear, "ties": ties, "dare": dare, "svd": svd}


def merged(method: str, changes: Sequence[Change], weights: Sequence[float], rank: int) -> Change:
    """One change of every matrix that any of them changes."""
    names = sorted({name for change in changes for name in change})
    return Computed(names, lambda name: MERGES[method](name, _each(changes, name), weights, rank))


def _each(changes: Sequence[Change], name: str) -> list[Tensor]:
    named = {place: change[name] for place, change in enumerate(changes) if name in change}
    nothing = torch.zeros_like(next(iter(named.values())))
    return [named.get(place, nothing) for place in range(len(changes))]


def change_of(factors: Mapping[str, tuple[Tensor, Tensor]], scale: float) -> Change:
    """Of a LoRA's A [r, in] and B [out, r]."""
    return Computed(list(factors), lambda name: (factors[name][1] @ factors[name][0]) * scale)


class Changed:
    """A network whose matrices can be set to the base's plus a change, again and again."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.places: dict[str, tuple[Tensor, Tensor]] = {}  # name -> the view, and its own values
        for layer in network.linears():
            start = 0
            for name, rows in layer.parts:
                view = layer.weight.data[start : start + rows]
                self.places[name] = (view, view.clone())
                start += rows

    def set(self, change: Change) -> None:
        for name, (view, own) in self.places.items():
            view.copy_(own.float() + change[name] if name in change else own)
