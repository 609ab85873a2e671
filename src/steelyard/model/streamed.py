"""A decoder that need not fit into memory: its layers are read from disk one at a time, in float32.

The arithmetic is network.py's own: the same layers, read from disk each time they are used.
Where the weights come from is a `Tensors`: the files of a folder as they are, or any form of them (forms.py).

Not here: what is computed with the layers (the gate's reference).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .decoder import read_decoder
from .families import FAMILIES, Decoder
from .network import Block, Network, Reader
from .quantised import checkpoint_weights

HEAD_ROWS = 16384  # of the vocabulary in memory at once: 270 MB at a width of 4096


class Tensors(Protocol):
    """Weights by their names in a checkpoint, widened to float32, whole or by rows."""

    folder: Path

    def __contains__(self, name: str) -> bool: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def f32_rows(self, name: str, start: int, stop: int | None) -> np.ndarray: ...


class LayersFromDisk:
    """The parts of a decoder, each read when it is used: this class keeps no layer."""

    def __init__(self, tensors: Tensors) -> None:
        """Raises WrongUse where the folder's config or weights cannot be read."""
        self.tensors = tensors
        self.config = read_decoder(tensors.folder)
        self.reader = _TensorReader(tensors, self.config)
        # The network without its large parts: positions, layout and the last norm are its own.
        self.rest = Network(replace(self.config, layers=0, tied=True), _WithoutEmbedding(self.reader))
        self._block = FAMILIES[self.config.family].layer or (lambda: Block)
        names = self.config.names
        self.embedding_name = f"{names.embedding}.weight"
        self.head_name = self.embedding_name if self.config.tied else f"{names.head}.weight"

    @property
    def layer_count(self) -> int:
        return self.config.layers

    def layer(self, place: int) -> Block:
        """The decoder layer at `place`, float32, frozen."""
        block: Block = self._block()(self.config, place, self.reader)
        return block

    def embedded(self, ids: Tensor) -> Tensor:
        """[T] -> [T, H]; only the rows that occur are read."""
        return self._rows(self.embedding_name, ids)

    def head_rows(self, ids: Tensor) -> Tensor:
        """The output matrix's rows of these tokens: [T] -> [T, H]."""
        return self._rows(self.head_name, ids)

    def _rows(self, name: str, ids: Tensor) -> Tensor:
        rows, back = torch.unique(ids, return_inverse=True)
        table = np.concatenate([self.tensors.f32_rows(name, i, i + 1) for i in rows.tolist()])
        return F.embedding(back, torch.from_numpy(table))

    def head(self, rows: int = HEAD_ROWS) -> Iterator[tuple[int, Tensor]]:
        """The output matrix [V, H] in slices of the vocabulary: (first id, [rows, H])."""
        vocab = self.tensors.shape(self.head_name)[0]
        for start in range(0, vocab, rows):
            values = self.tensors.f32_rows(self.head_name, start, min(start + rows, vocab))
            yield start, torch.from_numpy(values)


def layers_from_disk(tensors: Tensors | Path) -> LayersFromDisk:
    """The decoder of a folder, or of weights in another form. Raises WrongUse."""
    return LayersFromDisk(checkpoint_weights(tensors) if isinstance(tensors, Path) else tensors)


def network_of(tensors: Tensors | Path) -> Network:
    """The whole network in memory, float32, from the same weights."""
    layers = layers_from_disk(tensors)
    return Network(layers.config, layers.reader)


class _TensorReader(Reader):
    """Makes norms and matrices of the weights that a Tensors gives."""

    def __init__(self, tensors: Tensors, decoder: Decoder) -> None:
        self.tensors, self.folder, self.decoder = tensors, tensors.folder, decoder
        self.eps, self.dtype = decoder.eps, torch.float32

    def find(self, name: str) -> Tensor | None:
        return torch.from_numpy(self.tensors.f32_rows(name, 0, None)) if name in self.tensors else None


class _WithoutEmbedding(_TensorReader):
    """The same with an embedding of no rows: it is the largest matrix, and read by rows."""

    def __init__(self, reader: _TensorReader) -> None:
        super().__init__(reader.tensors, reader.decoder)

    def tensor(self, name: str) -> Tensor:
        large = name == f"{self.decoder.names.embedding}.weight"
        return torch.empty(0, self.decoder.hidden) if large else super().tensor(name)
