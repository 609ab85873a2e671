"""The exact reference: the model's own FP32 network, teacher-forced over given ids.

Heavy: torch is loaded by the call, in whatever process makes it (`run` gives it a worker).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

LOGPROB, TOP_ID, TOP_LOGPROB, ABOVE = 0, 1, 2, 3  # columns of a reference array
# f32 logits of 256 positions over 50k words are 50 MB; more gains nothing on a CPU.
HEAD_CHUNK = 256
BATCH_TOKENS = 2048

# Per sequence of T ids an array [T, 4], f64: row i speaks of the token after ids[: i + 1]: the
# log-probability of ids[i + 1] (0 in the last row, where there is none), the likeliest id, its own
# log-probability, and the probability of all tokens that are likelier than ids[i + 1].
Reference = Callable[[Sequence[Sequence[int]]], list[np.ndarray]]


class ExactReference:
    """A Reference that also shows its network, for what log-probabilities alone cannot tell."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def __call__(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        found: list[np.ndarray | None] = [None] * len(sequences)
        for batch in by_length([len(s) for s in sequences], BATCH_TOKENS):
            arrays = _teach(self.network, [sequences[i] for i in batch])
            for place, array in zip(batch, arrays, strict=True):
                found[place] = array
        return [array for array in found if array is not None]


def exact_reference(
    folder: Path, form: str = "stored", served: Path | None = None, of: Path | None = None
) -> ExactReference:
    """A callable over token ids of the model in `folder` (Hugging Face layout), FP32.

    `form` int8: its matrices rounded as that form rounds them (symmetric, one scale a row), the arithmetic
    still exact; so a service of that form can be told from one whose weights differ otherwise. `served`: a
    folder of any form made from it; its matrices, widened, take the place of the stored ones. `of`: the
    model that `served` was made from, where it is another; what rounding changed in that one is added, so
    that the two stay as far apart as they were.
    """
    from ..model import load

    network = load(Path(folder), dtype="float32").eval()
    if form == "int8":
        _round_matrices(network)
    if served is not None:
        _take_matrices(network, served, of)
    return ExactReference(network)


def _take_matrices(network: Any, served: Path, of: Path | None) -> None:
    import torch

    from ..model import Weights, served_weights

    held, stored = dict(served_weights(served)), Weights(of) if of else None
    with torch.no_grad():
        for name, tensor in network.tensors():
            if name not in held:
                continue
            if stored is None:
                tensor.copy_(torch.from_numpy(held[name]))
            else:
                tensor.add_(torch.from_numpy(held[name] - stored.f32(name)))


def _round_matrices(network: Any) -> None:
    import torch

    head = [] if network.head is None else [network.head]
    with torch.no_grad():
        for weight in [network.embed, *head, *(linear.weight for linear in network.linears())]:
            scale = (weight.abs().amax(1, keepdim=True) / 127).clamp(min=1e-7).half().float()
            weight.copy_((weight / scale).round().clamp(-127, 127) * scale)


def by_length(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Places in order of length, in groups of at most `tokens` (or one sequence)."""
    batches: list[list[int]] = []
    held = 0
    for place in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if not batches or held + lengths[place] > tokens:
            batches.append([])
            held = 0
        batches[-1].append(place)
        held += lengths[place]
    return batches


def _teach(network: Any, batch: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """All sequences in one row, a segment each: no padding is computed."""
    import torch

    lengths = torch.tensor([len(s) for s in batch])
    ids = torch.tensor([i for s in batch for i in s])
    places = torch.cat([torch.arange(n) for n in lengths.tolist()])
    segments = torch.repeat_interleave(torch.arange(len(batch)), lengths)
    with torch.inference_mode():
        hidden = network(ids[None], places[None], segments[None])[0]
        parts = zip(hidden.split(lengths.tolist()), ids.split(lengths.tolist()), strict=True)
        return [_rows(network, h, i) for h, i in parts]


def _rows(network: Any, hidden: Any, ids: Any) -> np.ndarray:
    """[T, H] and [T] -> [T, 4]."""
    import torch

    array = np.zeros((len(ids), 4))
    for start in range(0, len(ids), HEAD_CHUNK):
        logits = network.logits(hidden[start : start + HEAD_CHUNK]).float()
        logprobs = torch.log_softmax(logits, -1)
        top = logprobs.max(-1)
        stop = start + len(logits)
        array[start:stop, TOP_ID] = top.indices.numpy()
        array[start:stop, TOP_LOGPROB] = top.values.numpy()
        following = ids[start + 1 : stop + 1]
        picked = logprobs[: len(following)].gather(-1, following[:, None])[:, 0]
        array[start : start + len(following), LOGPROB] = picked.numpy()
        likelier = logprobs[: len(following)] > picked[:, None]
        above = logprobs[: len(following)].exp().masked_fill_(~likelier, 0).sum(-1)
        array[start : start + len(following), ABOVE] = above.numpy()
    return array
