"""The user's rows on their way through the layers: hidden states in chunks, and what each matrix is given.

Heavy (torch): entered from step.py and pruning.py alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK_TOKENS = 2048  # of one pass: bounds the memory of a layer


@dataclass(slots=True)
class Chunk:
    """Some rows, one behind the other: hidden states after the layers so far, [T, H]."""

    x: Tensor
    cos: Tensor
    sin: Tensor
    layout: Any


def chunks_of(rows: Sequence[Sequence[int]], network: Any) -> Iterator[Chunk]:
    held: list[Sequence[int]] = []
    for row in [*rows, None]:
        if held and (row is None or sum(map(len, held)) + len(row) > CHUNK_TOKENS):
            yield _chunk(held, network)
            held = []
        if row is not None:
            held.append(row)


def _chunk(rows: list[Sequence[int]], network: Any) -> Chunk:
    lengths = [len(row) for row in rows]
    ids = torch.tensor([i for row in rows for i in row])
    positions = torch.cat([torch.arange(n) for n in lengths])
    cos, sin = network.turns(positions)
    x = torch.nn.functional.embedding(ids, network.embed).float()
    return Chunk(x, cos, sin, network.layout(lengths))


def gram_matrices(layer: Any, linears: list[Any], chunks: list[Chunk]) -> dict[Any, Tensor]:
    """The Gram matrix of the inputs x of each matrix: the mean of x xᵀ, [I, I]."""
    tokens = sum(len(chunk.x) for chunk in chunks)
    gram = {linear: torch.zeros(linear.weight.shape[1], linear.weight.shape[1]) for linear in linears}

    def take(linear: Any, x: Tensor) -> None:
        gram[linear].addmm_(x.t(), x, alpha=1 / tokens)

    for chunk in chunks:
        with inputs_to(linears, take):
            layer(chunk.x, chunk.cos, chunk.sin, chunk.layout)
    return gram


@contextmanager
def inputs_to(linears: list[Any], take: Callable[[Any, Tensor], None]) -> Iterator[None]:
    """Every matrix's input goes to `take` as well."""

    def hook(linear: Any, inputs: tuple[Tensor, ...]) -> None:
        take(linear, inputs[0])

    handles = [linear.register_forward_pre_hook(hook) for linear in linears]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
