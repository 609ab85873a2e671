"""As much of what was learnt as general text allows.

A LoRA is a change of the model: at a smaller weight it forgets less and knows nearly as much. The straight
line between the weights before and after is WiSE-FT's (Wortsman et al. 2022, arXiv 2109.01903, equation 1).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import torch

from steelyard.artefact import Figures, Watch
from steelyard.model import Tokenizer

from ..trainable import Lora
from .looks import GENERAL, general_examples, look_at, loss_of

WEIGHTS = tuple(n / 20 for n in range(20, 9, -1))  # 1, 0.95 ... 0.5, of what was learnt


def keep_general(network: Any, learnt: Lora, tokenizer: Tokenizer, most: float, watch: Watch) -> Figures:
    """Give what was learnt the largest weight at which the perplexity of general text grows by `most`, a
    share, or less; the least weight where none does. {"general_growth": share, "learnt_weight": weight}."""
    held = {GENERAL: general_examples(tokenizer)}
    whole = learnt.master.detach().clone()

    def loss_at(weight: float) -> float:
        watch.log("train.evaluating", weight=weight)
        set_to(learnt, whole, weight)
        return loss_of(look_at(network, held)[GENERAL])

    before = loss_at(0.0)
    weight, growth = _largest(lambda weight: math.exp(loss_at(weight) - before) - 1, most)
    set_to(learnt, whole, weight)
    watch.log("train.weighted", weight=weight, general_growth=growth)
    return {"general_growth": growth, "learnt_weight": weight}


def set_to(learnt: Lora, whole: torch.Tensor, weight: float) -> None:
    """The network with so much of the change B A that `whole` holds."""
    with torch.no_grad():
        learnt.master.copy_(whole)
        for _, b in learnt.factors().values():
            b.mul_(weight)
    learnt.push()


def _largest(growth_at: Callable[[float], float], most: float) -> tuple[float, float]:
    """(weight, its growth); growth is taken to rise with the weight."""
    seen: dict[float, float] = {}

    def fits(weight: float) -> bool:
        seen[weight] = growth_at(weight)
        return seen[weight] <= most

    if fits(WEIGHTS[0]):
        return WEIGHTS[0], seen[WEIGHTS[0]]
    weight = WEIGHTS[min(bisect_left(WEIGHTS, True, lo=1, key=fits), len(WEIGHTS) - 1)]
    return weight, seen[weight]  # bisection ends at a weight that it has looked at
