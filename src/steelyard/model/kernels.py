"""The parts of a decoder layer with their gradients written out: fewer passes over memory than autograd's.

All work on flat tokens: x is [T, ...], T counts the tokens of a whole packed batch. Gradients of weights do
not go through autograd: they are added into float32 buffers (`Linear.weight_grad`, `Adapter.a_grad`, ...), so
that micro-batches accumulate in float32 and a frozen matrix costs nothing.

Not here: what a family of models looks like (network.py), the optimiser (training).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from .fp8 import Fp8

BUCKET_MIN_TOKENS = 32  # segments shorter than this share one padded attention call
BUCKET_STEP_TOKENS = 32  # torch's softmax over a bf16 row of another length takes two to four times as long
PLAIN_MAX_TOKENS = 512  # measured on Zen 4: above it torch's fused attention is faster


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
        self.fp8: tuple[Fp8, int] | None = (
            None  # its products are rounded to FP8, as the matrix of that number
        )

    def adapt(
        self, a: Tensor, b: Tensor, a_grad: Tensor, b_grad: Tensor, dropout: Dropout | None = None
    ) -> None:
        """Hang LoRA factors on the matrix, see Adapter."""
        self.adapter = Adapter(a, b, a_grad, b_grad, dropout)

    def rounded(self, values: Tensor, kind: str) -> Tensor:
        """An operand of its product, "x", "weight" or "grad": as it is, or in FP8."""
        return values if self.fp8 is None else self.fp8[0].rounded(values, self.fp8[1], kind)

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
    dropout: Dropout | None = None

    def inputs(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """What A sees of x in training, and by what it was multiplied."""
        if self.dropout is None:
            return x, None
        mask = self.dropout.mask(x)
        return x * mask, mask


class Chance:
    """Where a run is, (seed, step, micro-batch): what is drawn follows from it alone."""

    at: tuple[int, ...] = ()


@dataclass(slots=True)
class Dropout:
    """Which inputs one LoRA leaves out (Srivastava et al. 2014): a function of the place in the run, made
    again in the backward pass rather than kept. A byte of chance an input: `share` in steps of 1/256."""

    share: float
    number: int  # of the matrix
    chance: Chance

    def mask(self, x: Tensor) -> Tensor:
        """As x: 0, or what makes up for those left out."""
        left_out = round(self.share * 256)
        seed = hashlib.blake2b(repr((*self.chance.at, self.number)).encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(seed, "little", signed=True))
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(
            -(2**63), None, generator=generator
        )
        chance = words.view(torch.uint8)[: x.numel()].view(x.shape)
        return (chance >= left_out).to(x.dtype).mul_(256 / (256 - left_out))


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, layer: Linear) -> Tensor:
        y = F.linear(layer.rounded(x, "x"), layer.rounded(layer.weight, "weight"), layer.bias)
        low = None
        if layer.adapter is not None:
            low = F.linear(layer.adapter.inputs(x)[0], layer.adapter.a)
            y.addmm_(low, layer.adapter.b.t())
        ctx.layer = layer
        ctx.save_for_backward(x, low)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, None, None]:
        x, low = ctx.saved_tensors
        layer: Linear = ctx.layer
        dy8 = layer.rounded(dy, "grad")
        dx = dy8 @ layer.rounded(layer.weight, "weight") if ctx.needs_input_grad[0] else None
        if layer.weight_grad is not None:
            layer.weight_grad.add_(dy8.t() @ layer.rounded(x, "x"))
        if layer.bias_grad is not None:
            layer.bias_grad.add_(dy.sum(0, dtype=torch.float32))
        if layer.adapter is not None:
            dlow = dy @ layer.adapter.b
            seen, mask = layer.adapter.inputs(x)
            layer.adapter.b_grad.add_(dy.t() @ low)
            layer.adapter.a_grad.add_(dlow.t() @ seen)
            if dx is None:
                return None, None, None
            if mask is None:
                dx.addmm_(dlow, layer.adapter.a)
            else:
                dx.addcmul_(dlow @ layer.adapter.a, mask)
        return dx, None, None


class Norm(nn.Module):
    """RMSNorm over the last axis, statistics in float32; the result has the weight's dtype."""

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
        return _normalised(x, self.eps, self.weight.dtype)[0] * self.weight


