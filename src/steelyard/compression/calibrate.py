"""INT4 whose rounding looks at the user's own rows: GPTQ, layer by layer, in torch on the CPU.

Columns are rounded one after another. The error of each is compensated by adjusting the columns that are
still in full precision, as far as their inputs correlate with its own over the rows (Frantar 2022). Each
layer is fitted to the output of the layers already rounded.

Equal weights, rows and cores give equal bytes. Memory: the weights in bf16, one layer in f32, the hidden
states of CALIBRATION_TOKENS. Heavy (torch): entered from step.py alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..artefact import Watch
from ..errors import Stopped
from ..model import Grouped, group_of, load
from .rounding import LEVELS, SHRINKS, refuse_unless

CALIBRATION_TOKENS = 8192  # a minute or two at 135M parameters; what 4,096 gave: decisions/045
CHUNK_TOKENS = 2048  # of one pass: bounds the memory of a layer
BLOCK = 64  # columns whose errors are gathered before all later columns are adjusted
DAMP = 0.01  # of the mean diagonal: keeps the inverse well behaved


def calibrate(folder: Path, rows: Sequence[Sequence[int]], largest: int, watch: Watch) -> dict[str, Grouped]:
    """The layers' matrices of the model in `folder`, by name, in 4 bits; `rows` are token ids."""
    network = load(Path(folder), dtype="bfloat16").eval()
    chunks = list(_chunks(rows, network))
    rounded: dict[str, Grouped] = {}
    with torch.inference_mode(), watch.progress("calibrate", total=len(network.layers), unit="layers") as bar:
        for layer in network.layers:
            if watch.stop:
                raise Stopped("run.stopped", "stopped while calibrating", hint="run the same command again")
            layer.float()
            rounded.update(_layer(layer, chunks, largest))
            layer.to(torch.bfloat16)
            bar.advance(1)
    return rounded


@dataclass(slots=True)
class _Chunk:
    """Some rows, one behind the other: hidden states after the rounded layers so far, [T, H]."""

    x: Tensor
    cos: Tensor
    sin: Tensor
    layout: Any


def _chunks(rows: Sequence[Sequence[int]], network: Any) -> Iterator[_Chunk]:
    held: list[Sequence[int]] = []
    for row in [*rows, None]:
        if held and (row is None or sum(map(len, held)) + len(row) > CHUNK_TOKENS):
            yield _chunk(held, network)
            held = []
        if row is not None:
            held.append(row)


def _chunk(rows: list[Sequence[int]], network: Any) -> _Chunk:
    lengths = [len(row) for row in rows]
    ids = torch.tensor([i for row in rows for i in row])
    positions = torch.cat([torch.arange(n) for n in lengths])
    cos, sin = network.turns(positions)
    x = torch.nn.functional.embedding(ids, network.embed).float()
    return _Chunk(x, cos, sin, network.layout(lengths))


def _layer(layer: Any, chunks: list[_Chunk], largest: int) -> dict[str, Grouped]:
    """Round a layer's matrices over what the exact layer gives them; its rounded output goes on."""
    linears = list(layer.linears())
    gram = _gram_matrices(layer, linears, chunks)
    rounded: dict[str, Grouped] = {}
    for linear in linears:
        size = group_of(linear.weight.shape[1], largest)
        if not size:
            continue  # the graph stores it by row
        name = f"{linear.parts[0][0]}.weight"
        refuse_unless(bool(gram[linear].isfinite().all()), name)
        grouped, wide = _rounded(linear.weight, gram[linear], size, name)
        linear.weight.copy_(wide)
        rounded.update(_parts(linear, grouped))
    for chunk in chunks:
        chunk.x = layer(chunk.x, chunk.cos, chunk.sin, chunk.layout)
    return rounded


def _gram_matrices(layer: Any, linears: list[Any], chunks: list[_Chunk]) -> dict[Any, Tensor]:
    """The Gram matrix of the inputs x of each matrix: the mean of x xᵀ, [I, I]."""
    tokens = sum(len(chunk.x) for chunk in chunks)
    gram = {linear: torch.zeros(linear.weight.shape[1], linear.weight.shape[1]) for linear in linears}

    def take(linear: Any, x: Tensor) -> None:
        gram[linear].addmm_(x.t(), x, alpha=1 / tokens)

    for chunk in chunks:
        with _hooks(linears, take):
            layer(chunk.x, chunk.cos, chunk.sin, chunk.layout)
    return gram


