"""A sentence encoder: texts to ids, ids to vectors, and where a text is too long.

The engine is a child process of its own (engines/encoder.py), beside the language model's or alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...model import Encoder, SentenceTokenizer, exported_encoder
from ..base.errors import ApiError
from .engine_process import EngineProcess
from .replicas import Replicas

STEP_TOKENS = 4096  # asked for at once: a short request waits behind one step, not behind a long list


def steps_of(batch: list[list[int]]) -> Iterator[list[list[int]]]:
    """Parts of at most STEP_TOKENS, in order; a longer text has its own."""
    step: list[list[int]] = []
    tokens = 0
    for ids in batch:
        if step and tokens + len(ids) > STEP_TOKENS:
            yield step
            step, tokens = [], 0
        step.append(ids)
        tokens += len(ids)
    if step:
        yield step


class EncoderService:
    """One encoder: its engine, its tokenizer, its name."""

    def __init__(self, engine: EngineProcess | Replicas, folder: Path, name: str) -> None:
        self.engine, self.name = engine, name
        self.about: Encoder = exported_encoder(folder)
        self.tokenizer = SentenceTokenizer(folder)

    def fitting(self, ids: list[int], cut: int | None, param: str) -> list[int]:
        """The ids, cut where that is asked for: the last one, which ends the text, stays.

        Raises ApiError 400 with both counts where they are too many: nothing is cut silently.
        """
        longest = self.about.max_tokens
        limit = longest if cut in (None, -1) else min(int(cut or 0), longest)
        if len(ids) > limit and cut is not None:
            return [*ids[: limit - 1], ids[-1]]
        if len(ids) > longest:
            raise ApiError(
                400,
                f"This model's maximum context length is {longest} tokens. However, your {param} has "
                f"{len(ids)} tokens. Split it, or say with truncate_prompt_tokens where to cut.",
                param=param,
                code="context_length_exceeded",
            )
        return ids
