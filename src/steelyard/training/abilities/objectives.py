"""Each ability is an objective: what a token of it counts in the loss.

A mean over tokens is a sum of objectives weighted by the length of their answers: a label of 6 tokens beside
records of 74 has a twelfth of the gradient that its rows ask for. With `loss_per: ability` it is

    L = sum over abilities a of (rows drawn of a) * (mean loss of a taught token of a)

so that the mix alone says what each ability weighs. Within an ability all tokens count alike, as in a
training of it alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..rows import Rows


def alike(rows: Rows, settings: Mapping[str, Any]) -> Rows:
    """The rows, each token with what it counts; as they are where the loss is a mean over tokens.

    All tokens together count as before, so that the rate keeps its meaning.
    """
    if settings.get("loss_per") != "ability":
        return rows
    tokens, drawn = Counter[str](), Counter[str]()
    for example in rows.examples:
        tokens[example.ability] += example.taught_tokens
        drawn[example.ability] += 1
    mean = tokens.total() / max(1, drawn.total())
    counts = {ability: mean * drawn[ability] / max(1, tokens[ability]) for ability in drawn}
    examples = [replace(example, counts=counts[example.ability]) for example in rows.examples]
    return replace(rows, examples=examples)
