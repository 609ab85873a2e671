"""Questions that a model in training answers at each look: rows held out of its stage, scored as by the gate.

Which rows, and how long an answer may be. Not here: how an engine writes the answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import orjson

from steelyard.compare import METRICS, metric_of, right
from steelyard.errors import Where, WrongUse
from steelyard.model import Tokenizer, Unteachable, compared_examples
from steelyard.shape import read_json

from ..rows import Rows, kind_of

SCORE = "score"  # of metric_for_best_model
MOST = 64  # questions of a look: a score of 80 % is then known to 5 points (one standard error)
ROOM = 512  # tokens of the longest answer


@dataclass(frozen=True, slots=True)
class Question:
    prompt: list[int]  # the ids that serving sends
    most: int  # tokens of an answer: twice the reference's and 8, as the gate allows
    row: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Questions:
    """Those of a stage, and how answers to them are scored."""

    tokenizer: Tokenizer
    asked: tuple[Question, ...]

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids that end an answer."""
        return tuple(sorted(self.tokenizer.eos_ids))

    def score(self, answers: Sequence[Sequence[int]]) -> float:
        """Their mean, 0 to 1; `answers` are ids, without the one that ends them."""
        texts = [self.tokenizer.decode(ids) for ids in answers]
        return fmean(right(asked.row, text) for asked, text in zip(self.asked, texts, strict=True))


def questions_of(path: Path, base: Path, rows: Rows, settings: Mapping[str, Any]) -> Questions | None:
    """Of the rows kept back; None where the stage asks for no score. Raises WrongUse where none has one."""
    if settings.get("metric_for_best_model") != SCORE:
        return None
    tokenizer = Tokenizer(base)
    limit = int(read_json(base / "config.json").get("max_position_embeddings") or 0)
    kept = {example.number for example in rows.kept_back}
    found = tuple(islice(_scored(path, tokenizer, kept, limit), MOST))
    if found:
        return Questions(tokenizer, found)
    raise WrongUse(
        "train.no_scored_rows",
        f"none of the {len(kept)} rows held out of the stage has an answer that can be scored",
        where=Where(field="train.metric_for_best_model"),
        hint="chats whose compare is text, json, label, contains, number or chrf; or metric_for_best_model: "
        "eval_loss",
    )


def _scored(path: Path, tokenizer: Tokenizer, numbers: set[int], limit: int) -> Iterator[Question]:
    with path.open("rb") as file:
        for number, line in enumerate(file):
            row = orjson.loads(line) if number in numbers else {}
            if kind_of(row) != "chats" or not row or metric_of(row) not in METRICS:
                continue
            if question := _question(tokenizer, row, limit):
                yield question


def _question(tokenizer: Tokenizer, row: Mapping[str, Any], limit: int) -> Question | None:
    """None where the row ends with no answer in words, or the model reads less."""
    if row["messages"][-1].get("tool_calls"):
        return None
    try:
        (example,) = compared_examples(tokenizer, row)
    except Unteachable:
        return None
    begun = list(example.mask).index(1)
    most = min(ROOM, 2 * (len(example.ids) - begun) + 8)
    if limit and begun + most > limit:
        return None
    return Question(list(example.ids[:begun]), most, row)
