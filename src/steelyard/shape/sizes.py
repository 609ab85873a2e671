"""Sizes and FLOPs of a decoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import WrongUse
from ..layers import STATE_BYTES, Half, Layers, Stack, attention, experts, mlp

BITS = {  # bits a weight or a KV entry takes; the int forms carry one scale a row, which is left out
    "f32": 32, "float32": 32, "bf16": 16, "bfloat16": 16, "f16": 16, "float16": 16, "fp8": 8,
    "int8": 8, "u8": 8, "int4": 4, "u4": 4,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a decoder looks like: its sizes, and its layers by kind. Counts of weights, layers, heads, tokens.

    The sizes of heads and MLPs are those of its attention and of its usual MLP, which tensor parallelism
    must divide; time and memory are made of `stack`.
    """

    family: str  # model_type of config.json, general.architecture of GGUF
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int  # width of one MLP; of one expert where there are experts
    vocab: int
    gated: bool  # gate, up and down matrices rather than up and down
    tied: bool  # the output head is the embedding
    experts: int  # routed experts a layer, 0 = dense
    experts_per_token: int
    max_position: int
    params: int  # all of them; a tied head counts once
    active_params: int  # those one token of text passes through
    dtype: str  # as stored: "bf16", "f32", "q4_1"
    stack: Stack = ()  # the layers in order; () = all alike, as the sizes say
    tower_params: int = 0  # of `params`, those of a vision tower and its projector
    expert_groups: int = 1  # of experts, among which a router chooses first
    mtp_layers: int = 0  # beside `params`: layers that predict a token further ahead

    def __post_init__(self) -> None:
        if not self.stack:
            object.__setattr__(self, "stack", self._alike())

    def _alike(self) -> Stack:
        after: tuple[Half, ...] = (mlp(self.hidden, self.ffn, self.gated),)
        if self.experts:
            after = experts(self.hidden, self.ffn, self.experts, self.experts_per_token, self.gated)
        mixer = attention(self.hidden, self.heads, self.kv_heads, self.head_dim)
        return (Layers(self.layers, (mixer, *after)),)

    def weight_bytes(self, dtype: str | None = None) -> int:
        """Bytes of all weights in `dtype` ("bf16", "int8", ...; default bf16)."""
        return self.params * bits(dtype or "bf16") // 8

    def kv_bytes_per_token(self, dtype: str = "bf16") -> int:
        """Bytes of the KV cache for one token of one sequence, over all layers."""
        return int(self._summed(lambda half: half.cached)) * bits(dtype) // 8

    @property
    def state_bytes(self) -> int:
        """Bytes that a sequence keeps however long it is: states of recurrent layers."""
        return int(self._summed(lambda half: half.state)) * STATE_BYTES

    def attended(self, seq_len: int) -> float:
        """Mean number of tokens that a token of a causal sequence looks at, over the layers that attend."""
        cores = self._summed(lambda half: half.core)
        return self._summed(lambda half: half.core * half.looked_at(seq_len)) / max(cores, 1.0)

    def forward_flops_per_token(self, seq_len: int) -> float:
        """Multiply-adds count 2: matmuls of the active weights (no look-up table), causal attention."""
        table = 0 if self.tied else self.vocab * self.hidden
        return 2 * (self.active_params - table) + self._summed(lambda half: half.flops(seq_len))

    def train_flops_per_token(self, seq_len: int) -> float:
        """Forward and backward of a full fine-tune: 3 times forward, nothing recomputed."""
        return 3 * self.forward_flops_per_token(seq_len)

    def _summed(self, of: Callable[[Half], float]) -> float:
        return sum(run.count * sum(of(half) for half in run.halves) for run in self.stack)


def bits(dtype: str) -> int:
    """Bits of one value. Raises WrongUse for a type nobody knows."""
    if dtype.lower() not in BITS:
        raise WrongUse("shape.dtype", f"{dtype!r} is no number format", hint=f"one of {', '.join(BITS)}")
    return BITS[dtype.lower()]
