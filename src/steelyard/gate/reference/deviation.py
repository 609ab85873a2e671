"""Which scale of which tensor explains small deviations of log-probabilities, and how surely.

Rounding makes deviations of chance; a tensor that was scaled makes deviations along the direction in which
that scale moves each token's log-probability. The directions of all matrices come from one backward pass of
the exact network, so that a change far below the noise of one token shows over a thousand of them. The
test needs no limit on the arithmetic's noise: its spread between texts is what it stands on.

Heavy: torch is loaded by the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from .continuations import Continuation
from .layerwise import MATRICES, add_by_text, layer_directions, watched

# Added to each token's sensitivity before its deviation is divided by it: a token that the model is sure of
# carries f32 noise of the server's own log-softmax, however small its sensitivity.
FLOOR = 1e-3
CLIP = 4.0  # standard deviations; few tokens near a tie of rounding must not decide
# A t statistic over a hundred halves of texts: about 1 in 3000 of clean runs over 150 directions.
SURE_T, LEAST_CHANGE = 5.0, 0.003
BLOCKS = 2  # backward passes; halves of a text count as independent
CONSTANT, BASE = "constant", "towards the base"
SIGNS = 1  # passes with random signs that measure how far a direction moves log-probabilities at all


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """One possible change. `change`: its size that fits best; `sure`: its t statistic between texts;
    `explained`: share of the deviations' variance that it takes away."""

    name: str
    change: float
    sure: float
    explained: float

    @property
    def is_sure(self) -> bool:
        return abs(self.sure) >= SURE_T and abs(self.change) >= LEAST_CHANGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """Served minus exact over the tokens of all texts, and every direction tried."""

    delta: np.ndarray  # [N] nats
    own: np.ndarray  # [N] the exact log-probability
    sensitivity: np.ndarray  # [N] variance of the log-probability at logits' noise of variance 1
    block: np.ndarray  # [N] which half of which text a token stands in
    directions: tuple[Direction, ...]

    @property
    def best(self) -> Direction:
        """Of the sure directions, or of all where none is sure, the one that explains most."""
        sure = [d for d in self.directions if d.is_sure]
        return max(sure or self.directions, key=lambda d: d.explained)

    def tried(self, name: str, moved: np.ndarray) -> Deviation:
        """One direction more: `way` is what a change of 1 adds to each token's log-probability."""
        weight = 1 / (self.sensitivity + FLOOR)
        clipped = _clipped(self.delta, weight)
        sums = np.bincount(self.block, clipped * weight * moved, minlength=int(self.block.max()) + 1)
        size, total = float((moved**2 * weight).sum()), float((clipped**2 * weight).sum())
        return replace(self, directions=(*self.directions, _direction(name, sums, size, total)))


