"""From a row of logits to a token and its log-probability, for engines that leave this to us. Pure numpy.

Order: bias and minimum length, penalties, grammar; then greedy, or temperature, min_p, top_k, top_p.
Log-probabilities are the model's own, before all of that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .protocol import GenRequest

NEVER = np.float32(-np.inf)


@dataclass(slots=True)
class Sampler:
    """The choices of one answer; equal request and logits, equal tokens."""

    request: GenRequest
    counts: Counter[int] = field(default_factory=Counter)
    chance: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.chance = np.random.default_rng(self.request.seed)

    def choose(self, logits: np.ndarray, allow: Callable[[np.ndarray], np.ndarray] | None = None) -> int:
        """The next token of `logits` [V], which stays as it is. `allow` sets what is forbidden to -inf."""
        row = self._shaped(logits)
        if allow is not None:
            row = allow(row)
        token = int(row.argmax()) if self.request.temperature <= 0 else self._drawn(row)
        self.counts[token] += 1
        return token

    def _shaped(self, logits: np.ndarray) -> np.ndarray:
        r = self.request
        ends = r.stop_ids if sum(self.counts.values()) < r.min_tokens else ()
        penal = r.repetition_penalty != 1.0 or r.presence_penalty or r.frequency_penalty
        if not (ends or r.logit_bias or penal):
            return logits
        row = logits.copy()
        for token, bias in r.logit_bias:
            row[token] += bias
        row[list(ends)] = NEVER
        return self._penalised(row) if penal else row

    def _penalised(self, row: np.ndarray) -> np.ndarray:
        r = self.request
        if r.repetition_penalty != 1.0:  # prompt and answer alike (Keskar 2019, as transformers has it)
            earlier_ids = np.fromiter({*r.ids, *self.counts}, np.int64)
            row[earlier_ids] = np.where(
                row[earlier_ids] > 0,
                row[earlier_ids] / r.repetition_penalty,
                row[earlier_ids] * r.repetition_penalty,
            )
        if self.counts:
            tokens = np.fromiter(self.counts, np.int64)
            counts = np.fromiter(self.counts.values(), np.float32)
            row[tokens] -= r.presence_penalty + r.frequency_penalty * counts
        return row

    def _drawn(self, row: np.ndarray) -> int:
        r = self.request
        ids = np.arange(len(row)) if r.top_k <= 0 else likeliest(row, r.top_k)
        scaled = row[ids].astype(np.float64) / r.temperature
        chances = np.exp(scaled - scaled.max())
        if r.min_p > 0:
            chances[chances < r.min_p] = 0.0  # the likeliest stands at 1
        chances /= chances.sum()
        if r.top_p < 1.0:
            order = np.argsort(-chances, kind="stable")
            before = np.cumsum(chances[order]) - chances[order]
            chances[order[before >= r.top_p]] = 0.0
            chances /= chances.sum()
        return int(
            ids[np.searchsorted(np.cumsum(chances), self.chance.random(), side="right").clip(0, len(ids) - 1)]
        )


def likeliest(row: np.ndarray, n: int) -> np.ndarray:
    """Ids of the `n` highest of `row` [V], highest first, equal ones by id."""
    n = min(n, len(row))
    best = np.sort(np.argpartition(row, -n)[-n:])
    return best[np.argsort(-row[best], kind="stable")]


def log_total(logits: np.ndarray) -> np.ndarray:
    """log(sum(exp)) of each row of [T, V]."""
    peak = logits.max(-1)
    return peak + np.log(np.exp(logits - peak[:, None]).sum(-1, dtype=np.float64))


def logprob_of(logits: np.ndarray, token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """Natural log-probability of `token` in the row [V], and the `top` likeliest with theirs."""
    total = float(log_total(logits[None])[0])
    best = likeliest(logits, top) if top else ()
    return float(logits[token]) - total, [(int(n), float(logits[n]) - total) for n in best]


def scores(
    logits: np.ndarray, targets: Sequence[int], top: int
) -> tuple[list[float], list[list[int]], list[list[float]]]:
    """Log-probability of each target under its row of [T, V], the `top` likeliest ids and theirs."""
    total = log_total(logits)
    own = (logits[np.arange(len(targets)), targets] - total).tolist()
    if not top:
        return own, [], []
    best = np.stack([likeliest(row, top) for row in logits])
    return own, best.tolist(), (np.take_along_axis(logits, best, -1) - total[:, None]).tolist()
