"""The exact network with one layer in memory at a time: all sequences pass a layer before the next is read.

The same arithmetic as the network in memory, in the same batches; only the output matrix is taken in slices
of the vocabulary, so that log-probabilities agree to about 1e-6. Memory: a layer in float32, the hidden
states of all tokens (at most GROUP_BYTES, else the layers are read again for the next group), a slice of the
output matrix. Nothing is written to disk.

Heavy: torch is loaded by the call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import ABOVE, BATCH_TOKENS, LOGPROB, TOP_ID, TOP_LOGPROB, PromptAnswer, by_length

if TYPE_CHECKING:
    from .continuations import Continuation

GROUP_BYTES = 2**31  # of hidden states
HEAD_TOKENS = 512  # positions whose scores over a slice of the vocabulary are in memory at once
MATRICES = ("qkv", "o", "gate_up", "down")  # of a layer, in the order in which they are multiplied


def layerwise(layers: Any, answers: Sequence[PromptAnswer]) -> list[np.ndarray]:
    """As Reference: one array [T + 1, 4] an answer. `layers`: of model.layers_from_disk."""
    group_tokens = max(1, GROUP_BYTES // (4 * layers.config.hidden))
    arrays: dict[int, np.ndarray] = {}
    for group in by_length([len(p) + len(a) for p, a in answers], group_tokens):
        arrays |= dict(zip(group, _group(layers, [answers[i] for i in group]), strict=True))
    return [arrays[i] for i in range(len(answers))]


@dataclass(slots=True)
class Batch:
    """Sequences that are computed side by side: which ones, their tokens, and where each token stands."""

    members: list[int]
    lengths: list[int]
    ids: Any  # [T]
    turns: tuple[Any, Any]  # cos and sin of each token's position
    layout: Any

    @property
    def owner(self) -> Any:
        """[T] the sequence that each token belongs to."""
        import torch

        return torch.repeat_interleave(torch.tensor(self.members), torch.tensor(self.lengths))


def batches_of(layers: Any, sequences: Sequence[Sequence[int]]) -> list[Batch]:
    import torch

    batches = []
    for members in by_length([len(s) for s in sequences], BATCH_TOKENS):
        lengths = [len(sequences[i]) for i in members]
        ids = torch.tensor([t for i in members for t in sequences[i]])
        positions = torch.cat([torch.arange(n) for n in lengths])
        layout = layers.rest.layout(lengths)
        batches.append(Batch(members, lengths, ids, layers.rest.turns(positions), layout))
    return batches


def embedded(layers: Any, batches: Sequence[Batch]) -> list[Any]:
    """[T, H] of each batch; the rows of the embedding are read once."""
    import torch

    rows = layers.embedded(torch.cat([b.ids for b in batches]))
    return list(rows.split([len(b.ids) for b in batches]))


def _group(layers: Any, answers: Sequence[PromptAnswer]) -> list[np.ndarray]:
    import torch

    batches = batches_of(layers, [(*p, *a) for p, a in answers])
    rows = [[len(answers[i][1]) + 1 for i in batch.members] for batch in batches]
    arrays: dict[int, np.ndarray] = {}
    with torch.inference_mode():
        states = embedded(layers, batches)
        for place in range(layers.layer_count):
            layer = layers.layer(place)
            for i, batch in enumerate(batches):
                states[i] = layer(states[i], *batch.turns, batch.layout)
            del layer  # or the next one would be read beside it
        places = [_last_places(b, counts) for b, counts in zip(batches, rows, strict=True)]
        hidden = torch.cat([layers.rest.norm(x[p]) for x, p in zip(states, places, strict=True)])
        del states
        following = torch.cat([_following(b)[p] for b, p in zip(batches, places, strict=True)])
        table = _table(HeadSums(layers, hidden, following))
    parts = iter(np.split(table, np.cumsum([n for counts in rows for n in counts])[:-1]))
    for batch in batches:
        arrays |= dict(zip(batch.members, parts, strict=False))
    for array in arrays.values():
        array[-1, [LOGPROB, ABOVE]] = 0.0
    return [arrays[i] for i in range(len(answers))]


def _last_places(batch: Batch, counts: Sequence[int]) -> Any:
    """Where in the batch the last `counts` tokens of each sequence stand."""
    import torch

    ends = np.cumsum(batch.lengths)
    return torch.cat([torch.arange(end - n, end) for end, n in zip(ends.tolist(), counts, strict=True)])


def _following(batch: Batch) -> Any:
    """[T] the token after each; the last one of a sequence has none and names itself."""
    import torch

    return torch.cat([torch.cat((part[1:], part[-1:])) for part in batch.ids.split(batch.lengths)])


def _table(sums: HeadSums) -> np.ndarray:
    table = np.zeros((len(sums.own), 4))
    table[:, LOGPROB], table[:, TOP_ID] = sums.own, sums.top_id
    table[:, TOP_LOGPROB], table[:, ABOVE] = sums.top_logprob, sums.above
    return table


class HeadSums:
    """What the output matrix says of each position, summed over slices of the vocabulary.

    hidden [N, H], ids [N] the token that followed. With `moments` also what a gradient needs.
    """

    def __init__(self, layers: Any, hidden: Any, ids: Any, moments: bool = False) -> None:
        import torch

        count = len(ids)
        self.hidden, self.ids, self.moments = hidden, ids, moments
        self.most = torch.full((count,), -torch.inf)
        self.likeliest = torch.zeros(count, dtype=torch.long)
        self.picked = torch.zeros(count)  # score of the token that followed
        # Sums of exp(l - most): over all, over likelier tokens, of its square, and of l times it.
        self.sums = torch.zeros(4, count, dtype=torch.float64)
        shape = hidden.shape if moments else (0,)
        self.mean_row, self.own_row = torch.zeros(shape), torch.zeros(shape)  # of the output matrix
        spans = [slice(start, start + HEAD_TOKENS) for start in range(0, count, HEAD_TOKENS)]
        for span in spans:
            rows = layers.head_rows(ids[span])
            self.picked[span] = (rows * hidden[span]).sum(-1)
            if moments:
                self.own_row[span] = rows
        for first, matrix in layers.head():
            for span in spans:
                self._add(span, first, matrix)

    def _add(self, span: slice, first: int, matrix: Any) -> None:
        import torch

        logits = torch.nn.functional.linear(self.hidden[span], matrix)
        top = logits.max(-1)
        before = self.most[span].clone()
        self.likeliest[span] = torch.where(top.values > before, top.indices + first, self.likeliest[span])
        most = torch.maximum(before, top.values)
        self.most[span] = most
        shrink, weight = (before - most).exp(), (logits - most[:, None]).exp()
        self.sums[:2, span] *= shrink
        self.sums[0, span] += weight.sum(-1, dtype=torch.float64)
        likelier = logits > self.picked[span, None]
        local = self.ids[span] - first
        here = torch.nonzero((local >= 0) & (local < len(matrix)))[:, 0]
        likelier[here, local[here]] = False  # another order of its sum must not make a token its own rival
        self.sums[1, span] += weight.where(likelier, 0).sum(-1, dtype=torch.float64)
        if self.moments:
            self._add_moments(span, logits, weight, shrink, matrix)

    def _add_moments(self, span: slice, logits: Any, weight: Any, shrink: Any, matrix: Any) -> None:
        import torch

        squares, products = (weight**2).sum(-1, dtype=torch.float64), (weight * logits).sum(-1)
        self.sums[2, span] = self.sums[2, span] * shrink**2 + squares
        self.sums[3, span] = self.sums[3, span] * shrink + products
        self.mean_row[span] = self.mean_row[span] * shrink[:, None] + weight @ matrix

    @property
    def log_total(self) -> Any:
        """log of the sum of exp(l - most): at least 0, so that a logarithm of it loses nothing."""
        return self.sums[0].log()

    @property
    def own(self) -> np.ndarray:
        """[N] log-probability of the token that followed."""
        return ((self.picked - self.most).double() - self.log_total).numpy()

    @property
    def top_id(self) -> np.ndarray:
        return self.likeliest.numpy()

    @property
    def top_logprob(self) -> np.ndarray:
        return (-self.log_total).numpy()

    @property
    def above(self) -> np.ndarray:
        """[N] probability of all tokens that are likelier than the one that followed."""
        return (self.sums[1] / self.sums[0]).numpy()

    @property
    def concentration(self) -> np.ndarray:
        """[N] sum of the squared probabilities."""
        return (self.sums[2] / self.sums[0] ** 2).numpy()

    @property
    def heat(self) -> np.ndarray:
        """[N] how the token's log-probability moves with a scale of all logits."""
        return (self.picked.double() - self.sums[3] / self.sums[0]).numpy()

    @property
    def pull(self) -> Any:
        """[N, H] derivative of the token's log-probability by its hidden state."""
        return self.own_row - self.mean_row / self.sums[0].float()[:, None]