class Passes(Protocol):
    """One forward pass of the exact network over all texts, and backward passes through it."""

    own: np.ndarray  # [N] the exact log-probability of each answer token, texts in order
    concentration: np.ndarray  # [N] sum of the squared probabilities there
    heat: np.ndarray  # [N] how `own` moves with a scale of all logits
    text: np.ndarray  # [N] the text that a token belongs to

    def back(self, weights: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Per vector of weights [N], direction and text: the sum over tokens of weight times
        d(log-probability) / d(log scale)."""


def deviation(run: Passes, texts: Sequence[Continuation]) -> Deviation:
    """`run`: passes over the same texts, in memory (NetworkPasses) or layer by layer (layerwise.py)."""
    own, served = run.own, np.concatenate([t.served for t in texts])
    sensitivity = np.maximum(1 - 2 * np.exp(own) + run.concentration, 0)
    weight = 1 / (sensitivity + FLOOR)
    delta = served - own
    clipped = _clipped(delta, weight)
    halves = np.concatenate([np.arange(len(t.answer)) * BLOCKS // len(t.answer) for t in texts])
    draw = np.random.default_rng(0)
    random = [draw.choice([-1.0, 1.0], len(delta)) * np.sqrt(weight) for _ in range(SIGNS)]
    passes = run.back([*(clipped * weight * (halves == b) for b in range(BLOCKS)), *random])
    pulls, signs = passes[:BLOCKS], passes[BLOCKS:]
    total = float((clipped**2 * weight).sum())
    tried = [
        _direction(
            name,
            np.concatenate([p[name] for p in pulls]),
            float(np.mean([(s[name] ** 2).sum() for s in signs])),
            total,
        )
        for name in pulls[0]
    ]
    overall = Deviation(
        delta=delta,
        own=own,
        sensitivity=sensitivity,
        block=run.text * BLOCKS + halves,
        directions=tuple(tried),
    )
    return overall.tried(CONSTANT, np.ones_like(delta)).tried("the logits", run.heat)


def _clipped(delta: np.ndarray, weight: np.ndarray) -> np.ndarray:
    scaled = delta * np.sqrt(weight)
    most = CLIP * 1.4826 * np.median(np.abs(scaled))
    return np.clip(scaled, -most, most) / np.sqrt(weight)


def _direction(name: str, sums: np.ndarray, size: float, total: float) -> Direction:
    """`sums`: deviation along the direction, one a block of text; `size`: the direction's squared length."""
    sums = sums[sums != 0]
    count, whole, squares = len(sums), float(sums.sum()), float((sums**2).sum())
    if count < 2 or not squares or not size:
        return Direction(name=name, change=0.0, sure=0.0, explained=0.0)
    ratio = whole**2 / squares  # at most `count`
    sure = np.sign(whole) * np.sqrt(ratio * (count - 1) / max(count - ratio, 1e-9))
    return Direction(
        name=name, change=whole / size, sure=float(sure), explained=whole**2 / size / max(total, 1e-12)
    )


class NetworkPasses:
    """Passes through a network in memory: every matrix's output is kept, nothing is computed twice."""

    def __init__(self, network: Any, texts: Sequence[Continuation]) -> None:
        """`network`: of model.load, float32."""
        import torch

        self.network, sequences = network, [[*t.prompt, *t.answer] for t in texts]
        self.lengths = [len(s) for s in sequences]
        self.text = np.repeat(np.arange(len(texts)), [len(t.answer) for t in texts])
        hidden = self._forward([i for s in sequences for i in s])
        starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])
        places = [
            start + np.arange(len(t.prompt) - 1, len(t.prompt) - 1 + len(t.answer))
            for start, t in zip(starts, texts, strict=True)
        ]
        ids = torch.tensor([i for t in texts for i in t.answer])
        logits = network.logits(hidden[torch.from_numpy(np.concatenate(places))])
        logprobs = torch.log_softmax(logits, -1)
        self.graph = logprobs.gather(-1, ids[:, None])[:, 0]
        self.own = self.graph.detach().double().numpy()
        probabilities, scores = logprobs.detach().exp(), logits.detach()
        self.concentration = (probabilities**2).sum(-1).double().numpy()
        picked = scores.gather(-1, ids[:, None])[:, 0].double().numpy()
        self.heat = picked - (probabilities * scores).sum(-1).double().numpy()

    def _forward(self, ids: list[int]) -> Any:
        import torch
        from torch.nn import functional as F

        net = self.network
        places = torch.cat([torch.arange(n) for n in self.lengths])
        cos, sin = net.turns(places)
        layout = net.layout(self.lengths)
        with torch.enable_grad(), watched(net.layers) as self.outputs:
            x = F.embedding(torch.tensor(ids), net.embed).detach().requires_grad_(True)
            for layer in net.layers:
                x = layer(x, cos, sin, layout)
            return net.norm(x)

    def back(self, weights: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        return [self._back(w) for w in weights]

    def _back(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        import torch

        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")  # bf16 inside: three digits of a direction are enough
        try:
            pull = torch.from_numpy(weights).float()
            grads = torch.autograd.grad(self.graph, self.outputs, pull, retain_graph=True)
        finally:
            torch.set_float32_matmul_precision(before)
        texts = len(self.lengths)
        owner = torch.repeat_interleave(torch.arange(texts), torch.tensor(self.lengths))
        sums: dict[str, np.ndarray] = {}
        for place, layer in enumerate(self.network.layers):
            parts = slice(len(MATRICES) * place, len(MATRICES) * (place + 1))
            pairs = zip(self.outputs[parts], grads[parts], strict=True)
            product = [o.detach() * g for o, g in pairs]
            for name, per_token in layer_directions(place, layer, *product):
                add_by_text(sums, name, per_token, owner, texts)
        return sums
