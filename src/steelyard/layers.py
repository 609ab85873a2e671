"""Kinds of layer, one function each: what one layer's mixer of tokens or MLP weighs, computes and keeps.

A layer is a mixer, an MLP or both. Time and memory are made of the fields of `Half` alone, so a kind that is
written here is planned everywhere. Numbers in, numbers out. Not here: which of them a model has
(architectures.py), seconds and bytes (planner).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

SCAN_CHUNK = 256  # tokens that a state-space kernel takes at once (mamba_ssm; `chunk_size` of a config.json)
DELTA_CHUNK = 64  # and one of the gated delta rule (flash-linear-attention)
STATE_BYTES = 4  # of a value of a recurrent state, which is kept in FP32


@dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    """One half of a layer. Products lead from the hidden size `into` a width and `out` of one."""

    kind: str
    hidden: int
    weights: float  # all of them, biases and norms too
    into: float  # width of the products out of the hidden state: queries, keys and values; gate and up
    out: float  # width of the product back into it
    share: float = 1.0  # of such products' weights: ranks in between make it another than 1
    kept: float = 0.0  # values a token that backward needs, beside the hidden state
    passed: float = 0.0  # values a token that elementwise kernels read or write
    # Of a mixer. A token costs 4 FLOPs forward for each value of `core` and token that it looks at.
    heads: float = 0.0  # that have scores
    core: float = 0.0  # heads times their width, the mean of a key's and a value's
    window: int = 0  # tokens that it looks back at most, 0 = all
    chunked: bool = False  # within chunks of that window, rather than a window that slides
    scanned: float = 0.0  # tokens' worth of `core` of a recurrence, whatever the length
    ring: float = 0.0  # values of a token's keys and values as they are multiplied
    cached: float = 0.0  # values of a token that are kept for the next ones
    split: float = 1.0  # devices that share the cache at most
    state: float = 0.0  # values a sequence keeps, however long it is
    # Of an MLP.
    mlp: bool = False
    gated: bool = False
    experts: int = 0
    chosen: int = 0
    idle: float = 0.0  # weights of experts that a token does not pass through

    def looked_at(self, seq_len: float) -> float:
        """Mean number of tokens that a token of a causal sequence looks at."""
        if not self.window or self.window >= seq_len:
            return self.scanned or (seq_len + 1) / 2
        if self.chunked:
            return (self.window + 1) / 2
        return self.window - self.window * (self.window - 1) / (2 * seq_len)

    def flops(self, seq_len: float) -> float:
        """Operations a token forward beside those of its weights."""
        return 4.0 * self.core * self.looked_at(seq_len)


@dataclass(frozen=True, slots=True)
class Layers:
    """So many layers in a row that are alike."""

    count: int
    halves: tuple[Half, ...]

    @property
    def weights(self) -> float:
        """Of one of them."""
        return sum(half.weights for half in self.halves)

    @property
    def idle(self) -> float:
        """Of those, what a token does not pass through."""
        return sum(half.idle for half in self.halves)


Stack = tuple[Layers, ...]


def len_of(stack: Stack) -> int:
    """How many layers it has."""
    return sum(run.count for run in stack)


def stacked(layers: list[tuple[Half, ...]]) -> Stack:
    """A stack from its layers one by one."""
    return tuple(Layers(len(list(run)), halves) for halves, run in groupby(layers))


def attention(
    hidden: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    *,
    window: int = 0,
    chunked: bool = False,
    gated: bool = False,
    biases: int = 0,
    norms: int = 1,
) -> Half:
    """Softmax attention over all tokens or a window (Vaswani et al. 2017; `kv_heads`: Ainslie et al. 2023).

    `gated`: a sigmoid of as many values as the queries multiplies its output (Qwen3-Next). `biases` counts
    weights of biases and norms of heads, `norms` those of the hidden size.
    """
    queries, keys = heads * head_dim, kv_heads * head_dim
    into = (2 if gated else 1) * queries + 2 * keys
    return Half(
        kind="sliding" if window else "attention", hidden=hidden, into=into, out=queries,
        weights=hidden * (into + queries) + biases + norms * hidden, kept=into + queries,
        heads=heads, core=queries, window=window, chunked=chunked,
        ring=2 * keys, cached=2 * keys, split=kv_heads,
    )  # fmt: skip


def latent(
    hidden: int, heads: int, head_dim: int, rank: float, rope: float, queries: float, *,
    value_dim: int = 0, norms: int = 1,
) -> Half:  # fmt: skip
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): `rank` values and `rope` of a
    shared key are cached, whole on each device; queries pass a rank too, or none (0).

    Its products are those of as many heads without ranks, in proportion to their weights. A query and a key
    meet over `head_dim` and `rope` values.
    """
    width, values, asked = heads * head_dim, heads * (value_dim or head_dim), heads * (head_dim + rope)
    of_queries = queries * (hidden + asked + 1) if queries else hidden * asked
    weights = of_queries + hidden * (rank + rope) + rank * (1 + width + values) + values * hidden
    return Half(
        kind="latent", hidden=hidden, into=3 * width, out=width, share=weights / (hidden * 4 * width),
        weights=weights + norms * hidden, kept=4 * width,  # rotated parts are made again from their rank
        heads=heads, core=(asked + values) / 2, ring=asked + values, cached=rank + rope,
    )  # fmt: skip


