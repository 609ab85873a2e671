"""The parts of a decoder layer with their gradients written out: fewer passes over memory than autograd's.

All work on flat tokens: x is [T, ...], T counts the tokens of a whole packed batch. Gradients of weights do
not go through autograd: they are added into float32 buffers (`Linear.weight_grad`, `Adapter.a_grad`, ...), so
that micro-batches accumulate in float32 and a frozen matrix costs nothing.

Not here: what a family of models looks like (network.py), the optimiser (training).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

BUCKET_MIN_TOKENS = 32  # segments shorter than this share one padded attention call


class Linear(nn.Module):
    """y = x Wᵀ + bias + (x Aᵀ) Bᵀ. `parts` are the models' own matrices that are stacked in W, by rows."""

    def __init__(self, weight: Tensor, bias: Tensor | None, parts: tuple[tuple[str, int], ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)  # [out, in]
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.parts = parts  # (name in the checkpoint, rows)
        self.adapter: Adapter | None = None
        self.weight_grad: Tensor | None = None  # float32 [out, in], set where the matrix itself is trained
        self.bias_grad: Tensor | None = None
        self.anchor: Tensor | None = None  # makes autograd call backward although no weight is in its graph

    def forward(self, x: Tensor) -> Tensor:
        if self.anchor is not None and torch.is_grad_enabled():
            return _Linear.apply(x, self.anchor, self)
        y = F.linear(x, self.weight, self.bias)
        if self.adapter is not None:
            y = torch.addmm(y, F.linear(x, self.adapter.a), self.adapter.b.t())
        return y


@dataclass(slots=True)
class Adapter:
    """LoRA factors in the compute dtype, scale folded into `b`; stacked matrices have their own rank rows."""

    a: Tensor  # [parts * r, in]
    b: Tensor  # [out, parts * r], zero outside each part's block
    a_grad: Tensor  # float32, as a
    b_grad: Tensor  # float32, as b; what falls outside the blocks is ignored by its owner


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, layer: Linear) -> Tensor:
        y = F.linear(x, layer.weight, layer.bias)
        low = None
        if layer.adapter is not None:
            low = F.linear(x, layer.adapter.a)
            y.addmm_(low, layer.adapter.b.t())
        ctx.layer = layer
        ctx.save_for_backward(x, low)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, None, None]:
        x, low = ctx.saved_tensors
        layer: Linear = ctx.layer
        dx = dy @ layer.weight if ctx.needs_input_grad[0] else None
        if layer.weight_grad is not None:
            layer.weight_grad.add_(dy.t() @ x)
        if layer.bias_grad is not None:
            layer.bias_grad.add_(dy.sum(0, dtype=torch.float32))
        if layer.adapter is not None:
            dlow = dy @ layer.adapter.b
            layer.adapter.b_grad.add_(dy.t() @ low)
            layer.adapter.a_grad.add_(dlow.t() @ x)
            if dx is not None:
                dx.addmm_(dlow, layer.adapter.a)
        return dx, None, None