class LayerwisePasses:
    """One forward pass over texts that keeps each layer's input; backward passes compute layers again."""

    def __init__(self, layers: Any, texts: Sequence[Continuation]) -> None:
        import torch

        self.layers = layers
        sequences = [[*t.prompt, *t.answer] for t in texts]
        self.text = np.repeat(np.arange(len(texts)), [len(t.answer) for t in texts])
        self.texts = len(texts)
        self.batches = batches_of(layers, sequences)
        self.places = [_answer_places(batch, texts) for batch in self.batches]
        self.inputs: list[list[Any]] = []
        with torch.inference_mode():
            states = embedded(layers, self.batches)
            for place in range(layers.layer_count):
                layer = layers.layer(place)
                self.inputs.append(states)
                states = [layer(x, *b.turns, b.layout) for x, b in zip(states, self.batches, strict=True)]
                del layer
            self.last = states
            hidden = torch.cat([layers.rest.norm(x)[p] for x, p in zip(states, self.places, strict=True)])
            self.order, ids = _in_text_order(self.batches, texts)
            sums = HeadSums(layers, hidden, ids, moments=True)
        back = np.argsort(self.order)
        self.own, self.concentration, self.heat = (
            values[back] for values in (sums.own, sums.concentration, sums.heat)
        )
        self.pull = sums.pull.split([len(p) for p in self.places])

    def back(self, weights: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Per vector of weights [N], direction and text: the sum over tokens of weight times
        d(log-probability) / d(log scale)."""
        import torch

        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")  # bf16 inside: three digits of a direction are enough
        try:
            return self._back([torch.from_numpy(w[self.order]).float() for w in weights])
        finally:
            torch.set_float32_matmul_precision(before)

    def _back(self, weights: Sequence[Any]) -> list[dict[str, np.ndarray]]:
        totals: list[dict[str, np.ndarray]] = [{} for _ in weights]
        grads = self._into_last(weights)
        for place in reversed(range(self.layers.layer_count)):
            layer = self.layers.layer(place)
            for i, batch in enumerate(self.batches):
                grads[i], products = _layer_back(layer, self.inputs[place][i], batch, grads[i])
                for sums, product in zip(totals, products, strict=True):
                    for name, per_token in layer_directions(place, layer, *product):
                        add_by_text(sums, name, per_token, batch.owner, self.texts)
            del layer
        return totals

    def _into_last(self, weights: Sequence[Any]) -> list[list[Any]]:
        """Per batch and vector of weights: the gradient [T, H] at the last layer's output."""
        import torch

        gradients, start = [], 0
        for x, places, pull in zip(self.last, self.places, self.pull, strict=True):
            stop = start + len(places)
            with torch.enable_grad():
                x = x.clone().requires_grad_(True)
                hidden = self.layers.rest.norm(x)[places]
            gradients.append(
                [
                    torch.autograd.grad(hidden, x, pull * w[start:stop, None], retain_graph=True)[0]
                    for w in weights
                ]
            )
            start = stop
        return gradients


def _answer_places(batch: Batch, texts: Sequence[Continuation]) -> Any:
    """Where in the batch the tokens stand from which an answer's token follows."""
    import torch

    starts = np.concatenate([[0], np.cumsum(batch.lengths)[:-1]])
    return torch.from_numpy(
        np.concatenate(
            [
                start + len(texts[i].prompt) - 1 + np.arange(len(texts[i].answer))
                for start, i in zip(starts, batch.members, strict=True)
            ]
        )
    )


def _in_text_order(batches: Sequence[Batch], texts: Sequence[Continuation]) -> tuple[np.ndarray, Any]:
    """For each answer token in the batches' order: its place in the texts' order, and its id."""
    import torch

    starts = np.concatenate([[0], np.cumsum([len(t.answer) for t in texts])])
    members = [i for batch in batches for i in batch.members]
    order = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in members])
    return order, torch.tensor([token for i in members for token in texts[i].answer])