def _normalised(x: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    rstd = torch.rsqrt(size.square_().div_(x.shape[-1]).add_(eps))  # [..., 1] float32
    return (x * rstd).to(dtype), rstd


class _Norm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor | None, layer: Norm) -> Tensor:
        unit, rstd = _normalised(x, layer.eps, layer.weight.dtype)
        ctx.layer, ctx.dtype = layer, x.dtype
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
        # one fused pass: the plain formula in mixed types takes six times as long
        dx = torch.addcmul(dunit, unit, share.to(dy.dtype), value=-1)
        return (dx * rstd).to(ctx.dtype), None, None


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
class Bucket:
    """`count` segments of like length, each padded to `length` tokens, for one attention call."""

    count: int
    length: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Which tokens see each other: segments sorted into buckets and padded there, for attention alone.

    Causal order hides the padding (it stands behind every real token of its segment), so no mask is needed.
    Padded tokens are at most twice the real ones beyond BUCKET_MIN_TOKENS, whatever the mix of lengths. The
    indices say which row [token, head] of the flat tensors stands at [segment, head, token] and back.
    """

    buckets: tuple[Bucket, ...]
    q_index: Tensor
    q_back: Tensor
    q_pads: Tensor
    kv_index: Tensor
    kv_back: Tensor

    @classmethod
    def of(cls, lengths: list[int], heads: int, kv_heads: int) -> Layout:
        """The layout of consecutive segments with these lengths."""
        starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
        groups: dict[int, list[int]] = {}
        for i, length in enumerate(lengths):
            groups.setdefault(max(BUCKET_MIN_TOKENS, 1 << (length - 1).bit_length()), []).append(i)
        buckets, tokens = [], []
        for _, members in sorted(groups.items()):
            longest = -(-max(lengths[i] for i in members) // BUCKET_STEP_TOKENS) * BUCKET_STEP_TOKENS
            index = torch.full((len(members), longest), -1, dtype=torch.long)
            for row, i in enumerate(members):
                index[row, : lengths[i]] = torch.arange(starts[i], starts[i + 1])
            buckets.append(Bucket(len(members), longest))
            tokens.append(index)
        q_index, q_back, q_pads = _head_rows(tokens, heads)
        kv_index, kv_back, _ = _head_rows(tokens, kv_heads)
        return cls(tuple(buckets), q_index, q_back, q_pads, kv_index, kv_back)


def _head_rows(tokens: list[Tensor], heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Index into [T * heads] rows in the order (bucket, segment, head, token), its inverse, and the pads."""
    head = torch.arange(heads)[None, :, None]
    index = torch.cat(
        [(t[:, None, :] * heads + head).where(t[:, None, :] >= 0, -1).reshape(-1) for t in tokens]
    )
    real = torch.nonzero(index >= 0).reshape(-1)
    back = torch.empty(real.numel(), dtype=torch.long)
    back[index[real]] = real
    return index.clamp(min=0), back, torch.nonzero(index < 0).reshape(-1)


def attention(q: Tensor, k: Tensor, v: Tensor, layout: Layout, window: int | None) -> Tensor:
    """Causal attention within each segment. q [T, heads, D], k and v [T, kv_heads, D] -> [T, heads * D]."""
    tokens, heads, width = q.shape
    kv_heads = k.shape[1]
    rows_q = _Reorder.apply(q.reshape(-1, width), layout.q_index, layout.q_back, None)
    rows_k = _Reorder.apply(k.reshape(-1, width), layout.kv_index, layout.kv_back, None)
    rows_v = _Reorder.apply(v.reshape(-1, width), layout.kv_index, layout.kv_back, None)
    sizes = [b.count * b.length for b in layout.buckets]
    pieces = []
    for bucket, bq, bk, bv in zip(
        layout.buckets,
        rows_q.split([n * heads for n in sizes]),
        rows_k.split([n * kv_heads for n in sizes]),
        rows_v.split([n * kv_heads for n in sizes]),
        strict=True,
    ):
        shape = (bucket.count, -1, bucket.length, width)
        pieces.append(_attend(bq.view(shape), bk.view(shape), bv.view(shape), window).reshape(-1, width))
    joined = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return _Reorder.apply(joined, layout.q_back, layout.q_index, layout.q_pads).view(tokens, -1)


def _attend(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
    """[S, heads, L, D] by [S, kv_heads, L, D]. Short bf16 segments by plain products: twice as fast here."""
    length = q.shape[2]
    if q.dtype == torch.bfloat16 and length <= PLAIN_MAX_TOKENS:
        return _Plain.apply(q, k, v, window)
    mask = None if window is None or length <= window else _visible(length, window)
    gqa = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=gqa)


def _visible(length: int, window: int | None) -> Tensor:
    """[L, L] True where a query (row) sees a key (column)."""
    distance = torch.arange(length)[:, None] - torch.arange(length)[None, :]
    return (distance >= 0) if window is None else (distance >= 0) & (distance < window)


class _Plain(Function):
    """softmax(q kᵀ / √D) v; the gradient computes the probabilities again: nothing of size L² is stored."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
        ctx.window = window
        ctx.save_for_backward(q, k, v)
        return torch.bmm(_probabilities(q, k, window), v.flatten(0, 1)).view(q.shape)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v = ctx.saved_tensors
        p = _probabilities(q, k, ctx.window)  # [S * kv_heads, group * L, L]
        rows, flat_q, flat_k = _grouped(dy, k), _grouped(q, k), k.flatten(0, 1)
        dv = torch.bmm(p.transpose(1, 2), rows)
        dp = torch.bmm(rows, v.flatten(0, 1).transpose(1, 2))
        ds = torch._softmax_backward_data(dp, p, -1, p.dtype).mul_(q.shape[-1] ** -0.5)
        dq, dk = torch.bmm(ds, flat_k), torch.bmm(ds.transpose(1, 2), flat_q)
        return dq.view(q.shape), dk.view(k.shape), dv.view(v.shape), None


def _grouped(q: Tensor, k: Tensor) -> Tensor:
    """The queries that share a key head, one below the other: [S * kv_heads, group * L, D]."""
    return q.reshape(k.shape[0] * k.shape[1], -1, q.shape[-1])


def _probabilities(q: Tensor, k: Tensor, window: int | None) -> Tensor:
    visible = _visible(q.shape[2], window)
    bias = torch.zeros(visible.shape, dtype=q.dtype).masked_fill_(~visible, float("-inf"))
    bias = bias.repeat(q.shape[1] // k.shape[1], 1)
    keys = k.flatten(0, 1).transpose(1, 2)
    return torch.baddbmm(bias, _grouped(q, k), keys, alpha=q.shape[-1] ** -0.5).softmax(-1)


class _Reorder(Function):
    """x[index]; every row of x that matters stands there once, so the gradient is dy[back], `pads` zeroed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, back: Tensor, pads: Tensor | None) -> Tensor:
        ctx.save_for_backward(back, pads)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None]:
        back, pads = ctx.saved_tensors
        dx = dy.index_select(0, back)
        return (dx if pads is None else dx.index_fill_(0, pads, 0)), None, None, None
