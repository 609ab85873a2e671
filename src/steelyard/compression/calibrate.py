"""INT4 whose rounding looks at the user's own rows: GPTQ, layer by layer, in torch on the CPU.

Columns are rounded one after another. The error of each is compensated by adjusting the columns that are
still in full precision, as far as their inputs correlate with its own over the rows (Frantar 2022). Each
layer is fitted to the output of the layers already rounded.

Equal weights, rows and threads give equal bytes. Memory: the weights in bf16, one layer in f32, the hidden
states of CALIBRATION_TOKENS. Heavy (torch): entered from step.py alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..artefact import Watch
from ..errors import Stopped
from ..model import Grouped, group_of, load
from .activations import Chunk, chunks_of, gram_matrices
from .rounding import LEVELS, SHRINKS, refuse_unless

CALIBRATION_TOKENS = 8192  # a minute or two at 135M parameters; what 4,096 gave: decisions/045
BLOCK = 64  # columns whose errors are gathered before all later columns are adjusted
DAMP = 0.01  # of the mean diagonal: keeps the inverse well behaved


def calibrate(
    folder: Path, rows: Sequence[Sequence[int]], largest: int, watch: Watch, threads: int | None = None
) -> dict[str, Grouped]:
    """The layers' matrices of the model in `folder`, by name, in 4 bits; `rows` are token ids.

    `threads`: to compute with, and part of what the bytes follow from; None: as many as torch takes."""
    if threads is not None:
        torch.set_num_threads(threads)
    network = load(Path(folder), dtype="bfloat16").eval()
    chunks = list(chunks_of(rows, network))
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


def _layer(layer: Any, chunks: list[Chunk], largest: int) -> dict[str, Grouped]:
    """Round a layer's matrices over what the exact layer gives them; its rounded output goes on."""
    linears = list(layer.linears())
    gram = gram_matrices(layer, linears, chunks)
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