def mamba(hidden: int, inner: int, state: int, rank: int, conv: int, *, norms: float = 1) -> Half:
    """Mamba-1 (Gu and Dao 2023, arXiv 2312.00752): a state of `inner` x `state` values a sequence.

    Its scan takes 9 operations for each value of the state (the paper's selective_scan, as mamba.py counts).
    """
    weights = hidden * 3 * inner + inner * (rank + 2 * state) + rank * inner
    rest = inner * (conv + 1) + inner + inner * state + inner
    return Half(
        kind="mamba", hidden=hidden, into=2 * inner, out=inner, share=weights / (hidden * 3 * inner),
        weights=weights + rest + norms * hidden, kept=4 * inner + rank + 2 * state,
        passed=8 * inner, core=inner, scanned=9 * state / 4, state=inner * (state + conv - 1), split=inner,
    )  # fmt: skip


def mamba2(
    hidden: int, heads: int, head_dim: int, state: int, groups: int, conv: int, *,
    chunk: int = SCAN_CHUNK, biased: bool = True, norms: float = 1,
) -> Half:  # fmt: skip
    """Mamba-2 (Dao and Gu 2024, arXiv 2405.21060, section 6): attention within a chunk, a state between."""
    inner, mixed = heads * head_dim, heads * head_dim + 2 * groups * state
    into = inner + mixed + heads
    rest = mixed * (conv + biased) + 3 * heads + inner
    return Half(
        kind="mamba2", hidden=hidden, into=into, out=inner,
        weights=hidden * (into + inner) + rest + norms * hidden, kept=into + 2 * inner,
        passed=2 * (into + inner), core=inner, scanned=chunk / 2 + state, split=groups,
        state=inner * state + mixed * (conv - 1),
    )  # fmt: skip


def delta_net(
    hidden: int, key_heads: int, key_dim: int, value_heads: int, value_dim: int, conv: int, *, norms: int = 1
) -> Half:
    """Gated delta rule (Yang et al. 2024, arXiv 2412.06464, section 3): linear attention with a state of
    `key_dim` x `value_dim` values a value head.

    In chunks of C tokens a head takes C (3 key_dim + 2 value_dim) and 6 key_dim value_dim operations a token.
    """
    keys, values = key_heads * key_dim, value_heads * value_dim
    mixed = 2 * keys + values
    into = mixed + values + 2 * value_heads
    chunk = DELTA_CHUNK * (3 * key_dim + 2 * value_dim) + 6 * key_dim * value_dim
    return Half(
        kind="delta", hidden=hidden, into=into, out=values, kept=into + 2 * values,
        passed=2 * (into + values),
        weights=hidden * (into + values) + mixed * conv + 2 * value_heads + value_dim + norms * hidden,
        core=values, scanned=chunk / (4 * value_dim), split=key_heads,
        state=values * key_dim + mixed * (conv - 1),
    )  # fmt: skip


def short_conv(hidden: int, length: int, *, norms: int = 1) -> Half:
    """Gated short convolution (LFM2): three products out of the hidden state, one back."""
    return Half(
        kind="conv", hidden=hidden, into=3 * hidden, out=hidden, kept=5 * hidden, passed=8 * hidden,
        weights=4 * hidden * hidden + hidden * length + norms * hidden, split=hidden,
        state=hidden * (length - 1),
    )  # fmt: skip


def mlp(hidden: int, width: int, gated: bool = True, *, biases: int = 0, norms: int = 1) -> Half:
    """Two products with an activation between, three where a gate multiplies it (Shazeer 2020)."""
    into = (2 if gated else 1) * width
    return Half(
        kind="mlp", hidden=hidden, into=into, out=width, kept=into + width, passed=into + width, mlp=True,
        gated=gated, weights=hidden * (into + width) + biases + norms * hidden,
    )  # fmt: skip


def experts(
    hidden: int, width: int, count: int, chosen: int, gated: bool = True, *,
    shared: int = 0, biases: int = 0, router: int = 0, norms: int = 1,
) -> tuple[Half, ...]:  # fmt: skip
    """A layer's routed experts, `chosen` of `count` a token, and beside them a `shared` MLP of that width.

    `biases` of one expert, `router`: weights of the choice beside one row an expert.
    """
    one = mlp(hidden, width, gated, biases=biases, norms=0)
    routed = Half(
        kind="experts", hidden=hidden, into=one.into, out=one.out, kept=chosen * one.kept,
        passed=chosen * one.kept, mlp=True, gated=gated, experts=count, chosen=chosen,
        idle=(count - chosen) * one.weights,
        weights=count * (one.weights + hidden) + router + norms * hidden,
    )  # fmt: skip
    return (routed, mlp(hidden, shared, gated, norms=0)) if shared else (routed,)
