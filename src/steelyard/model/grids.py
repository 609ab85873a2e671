"""Matrices of a checkpoint as the 4-bit codes that training has settled on, in a file beside its weights.

    grid.int4     NAME.codes [O, I] U8, NAME.scale [O, G] F16, NAME.zero [O, G] U8

In the layout of safetensors, under a name that no loader takes for weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .integers import Grouped
from .weights import Weights, write

GRID = "grid.int4"
PARTS = {"codes": "U8", "scale": "F16", "zero": "U8"}


def write_grid(matrices: Mapping[str, Grouped], path: Path) -> None:
    """Matrices by name; equal ones give equal bytes."""
    tensors = {
        f"{name}.{part}": (dtype, getattr(matrix, part))
        for name, matrix in matrices.items()
        for part, dtype in PARTS.items()
    }
    write(tensors, path)


def read_grid(path: Path) -> dict[str, Grouped]:
    """What `write_grid` wrote. Raises WrongUse for a file that is cut short."""
    stored = Weights(path)
    names = [name.removesuffix(".codes") for name in stored if name.endswith(".codes")]
    return {name: Grouped(*(stored.raw(f"{name}.{part}") for part in PARTS)) for name in names}
