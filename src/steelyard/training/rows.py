"""Rows of a dataset artefact as token ids, and rows of one micro-batch as flat tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from steelyard.errors import Where, WrongUse
from steelyard.model import Tokenizer, answer_span


@dataclass(frozen=True, slots=True)
class Row:
    """`learn[i]` is 1 where the loss counts the prediction of `ids[i]`; never for the first token."""

    ids: list[int]
    learn: list[int]
    ability: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows one behind the other: no padding. T tokens, N of them are predicted with a loss."""

    ids: Any  # [T]
    positions: Any  # [T], from 0 in each row
    layout: Any
    before: Any  # [N], the tokens whose output predicts
    targets: Any  # [N]
    answers: int


def read_rows(path: Path, tokenizer: Tokenizer, max_length: int) -> list[Row]:
    """All rows of a train.jsonl. Text longer than max_length becomes several rows."""
    rows: list[Row] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                rows.extend(_rows_of(orjson.loads(line), tokenizer, max_length))
            except (orjson.JSONDecodeError, KeyError) as e:
                raise WrongUse("data.row", f"not a training row: {e}", where=Where(path.name, number)) from e
    return rows


def _rows_of(raw: dict[str, Any], tokenizer: Tokenizer, max_length: int) -> Iterator[Row]:
    ability = raw.get("ability", "")
    if "text" in raw:
        ids = tokenizer.encode(raw["text"]) + list(tokenizer.eos_ids[:1])
        for start in range(0, len(ids), max_length):
            piece = ids[start : start + max_length]
            yield Row(piece, [0] + [1] * (len(piece) - 1), ability)
        return
    ids, learn = answer_span(tokenizer, raw["messages"])
    yield Row(ids, [0, *learn[1:]], ability)


def batch_of(rows: Sequence[Row], network: Any) -> Batch:
    """The micro-batch of these rows."""
    import torch

    lengths = [len(row.ids) for row in rows]
    learn = torch.tensor([flag for row in rows for flag in row.learn], dtype=torch.bool)
    ids = torch.tensor([token for row in rows for token in row.ids])
    target = torch.nonzero(learn).reshape(-1)
    return Batch(
        ids=ids,
        positions=torch.cat([torch.arange(length) for length in lengths]),
        layout=network.layout(lengths),
        before=target - 1,
        targets=ids[target],
        answers=target.numel(),
    )
