"""Which layers, heads and MLP channels of a decoder the user's rows need least, and weights that make up for
them. In torch on the CPU.

Layers go one after another: of the few that turn the residual stream least (Men 2024, arXiv 2403.03853) the
one without which the model's last hidden states change least. Of each layer that stays go whole KV groups
and MLP channels, by what the layer's output would lose after the best fit (Hassibi 1993; in groups Kurtic
2023, arXiv 2302.04089): what stays of the matrix behind them is fitted anew over the rows, by least squares.

Equal weights, rows and cores give equal results. Heavy (torch): entered from pruning.py alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..artefact import Watch
from .activations import Chunk, gram_matrices
from .faults import stop_if_asked

SHORTLIST = 6  # layers that are tried for each that goes
DAMP = 0.01  # of the mean diagonal: keeps the inverse well behaved


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is left of a decoder; uniform over its layers."""

    layers: int
    kv_heads: int
    ffn: int


@dataclass(frozen=True, slots=True)
class Kept:
    """Of one layer: where its weights stand in the larger model. Indices ascend."""

    layer: int
    groups: tuple[int, ...]  # KV heads, each with its query heads
    channels: tuple[int, ...]


# ------------------------------------------------------------------ layers


def kept_layers(network: Any, chunks: Sequence[Chunk], count: int, watch: Watch) -> list[int]:
    """The `count` layers that stay, ascending. Raises Stopped."""
    kept = list(range(len(network.layers)))
    with torch.inference_mode(), watch.progress("layers", len(kept) - count, "layers") as bar:
        whole = [_last(network, kept, chunk, chunk.x) for chunk in chunks]
        while len(kept) > count:
            stop_if_asked(watch)
            before, turned = _walk(network, kept, chunks)
            order = sorted(range(len(kept)), key=lambda i: (turned[i], i))[:SHORTLIST]
            lost = {i: _lost(network, kept[i + 1 :], before[i], chunks, whole) for i in order}
            kept.pop(min(lost, key=lambda i: (lost[i], i)))
            bar.advance(1)
    return kept


def _walk(
    network: Any, kept: Sequence[int], chunks: Sequence[Chunk]
) -> tuple[list[list[Tensor]], list[float]]:
    """Hidden states in front of each layer, and how far it turns them: 1 less the mean cosine."""
    before: list[list[Tensor]] = []
    turned, states = [], [chunk.x for chunk in chunks]
    for layer in kept:
        before.append(states)
        states = [_through(network, layer, c, x) for c, x in zip(chunks, states, strict=True)]
        pairs = zip(before[-1], states, strict=True)
        cosines = torch.cat([torch.nn.functional.cosine_similarity(a, b, dim=1) for a, b in pairs])
        turned.append(1 - float(cosines.mean()))
    return before, turned


def _through(network: Any, layer: int, chunk: Chunk, x: Tensor) -> Tensor:
    dtype = network.embed.dtype
    return network.layers[layer](x, chunk.cos.to(dtype), chunk.sin.to(dtype), chunk.layout)


def _last(network: Any, layers: Sequence[int], chunk: Chunk, x: Tensor) -> Tensor:
    """Through those layers and the last norm."""
    for layer in layers:
        x = _through(network, layer, chunk, x)
    return network.norm(x).float()


def _lost(
    network: Any, layers: Sequence[int], states: list[Tensor], chunks: Sequence[Chunk], whole: list[Tensor]
) -> float:
    """Squared distance of the last hidden states to those of the whole model, as a share of their square."""
    distance, size = 0.0, 0.0
    for chunk, x, wanted in zip(chunks, states, whole, strict=True):
        distance += float((_last(network, layers, chunk, x) - wanted).square().sum())
        size += float(wanted.square().sum())
    return distance / max(size, 1e-30)


# ------------------------------------------------------------------ widths


def kept_widths(
    network: Any, layers: Sequence[int], chunks: list[Chunk], sizes: Sizes, watch: Watch
) -> Iterator[Kept]:
    """What stays of each of those layers, bottom up; the network computes what the smaller one will.

    Columns of the matrices behind what goes are zero afterwards, the others fitted anew. Raises Stopped.
    """
    with torch.inference_mode(), watch.progress("widths", len(layers), "layers") as bar:
        for number in layers:
            stop_if_asked(watch)
            layer = network.layers[number]
            dtype = layer.down.weight.dtype
            layer.float()
            groups, channels = _narrowed(layer, network.config, chunks, sizes)
            for chunk in chunks:
                chunk.x = layer(chunk.x, chunk.cos, chunk.sin, chunk.layout)
            layer.to(dtype)
            bar.advance(1)
            yield Kept(number, groups, channels)


def _narrowed(
    layer: Any, decoder: Any, chunks: list[Chunk], sizes: Sizes
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    gram = gram_matrices(layer, [layer.o, layer.down], chunks)
    each = layer.o.weight.shape[1] // decoder.kv_heads  # columns of a KV head's query heads
    groups = _fitted(layer.o, gram[layer.o], sizes.kv_heads, each)
    return groups, _fitted(layer.down, gram[layer.down], sizes.ffn, 1)


def _fitted(linear: Any, gram: Tensor, count: int, each: int) -> tuple[int, ...]:
    """Blocks of `each` inputs that stay; the matrix is fitted to give what it gave with all of them."""
    weight: Tensor = linear.weight
    blocks = weight.shape[1] // each
    if count >= blocks:
        return tuple(range(blocks))
    h = gram.double()
    h.diagonal().add_(DAMP * h.diagonal().mean() + 1e-12)
    lost = _losses(weight.double(), h, each)
    kept = sorted(torch.argsort(lost, descending=True, stable=True)[:count].tolist())
    columns = (torch.tensor(kept)[:, None] * each + torch.arange(each)).reshape(-1)
    target = weight.double() @ h[:, columns]
    solved = torch.linalg.solve(h[columns][:, columns], target, left=False)
    weight.zero_()
    weight[:, columns] = solved.to(weight.dtype)
    return tuple(kept)


def _losses(weight: Tensor, h: Tensor, each: int) -> Tensor:
    """What the output's square loses without each block, the others fitted: tr(W_b (H⁻¹)_bb⁻¹ W_bᵀ)."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    if each == 1:
        return weight.square().sum(0) / inverse.diagonal()
    lost = []
    for start in range(0, weight.shape[1], each):
        part = slice(start, start + each)
        w = weight[:, part]
        lost.append((torch.linalg.solve(inverse[part, part], w, left=False) * w).sum())
    return torch.stack(lost)
