"""Rewards of answers that the child has sampled, computed on this side, where the gate's own functions are.

    child {"sampled": [[example, [id, ...]], ...]} -> here -> a line [reward, ...] on its standard input

The child imports nothing of steelyard: ids are decoded here as serving decodes them, and compared with the
row's own answer as the gate compares it (docs/decisions/141).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from ....compare import right
from ....errors import Where, WrongUse
from ....model import Tokenizer
from ....shape import read_json
from ...rows import TrainingExample
from ..protocol import TrainJob


class Rewards:
    """What an answer to an example of the job is worth, 0 to 1."""

    def __init__(self, job: TrainJob) -> None:
        self.job = job

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer(self.job.base)

    def of(self, sampled: Sequence[tuple[int, Sequence[int]]]) -> list[float]:
        return [self.reward(self.job.rows.examples[number], ids) for number, ids in sampled]

    def reward(self, example: TrainingExample, ids: Sequence[int]) -> float:
        assert example.row is not None
        return right(example.row, self.tokenizer.decode(ids))


def prompt_line(example: TrainingExample, number: int) -> dict[str, Any]:
    """What the child answers: the ids that serving sends, which example they are of, and its own answer."""
    begun = example.mask.index(1)
    return {
        "prompt": example.ids[:begun].tolist(),
        "answer": example.ids[begun:].tolist(),
        "example": number,
    }


def check_room(job: TrainJob) -> None:
    """Raises WrongUse where the longest prompt and an answer to it are more than the model reads."""
    most = read_json(job.base / "config.json").get("max_position_embeddings") or 0
    answer = job.settings["method"]["max_completion_length"]
    longest = max(example.mask.index(1) for example in job.rows.examples)
    if most and longest + answer > most:
        raise WrongUse(
            "train.completion_too_long",
            f"a prompt of {longest} tokens and an answer of {answer} are more than the model's {most}",
            where=Where(field="train.max_completion_length"),
            hint=f"max_completion_length: {most - longest}" if most > longest else "a smaller max_length",
        )
