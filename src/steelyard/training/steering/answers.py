"""Answers of the network in training, the likeliest token each time: what a look at held-out rows scores.

Prompts of like length go together, filled up behind; keys and values are kept by position, so a token that
is written stands where the filling stood. Equal weights and threads give equal answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from steelyard.model import rope

BATCH = 16  # prompts at once


def greedy(
    network: Any, prompts: Sequence[Sequence[int]], most: Sequence[int], ends: Sequence[int]
) -> list[list[int]]:
    """Of each prompt the answer's ids, at most `most`, without the one of `ends` that ended it."""
    order = sorted(range(len(prompts)), key=lambda n: (len(prompts[n]), n))
    answers: list[list[int]] = [[] for _ in prompts]
    with torch.no_grad():
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            written = _together(network, [prompts[n] for n in part], [most[n] for n in part], set(ends))
            for number, ids in zip(part, written, strict=True):
                answers[number] = ids
    return answers


def _together(
    network: Any, prompts: Sequence[Sequence[int]], most: Sequence[int], ends: set[int]
) -> list[list[int]]:
    lengths = [len(prompt) for prompt in prompts]
    width, rows = max(lengths), torch.arange(len(prompts))
    cache = Cache(network, len(prompts), max(n + m for n, m in zip(lengths, most, strict=True)))
    ids = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts])
    at = torch.tensor(lengths)
    hidden = cache.read(ids, torch.arange(width).expand(len(prompts), -1))[rows, at - 1]
    answers: list[list[int]] = [[] for _ in prompts]
    going = set(range(len(prompts)))
    while True:
        tokens = network.logits(hidden).float().argmax(1)
        for row in tuple(going):
            token = int(tokens[row])
            if token not in ends:
                answers[row].append(token)
            if token in ends or len(answers[row]) == most[row]:
                going.remove(row)
        if not going:
            return answers
        hidden = cache.read(tokens[:, None], at[:, None])[:, 0]
        at = (at + 1).clamp(max=cache.room - 1)  # of an answer that has ended nothing is read any more


class Cache:
    """Keys and values of every layer, [rows, room, heads, head_dim] each."""

    def __init__(self, network: Any, rows: int, room: int) -> None:
        self.network, self.room, config = network, room, network.config
        shape = (rows, room, config.kv_heads, config.head_dim)
        kind = network.embed.dtype
        self.keys = [torch.zeros(shape, dtype=kind) for _ in network.layers]
        self.values = [torch.zeros(shape, dtype=kind) for _ in network.layers]

    def read(self, ids: Tensor, positions: Tensor) -> Tensor:
        """ids, positions [B, T] -> [B, T, H] behind the last norm; they are kept."""
        network, kind = self.network, self.network.embed.dtype
        cos, sin = (turn.to(kind) for turn in network.turns(positions.reshape(-1)))
        x = F.embedding(ids.reshape(-1), network.embed).float()
        for number, block in enumerate(network.layers):
            x = self._through(number, block, x, positions, (cos, sin))
        return network.norm(x).view(*ids.shape, -1)

    def _through(
        self, number: int, block: Any, x: Tensor, at: Tensor, turns: tuple[Tensor, Tensor]
    ) -> Tensor:
        """network.Block on tokens that see what is kept: x [B * T, H] -> [B * T, H]."""
        config = self.network.config
        parts = (config.heads, config.kv_heads, config.kv_heads)
        q, k, v = block.qkv(block.input_norm(x)).view(len(x), -1, config.head_dim).split(parts, dim=1)
        if block.q_norm is not None and block.k_norm is not None:
            q, k = block.q_norm(q), block.k_norm(k)
        q, k = rope(torch.cat((q, k), dim=1), *turns).split(parts[:2], dim=1)
        rows = torch.arange(len(at))[:, None]
        self.keys[number][rows, at] = k.reshape(*at.shape, *k.shape[1:])
        self.values[number][rows, at] = v.reshape(*at.shape, *v.shape[1:])
        attended = F.scaled_dot_product_attention(
            q.reshape(*at.shape, *q.shape[1:]).transpose(1, 2),
            self.keys[number].transpose(1, 2),
            self.values[number].transpose(1, 2),
            attn_mask=seen(at, self.room, block.window),
            enable_gqa=True,
        )
        x = x + block.o(attended.transpose(1, 2).reshape(len(x), -1))
        return x + block.down(block.gated(block.gate_up(block.post_norm(x))))


def seen(at: Tensor, room: int, window: int | None) -> Tensor:
    """[B, 1, T, room]: which kept places a token at a position sees."""
    places = torch.arange(room)
    mask = places <= at[..., None]
    if window:
        mask &= places > at[..., None] - window
    return mask[:, None]
