"""Rows of a dataset artefact as token ids, and rows of one micro-batch as flat tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from steelyard.errors import Where, WrongUse
from steelyard.model import Tokenizer, answer_span

SIZE_STEP = 32


@dataclass(frozen=True, slots=True)
class Row:
    """`learn[i]` is 1 where the loss counts the prediction of `ids[i]`; never for the first token."""

    ids: list[int]
    learn: list[int]
    ability: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows one behind the other. T tokens, N of them are predicted; `answers` of these N have a loss.

    T and N are multiples of SIZE_STEP: every new size costs the matrix library new kernels (20 MB and more),
    kept for ever. The few tokens more stand at the end of the last row, unseen by every real one.
    """

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
    ids = _filled(torch.tensor([token for row in rows for token in row.ids]))
    lengths[-1] += ids.numel() - sum(lengths)
    target = torch.nonzero(learn).reshape(-1)
    before = _filled(target - 1)
    return Batch(
        ids=ids,
        positions=torch.cat([torch.arange(length) for length in lengths]),
        layout=network.layout(lengths),
        before=before,
        targets=_filled(ids[target]),
        answers=target.numel(),
    )


def _filled(values: Any) -> Any:
    """Zeros at the end, up to a multiple of SIZE_STEP."""
    import torch

    return torch.nn.functional.pad(values, (0, -values.numel() % SIZE_STEP))
