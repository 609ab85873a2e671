"""What a step minimises: one signature for every method, so that the loop knows none of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .rows import MicroBatch

HEAD_CHUNK_TOKENS = 256  # logits of a chunk: 256 x 49,152 float32 = 50 MB, and the head's product is at 90 %

Loss = Callable[[Any, MicroBatch, int], Tensor]


def answer_loss(network: Any, batch: MicroBatch, total: int) -> Tensor:
    """Cross-entropy summed over the batch's learnt tokens, over `total`, those of the whole step."""
    hidden = network.flat(batch.ids, batch.positions, batch.layout, batch.before)
    return _Head.apply(hidden, network.anchor, network, batch, total)


METHODS: dict[str, Loss] = {"sft": answer_loss, "pt": answer_loss}  # pt: its rows mask every token


class _Head(Function):
    """Head and cross-entropy at once: the gradient is made while the logits are still at hand."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, anchor: Tensor, network: Any, batch: MicroBatch, total: int
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
            loss += (norm - logits.gather(1, target))[:real].sum(dtype=torch.float64)
            slope = logits.sub_(norm).exp_()
            slope.scatter_add_(1, target, torch.full(target.shape, -1.0))
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
