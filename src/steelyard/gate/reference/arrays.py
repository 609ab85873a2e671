"""What a reference gives: one array an answer, its columns, and how sequences are put into batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

LOGPROB, TOP_ID, TOP_LOGPROB, ABOVE = 0, 1, 2, 3  # columns of a reference array
BATCH_TOKENS = 2048  # computed at once; more gains nothing on a CPU

PromptAnswer = tuple[Sequence[int], Sequence[int]]  # ids of both; a prompt is never empty, an answer may be
# Per answer of T ids an array [T + 1, 4], f64: row i speaks of the token after the prompt and answer[:i]: the
# log-probability of answer[i] (0 in the last row, where there is none), the likeliest id, its own
# log-probability, and the probability of all tokens that are likelier than answer[i].
Reference = Callable[[Sequence[PromptAnswer]], list[np.ndarray]]


def beginning(array: np.ndarray, length: int) -> np.ndarray:
    """The array of an answer's first `length` ids: nothing follows the last of them."""
    rows = array[: length + 1].copy()
    rows[-1, LOGPROB] = 0.0
    rows[-1, ABOVE:] = 0.0
    return rows


def by_length(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Places in order of length, in groups of at most `tokens` (or one sequence)."""
    batches: list[list[int]] = []
    total = 0
    for place in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if not batches or total + lengths[place] > tokens:
            batches.append([])
            total = 0
        batches[-1].append(place)
        total += lengths[place]
    return batches
