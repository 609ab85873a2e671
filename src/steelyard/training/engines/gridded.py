"""Every weight is trained while the layers' matrices compute as 4-bit integers will: what rounding costs is
learnt away before anything is rounded.

Each matrix has a fixed grid, a scale and a zero point a group. The network computes with the nearest level of
each master; its gradient goes to the master as if nothing had been rounded (straight through: Bengio 2013,
arXiv 1308.3432; the grid stands still, as in LLM-QAT, arXiv 2305.17888, before any learnt scale).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steelyard.model import GRID, Grouped, read_grid, save, write_grid

from ..trainable import Full, Trainable, trainable

LEVELS = 15  # the largest 4-bit code
INSIDE = 0.02  # of a step: how far from a border between two levels a master begins


def learnt_of(base: Path, settings: Mapping[str, Any]) -> tuple[Any, Trainable]:
    """The network of a folder and what is trained of it; by the grid of the settings where they have one."""
    return trainable(base, settings, Gridded if "grid" in settings else None)


@dataclass(frozen=True, slots=True)
class Grid:
    """Of one matrix of the network, [O, I]: scale and zero point of each group, [O, G, 1] float32."""

    scale: Tensor
    zero: Tensor

    def codes(self, weight: Tensor) -> Tensor:
        """The nearest levels, [O, G, size] float32."""
        groups = weight.view(*self.scale.shape[:2], -1)
        return (groups / self.scale).round_().add_(self.zero).clamp_(0, LEVELS)

    def rounded(self, weight: Tensor) -> Tensor:
        """[O, I]: what an engine multiplies with."""
        return self.codes(weight).sub_(self.zero).mul_(self.scale).view(weight.shape)

    def begin(self, weight: Tensor, codes: Tensor) -> Tensor:
        """The weight, moved no further than it must be to have these codes; the outermost have no end."""
        groups = weight.view(*self.scale.shape[:2], -1)
        level = codes.view(groups.shape).float()
        low, high = (((level - self.zero + side) * self.scale) for side in (INSIDE - 0.5, 0.5 - INSIDE))
        low[level == 0], high[level == LEVELS] = -torch.inf, torch.inf
        return torch.minimum(torch.maximum(groups, low), high).view(weight.shape)


class Gridded(Full):
    """As Full; the matrices that `settings["grid"]` names (a file of model/grids.py) keep to their grid."""

    def __init__(self, network: Any, settings: Mapping[str, Any]) -> None:
        super().__init__(network, settings)
        matrices = read_grid(Path(settings["grid"]))
        self._grids: list[Grid | None] = []
        for view, (owner, name, weight) in zip(self._views, self.weights, strict=True):
            own = _stacked(owner, matrices) if name == "weight" else None
            self._grids.append(own[0] if own else None)
            if own:
                view.copy_(own[0].begin(view, own[1]))
                weight.data = torch.empty_like(weight)  # of float32 it would be the master itself
        self.push()

    def push(self) -> None:
        for view, grid, (_, _, weight) in zip(self._views, self._grids, self.weights, strict=True):
            if grid is not None:
                weight.data.copy_(grid.rounded(view))
            elif weight.dtype != torch.float32:
                weight.data.copy_(view)

    def write(self, folder: Path, base: Path) -> None:
        """The model as it is once rounded, and the integers themselves."""
        for view, grid, (_, _, weight) in zip(self._views, self._grids, self.weights, strict=True):
            weight.data = view if grid is None else grid.rounded(view)
        save(self.network, folder, base, "bfloat16")
        write_grid(dict(self._matrices()), folder / GRID)

    def _matrices(self) -> Iterator[tuple[str, Grouped]]:
        """The models' own matrices that are stacked in one here."""
        for view, grid, (owner, _, _) in zip(self._views, self._grids, self.weights, strict=True):
            if grid is None:
                continue
            codes = grid.codes(view).view(view.shape).to(torch.uint8).numpy()
            scale, zero = grid.scale[..., 0].numpy(), grid.zero[..., 0].numpy()
            start = 0
            for name, rows in owner.parts:
                part = slice(start, start + rows)
                start += rows
                f16, u8 = scale[part].astype(np.float16), zero[part].astype(np.uint8)
                yield f"{name}.weight", Grouped(codes[part], f16, u8)


def _stacked(owner: Any, matrices: Mapping[str, Grouped]) -> tuple[Grid, Tensor] | None:
    """Grid and codes of a matrix that stacks several of the model's own; None where one of them has none."""
    names = [f"{name}.weight" for name, _ in getattr(owner, "parts", ())]
    if not names or any(name not in matrices for name in names):
        return None
    own = [matrices[name] for name in names]
    scale, zero, codes = (
        torch.from_numpy(np.concatenate([np.asarray(getattr(m, part)) for m in own]))
        for part in ("scale", "zero", "codes")
    )
    return Grid(scale.float()[..., None], zero.float()[..., None]), codes