def _layer_back(
    layer: Any, x: Any, batch: Batch, grads: Sequence[Any]
) -> tuple[list[Any], list[tuple[Any, ...]]]:
    """Gradients at a layer's input, and output times gradient of each of its matrices, per vector."""
    import torch

    with torch.enable_grad(), watched([layer]) as outputs:
        x = x.clone().requires_grad_(True)
        y = layer(x, *batch.turns, batch.layout)
    passed, products = [], []
    for grad in grads:
        *inner, into = torch.autograd.grad(y, [*outputs, x], grad, retain_graph=True)
        passed.append(into)
        products.append(tuple(o.detach() * g for o, g in zip(outputs, inner, strict=True)))
    return passed, products


@contextmanager
def watched(layers: Iterable[Any]) -> Iterator[list[Any]]:
    """Inside, every matrix of `layers` appends its output to the list that this gives."""
    outputs: list[Any] = []
    hooks = [
        getattr(layer, name).register_forward_hook(lambda _m, _i, out: outputs.append(out))
        for layer in layers
        for name in MATRICES
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def layer_directions(
    place: int, layer: Any, qkv: Any, o: Any, gate_up: Any, down: Any
) -> Iterator[tuple[str, Any]]:
    """What a scale of each matrix does to each token, from output times gradient.

    Query pulls as key does, value as output, up as down: `down` itself tells nothing more. Where query and
    key have norms of their own, these undo a scale.
    """
    queries = layer.config.heads * layer.config.head_dim
    half = gate_up.shape[1] // 2
    query, output = qkv[:, :queries].sum(-1), o.sum(-1)
    gate, up = gate_up[:, :half].sum(-1), gate_up[:, half:].sum(-1)
    if layer.q_norm is None:
        yield f"layer {place}: query or key", query
    yield f"layer {place}: value or output", output
    yield f"layer {place}: gate", gate
    yield f"layer {place}: up or down", up
    yield f"layer {place}", 2 * query + 2 * output + gate + 2 * up  # all its matrices


def add_by_text(sums: dict[str, np.ndarray], name: str, per_token: Any, owner: Any, texts: int) -> None:
    """Add [T] up by the text that each token belongs to."""
    import torch

    added = torch.zeros(texts).index_add_(0, owner, per_token).double().numpy()
    sums[name] = sums[name] + added if name in sums else added
