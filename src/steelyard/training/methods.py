"""What a step minimises: one signature for every method, so that the loop knows none of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from .rows import MicroBatch

HEAD_CHUNK_TOKENS = 256  # logits of a chunk: 256 x 49,152 float32 = 50 MB, and the head's product is at 90 %

Loss = Callable[[Any, MicroBatch, float], Tensor]


def answer_loss(network: Any, batch: MicroBatch, total: float) -> Tensor:
    """Cross-entropy summed over the batch's learnt tokens, over `total`, those of the whole step; each by
    what it counts."""
    hidden = network.flat(batch.ids, batch.positions, batch.layout, batch.before)
    return _Head.apply(hidden, network.anchor, network, batch, total)


def answer_loss_sum(network: Any, batch: MicroBatch) -> float:
    """The same without a gradient, summed over the batch's learnt tokens."""
    loss = torch.zeros((), dtype=torch.float64)
    with torch.no_grad():
        hidden = network.flat(batch.ids, batch.positions, batch.layout, batch.before)
        for start in range(0, batch.answers, HEAD_CHUNK_TOKENS):
            part = slice(start, min(start + HEAD_CHUNK_TOKENS, batch.answers))
            logits = (hidden[part] @ network.output.t()).float()
            loss += F.cross_entropy(logits, batch.targets[part], reduction="sum")
    return float(loss)


# pt: its rows mask every token; distil: a batch has the teacher's tokens in place of one right one
METHODS: dict[str, Loss] = {"sft": answer_loss, "pt": answer_loss, "distil": answer_loss}


LEAST = 1e-6  # of a share: below it float32 has no digits of 1 - share


def divergence(logq: Tensor, ids: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """KL(teacher || student) a token, [N], and its slope by the student's logits, [N, V].

    `logq` [N, V] are the student's log-probabilities, `p` [N, K] the teacher's of the tokens `ids`. All other
    tokens are one class: cut off or spread over the K, they would teach a sharper distribution than the
    teacher's (Anshumann et al. 2025, arXiv 2503.16870).
    """
    mine = logq.gather(1, ids)
    rest_p = (1 - p.sum(1, keepdim=True)).clamp_min(0.0)
    q = logq.exp()
    rest_q = (1 - q.gather(1, ids).sum(1, keepdim=True)).clamp_min(LEAST)
    parts = torch.special.xlogy(p, p) - p * mine
    rest = torch.special.xlogy(rest_p, rest_p) - rest_p * rest_q.log()
    slope = q * (1 - rest_p / rest_q)
    slope.scatter_(1, ids, q.gather(1, ids) - p)
    return parts.sum(1) + rest[:, 0], slope


class _Head(Function):
    """Head and cross-entropy at once: the gradient is made while the logits are still at hand."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, anchor: Tensor, network: Any, batch: MicroBatch, total: float
    ) -> Tensor:
        weight, grad = network.output, network.output_grad
        dhidden = torch.empty_like(hidden)
        loss = torch.zeros((), dtype=torch.float64)
        for start in range(0, hidden.shape[0], HEAD_CHUNK_TOKENS):
            part = slice(start, start + HEAD_CHUNK_TOKENS)
            target = batch.targets[part, None]
            real = max(0, batch.answers - start)  # those behind it only fill the batch up
            logits = (hidden[part] @ weight.t()).float()
            norm = torch.logsumexp(logits, dim=1, keepdim=True)
            if batch.soft is None:
                own = (norm - logits.gather(1, target))[:real, 0]
                slope = logits.sub_(norm).exp_()
                slope.scatter_add_(1, target, torch.full(target.shape, -1.0))
            else:
                own, slope = divergence(logits.sub_(norm), *(values[part] for values in batch.soft))
            own = own[:real]
            if batch.counts is not None:
                counts = batch.counts[part]
                own = own * counts[:, 0]
                slope[:real].mul_(counts)
            loss += own.sum(dtype=torch.float64)
            slope[real:] = 0
            slope = slope.div_(total).to(hidden.dtype)
            torch.mm(slope, weight, out=dhidden[part])
            if grad is not None:
                grad.add_(slope.t() @ hidden[part])
        ctx.save_for_backward(dhidden)
        return (loss / total).float()

    @staticmethod
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor, None, None, None, None]:
        (dhidden,) = ctx.saved_tensors
        return dhidden.mul_(dloss.to(dhidden.dtype)), None, None, None, None