@contextmanager
def _hooks(linears: list[Any], take: Callable[[Any, Tensor], None]) -> Iterator[None]:
    """Every matrix's input goes to `take` as well."""

    def hook(linear: Any, inputs: tuple[Tensor, ...]) -> None:
        take(linear, inputs[0])

    handles = [linear.register_forward_pre_hook(hook) for linear in linears]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _parts(linear: Any, grouped: Grouped) -> dict[str, Grouped]:
    """The models' own matrices that are stacked in one here."""
    rounded, start = {}, 0
    for name, rows in linear.parts:
        cut = slice(start, start + rows)
        rounded[f"{name}.weight"] = Grouped(grouped.codes[cut], grouped.scale[cut], grouped.zero[cut])
        start += rows
    return rounded


# ------------------------------------------------------------------ one matrix


def _rounded(weight: Tensor, gram: Tensor, size: int, name: str) -> tuple[Grouped, Tensor]:
    """GPTQ over groups of `size` inputs, columns that matter most first. Returns it packed and widened."""
    refuse_unless(bool(weight.isfinite().all()), name)
    h = gram.double()
    h.diagonal().add_(DAMP * h.diagonal().mean() + 1e-12)
    scale, zero = _grid(weight, h.diagonal().float(), size)
    order = torch.argsort(h.diagonal(), descending=True, stable=True)
    upper = _inverse_root(h[order][:, order]).float()
    inputs = weight.t()[order].contiguous()  # [I, O]: a column of the matrix lies together
    codes = _columns(inputs, upper, scale.t().contiguous(), zero.t().contiguous(), order // size)
    codes = codes[torch.argsort(order)].t().contiguous()
    wide = _widened(codes, scale, zero, size)
    grouped = Grouped(
        codes.to(torch.uint8).numpy(), scale.numpy().astype(np.float16), zero.to(torch.uint8).numpy()
    )
    return grouped, wide


def _inverse_root(h: Tensor) -> Tensor:
    """Upper Cholesky factor of the inverse of h."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    return torch.linalg.cholesky(inverse, upper=True)


def _grid(weight: Tensor, weigh: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point of each group, [O, G]: the clipping with the least weighted error."""
    w = weight.view(len(weight), -1, size)
    by = weigh.view(1, -1, size)
    low, high = w.amin(-1).clamp(max=0), w.amax(-1).clamp(min=0)
    best = torch.full(low.shape, torch.inf)
    scale, zero = torch.zeros_like(low), torch.zeros_like(low)
    for shrink in SHRINKS:
        s = ((high - low) * shrink / LEVELS).clamp(min=6e-8).half().float()
        z = (-low * shrink / s).round().clamp(0, LEVELS)
        q = (w / s[..., None]).round_().add_(z[..., None]).clamp_(0, LEVELS)
        error = q.sub_(z[..., None]).mul_(s[..., None]).sub_(w).square_().mul_(by).sum(-1)
        better = error < best
        best, scale, zero = (torch.where(better, a, b) for a, b in ((error, best), (s, scale), (z, zero)))
    return scale, zero


def _columns(w: Tensor, upper: Tensor, scale: Tensor, zero: Tensor, group: Tensor) -> Tensor:
    """Codes [I, O] of w in its present order of inputs; w is used up."""
    codes = torch.empty_like(w)
    for begin in range(0, len(w), BLOCK):
        end = min(begin + BLOCK, len(w))
        errors = torch.empty(end - begin, w.shape[1])
        for place, of in enumerate(group[begin:end].tolist(), start=begin):
            s, z = scale[of], zero[of]
            q = torch.div(w[place], s).round_().add_(z).clamp_(0, LEVELS)
            codes[place] = q
            error = q.sub_(z).mul_(s).neg_().add_(w[place]).div_(upper[place, place])
            w[place:end].addr_(upper[place, place:end], error, alpha=-1)
            errors[place - begin] = error
        w[end:].addmm_(upper[begin:end, end:].t(), errors, alpha=-1)
    return codes


def _widened(codes: Tensor, scale: Tensor, zero: Tensor, size: int) -> Tensor:
    q = codes.view(len(codes), -1, size)
    return ((q - zero[..., None]) * scale[..., None]).view(codes.shape)