class Norm(nn.Module):
    """RMSNorm over the last axis, statistics in float32."""

    def __init__(self, weight: Tensor, eps: float, name: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.eps = eps
        self.name = name
        self.weight_grad: Tensor | None = None
        self.anchor: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and (x.requires_grad or self.anchor is not None):
            return _Norm.apply(x, self.anchor, self)
        return _normalised(x, self.eps)[0] * self.weight


def _normalised(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    rstd = torch.rsqrt(size.square_().div_(x.shape[-1]).add_(eps))  # [..., 1] float32
    return (x * rstd).to(x.dtype), rstd


class _Norm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor | None, layer: Norm) -> Tensor:
        unit, rstd = _normalised(x, layer.eps)
        ctx.layer = layer
        ctx.save_for_backward(unit, rstd)
        return unit * layer.weight

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        unit, rstd = ctx.saved_tensors
        layer: Norm = ctx.layer
        if layer.weight_grad is not None:
            rows = (dy * unit).reshape(-1, unit.shape[-1])
            layer.weight_grad.add_(rows.sum(0, dtype=torch.float32))
        dunit = dy * layer.weight
        share = (dunit * unit).sum(-1, keepdim=True, dtype=torch.float32).div_(unit.shape[-1])
        return ((dunit - unit * share.to(dy.dtype)) * rstd).to(dy.dtype), None, None


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up; gate_up is [T, 2F] with the gate first."""
    if torch.is_grad_enabled() and gate_up.requires_grad:
        return _SwiGlu.apply(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


class _SwiGlu(Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        ctx.save_for_backward(gate_up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        out = torch.empty_like(gate_up)
        dgate, dup = out.chunk(2, dim=-1)
        torch.mul(dy, F.silu(gate), out=dup)
        dgate.copy_(torch.ops.aten.silu_backward(dy * up, gate))
        return out


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [T, heads, D] by the angles of cos and sin [T, 1, D/2] (halves, as in Hugging Face)."""
    if torch.is_grad_enabled() and x.requires_grad:
        return _Rope.apply(x, cos, sin)
    return _rotated(x, cos, sin, 1.0)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    out = torch.empty(x.shape, dtype=x.dtype)
    out_left, out_right = out.chunk(2, dim=-1)
    torch.mul(left, cos, out=out_left).addcmul_(right, sin, value=-sign)
    torch.mul(right, cos, out=out_right).addcmul_(left, sin, value=sign)
    return out


class _Rope(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(dy, cos, sin, -1.0), None, None


@dataclass(frozen=True, slots=True)
class Layout:
    """Which tokens see each other: buckets of segments of like length, each padded only for attention.

    Causal order alone hides the padding (it stands behind every real token of its segment), so no mask is
    needed. Padded tokens are at most twice the real ones, whatever the mix of lengths.
    """

    buckets: tuple[tuple[Tensor, int], ...]  # (index into the tokens [S * L], padded length L)
    back: Tensor | None  # [T], position of each token in the buckets' joined output; None: already in order

    @classmethod
    def of(cls, lengths: list[int]) -> Layout:
        """The layout of consecutive segments with these lengths."""
        if len(set(lengths)) == 1:
            return cls(((torch.arange(sum(lengths)), lengths[0]),), None)
        starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
        groups: dict[int, list[int]] = {}
        for i, length in enumerate(lengths):
            groups.setdefault(max(BUCKET_MIN_TOKENS, 1 << (length - 1).bit_length()), []).append(i)
        buckets, back, offset = [], torch.empty(starts[-1], dtype=torch.long), 0
        for _, members in sorted(groups.items()):
            longest = max(lengths[i] for i in members)
            index = torch.zeros(len(members), longest, dtype=torch.long)
            for row, i in enumerate(members):
                index[row, : lengths[i]] = torch.arange(starts[i], starts[i + 1])
                back[starts[i] : starts[i + 1]] = torch.arange(lengths[i]) + offset + row * longest
            buckets.append((index.reshape(-1), longest))
            offset += index.numel()
        return cls(tuple(buckets), back)


def attention(q: Tensor, k: Tensor, v: Tensor, layout: Layout, window: int | None) -> Tensor:
    """Causal attention within each segment. q [T, heads, D], k and v [T, kv_heads, D] -> [T, heads * D]."""
    pieces = [
        _bucket(q, k, v, index, length, layout.back is None, window) for index, length in layout.buckets
    ]
    joined = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return joined if layout.back is None else _Gather.apply(joined, layout.back)


def _bucket(
    q: Tensor, k: Tensor, v: Tensor, index: Tensor, length: int, ordered: bool, window: int | None
) -> Tensor:
    def padded(x: Tensor) -> Tensor:
        rows = x if ordered else _Gather.apply(x, index)
        return rows.view(-1, length, x.shape[1], x.shape[2]).transpose(1, 2)  # [S, heads, L, D]

    mask = _window_mask(length, window) if window is not None and length > window else None
    out = F.scaled_dot_product_attention(
        padded(q), padded(k), padded(v), mask, is_causal=mask is None, enable_gqa=q.shape[1] != k.shape[1]
    )
    return out.transpose(1, 2).reshape(index.numel(), -1)


def _window_mask(length: int, window: int) -> Tensor:
    distance = torch.arange(length)[:, None] - torch.arange(length)[None, :]
    return (distance >= 0) & (distance < window)


class _Gather(Function):
    """x[index] whose gradient is a deterministic index_add."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.rows = x.shape[0]
        ctx.save_for_backward(index)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        dx = torch.zeros(ctx.rows, *dy.shape[1:], dtype=dy.dtype)
        return dx.index_add_(0, index, dy), None
