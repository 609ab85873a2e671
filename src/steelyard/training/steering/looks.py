"""A look at held-out rows, ability by ability: loss, and the share of answers that are right word for word.

An answer is right where each of its tokens is the likeliest one after those before it: what decoding the
likeliest token would give, at the price of a forward pass. Of an ability whose `compare` is wider than equal
text (json, label, contains) the gate's score is that or more.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from steelyard.general import general_texts
from steelyard.model import Tokenizer

from ..methods import HEAD_CHUNK_TOKENS
from ..rows import TrainingExample, batch_of
from ..teacher import batches

GENERAL = "(general)"  # stands for what nobody trained, among abilities; in brackets, as no ability is named
Held = Mapping[str, Sequence[TrainingExample]]  # rows by ability


@dataclass(frozen=True, slots=True)
class RowLook:
    """Of one held-out row: nats over its learnt tokens, how many they are, whether all are the likeliest."""

    loss: float
    tokens: int
    right: bool


Look = Mapping[str, Sequence[RowLook]]


def general_examples(tokenizer: Tokenizer) -> list[TrainingExample]:
    """The shipped texts, each token of them looked at but the first."""
    ids = [array("i", tokenizer.encode(text)) for text in general_texts()]
    return [TrainingExample(own, bytes([0] + [1] * (len(own) - 1)), GENERAL, -1) for own in ids]


def look_at(network: Any, held: Held) -> dict[str, list[RowLook]]:
    """By ability, in the order of its rows."""
    return {
        ability: [look for batch in batches(rows) for look in rows_of(network, batch)]
        for ability, rows in held.items()
    }


def rows_of(network: Any, rows: Sequence[TrainingExample]) -> list[RowLook]:
    """One forward pass."""
    import torch

    batch = batch_of(rows, network)
    with torch.no_grad():
        hidden = network.flat(batch.ids, batch.positions, batch.layout, batch.before)[: batch.answers]
        targets, losses, right = batch.targets[: batch.answers], [], []
        for part, target in zip(
            hidden.split(HEAD_CHUNK_TOKENS), targets.split(HEAD_CHUNK_TOKENS), strict=True
        ):
            logits = (part @ network.output.t()).float()
            losses.append(torch.nn.functional.cross_entropy(logits, target, reduction="none"))
            right.append(logits.argmax(1) == target)
    counts = [row.taught_tokens for row in rows]
    found = zip(torch.cat(losses).split(counts), torch.cat(right).split(counts), strict=True)
    return [
        RowLook(float(loss.double().sum()), count, bool(hit.all()))
        for (loss, hit), count in zip(found, counts, strict=True)
    ]


def loss_of(looks: Sequence[RowLook]) -> float:
    """Nats a learnt token."""
    return sum(look.loss for look in looks) / max(1, sum(look.tokens for look in looks))


def right_of(looks: Sequence[RowLook]) -> float:
    return fmean(look.right for look in looks) if looks else 0.0


def summary(look: Look) -> dict[str, dict[str, float]]:
    """{"loss": {ability: nats a token}, "right": {ability: share}}: what a curve keeps."""
    return {
        "ability_loss": {ability: loss_of(rows) for ability, rows in look.items()},
        "ability_right": {ability: right_of(rows) for ability, rows in look.items()},
    }
