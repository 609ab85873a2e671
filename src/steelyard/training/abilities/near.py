"""Answers are learnt, prompts stay what they were: sft that keeps near the model that it begins from.

Some tokens of each prompt, which nobody teaches, are held at what that model says of them before: the loss
is the mean over taught tokens of -log q(token) and over held ones of KL(before || q), learning without
forgetting (Li and Hoiem 2016, arXiv 1606.09282) on the inputs of the new task. `beta` is the number of held
tokens to each taught one. That model is asked once, before the training (teacher.py).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.artefact import Watch

from ..rows import Rows, TrainingExample
from ..teacher import Ask, with_teacher

LEAST = 2  # held tokens of a row, if its prompt has them: an answer of one word holds little
TOLD = 32  # likeliest tokens that are kept of each distribution


def near(
    rows: Rows,
    base: Path,
    vocab: int,
    settings: Mapping[str, Any],
    place: Path | None,
    watch: Watch,
    ask: Ask | None = None,
) -> Rows:
    """The same rows, each with part of its prompt held; reads `seed` and `method.beta`. Raises Stopped."""
    held = [held_part(row, n, settings) for n, row in enumerate(rows.examples)]
    asked = {**settings, "teacher_hash": "base", "method": {"loss_top_k": TOLD}, "vocab": vocab}
    with_some = [row for row in held if row.taught_tokens]
    told = iter(with_teacher(Rows(with_some), base, asked, place, watch, ask).examples if with_some else ())
    examples = [
        both(row, next(told), vocab) if of_prompt.taught_tokens else sure(row, vocab)
        for row, of_prompt in zip(rows.examples, held, strict=True)
    ]
    return replace(rows, examples=examples)


def held_part(row: TrainingExample, number: int, settings: Mapping[str, Any]) -> TrainingExample:
    """The row with the tokens that are held in place of those that are taught: equal for equal seeds."""
    free = [n for n in range(1, len(row.ids)) if not row.mask[n]]
    count = min(len(free), max(LEAST, round(settings["method"]["beta"] * row.taught_tokens)))
    mask = bytearray(len(row.ids))
    for n in random.Random(f"{settings['seed']}:held:{number}").sample(free, count):
        mask[n] = 1
    return replace(row, mask=bytes(mask))


def sure(row: TrainingExample, vocab: int) -> TrainingExample:
    """A row whose own answer is all that a teacher would say: its divergence is the cross-entropy."""
    taught = np.array([token for token, learnt in zip(row.ids, row.mask, strict=True) if learnt], np.int32)
    ids = (taught[:, None] + np.arange(TOLD, dtype=np.int32)) % vocab  # the others have no weight
    logps = np.full(ids.shape, -np.inf, np.float16)
    logps[:, 0] = 0.0
    return replace(row, soft=(ids, logps))


def both(row: TrainingExample, held: TrainingExample, vocab: int) -> TrainingExample:
    """Its answer as it stands, and of its prompt what the base says."""
    taught = sure(row, vocab)
    assert taught.soft is not None and held.soft is not None
    mask = np.frombuffer(row.mask, np.uint8) | np.frombuffer(held.mask, np.uint8)
    of_answer = np.frombuffer(row.mask, np.uint8)[mask.astype(bool)].astype(bool)
    ids, logps = (np.empty((len(of_answer), TOLD), part.dtype) for part in taught.soft)
    for values, own, of_prompt in zip((ids, logps), taught.soft, held.soft, strict=True):
        values[of_answer], values[~of_answer] = own, of_prompt
    return replace(row, mask=mask.tobytes(), soft=(ids, logps))
