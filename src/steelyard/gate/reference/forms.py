"""Weights of a model as another form of it holds them, still float32.

Each is a Tensors (model.LayersFromDisk reads from one): rows by name, nothing is read before it is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import WrongUse

Rounding = Callable[[np.ndarray], np.ndarray]  # [O, I] f32 -> [O, I] f32, each row by itself
E4M3_MOST = 448.0
FP4_LEVELS = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
FP4_LARGEST_EXPONENT = 2  # of 4, the largest power of two among the levels
MX_BLOCK = 32


def int8(rows: np.ndarray) -> np.ndarray:
    """Symmetric, one f16 scale a row: as this project's INT8 rounds."""
    scale = np.maximum(np.abs(rows).max(1, keepdims=True) / np.float32(127), np.float32(1e-7))
    scale = scale.astype(np.float16).astype(np.float32)
    return np.clip(np.rint(rows / scale), -127, 127) * scale


class Rounded:
    """Every matrix of `tensors` rounded; `layers_only` leaves embedding and head as they are."""

    def __init__(self, tensors: Any, rounding: Rounding, layers_only: bool = False) -> None:
        self.folder, self.tensors = tensors.folder, tensors
        self.rounding, self.layers_only = rounding, layers_only

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors.shape(name))

    def f32_rows(self, name: str, start: int, stop: int | None) -> np.ndarray:
        rows: np.ndarray = self.tensors.f32_rows(name, start, stop)
        plain = rows.ndim != 2 or (self.layers_only and ".layers." not in name)
        return rows if plain else self.rounding(rows)


class Replaced:
    """`tensors` with the matrices that `served` holds in their place.

    `of`: the model that `served` was made from, where `tensors` is another one; what rounding changed in that
    model is added, so that the two stay as far apart as they were.
    """

    def __init__(self, tensors: Any, served: Any, of: Any = None) -> None:
        self.folder, self.tensors, self.served, self.of = tensors.folder, tensors, served, of

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors.shape(name))

    def f32_rows(self, name: str, start: int, stop: int | None) -> np.ndarray:
        stored = self.tensors
        if name not in self.served:
            return np.asarray(stored.f32_rows(name, start, stop))
        served: np.ndarray = self.served.f32_rows(name, start, stop)
        if self.of is None:
            return served
        return np.asarray(stored.f32_rows(name, start, stop) + (served - self.of.f32_rows(name, start, stop)))


ROUNDINGS: dict[str, Rounding] = {"int8": int8}


def tensors_of(folder: Path, form: str = "stored", served: Path | None = None, of: Path | None = None) -> Any:
    """The weights of `folder` in a form; see exact_reference. Raises WrongUse."""
    from ...model import checkpoint_weights

    tensors: Any = checkpoint_weights(folder)
    if form != "stored":
        if form not in ROUNDINGS:
            raise WrongUse("gate.form", f"{form!r} is no form", hint=f"one of {', '.join(ROUNDINGS)}")
        tensors = Rounded(tensors, ROUNDINGS[form])
    if served is None:
        return tensors
    return Replaced(tensors, _served(served), checkpoint_weights(of) if of else None)


def _served(folder: Path) -> Any:
    """Of an engine's own folder, or of a checkpoint that a server loads as it is."""
    from ...model import ServedTensors, checkpoint_weights

    own = (folder / "openvino_model.xml").exists()
    return ServedTensors(folder) if own else checkpoint_weights(folder)
