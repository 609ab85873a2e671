"""A micro-batch as a line of the order: its sequences one behind the other, and what its stage adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...rows import TrainingExample


def line_of(rows: Sequence[TrainingExample], before: TrainingExample | None = None) -> dict[str, Any]:
    """{"ids", "labels", "lengths"}; of pairs the better answers first, then the worse ones.

    Of rated answers {"label"} too, and {"kl"}: each prompt with the answer of another row, from which KTO
    estimates how far the model has moved (Ethayarajh et al. 2024, arXiv 2402.01306, section 4.2). `before` is
    the row ahead of this micro-batch, for one that is alone.
    """
    worse = [row.rejected for row in rows if row.rejected]
    line: dict[str, Any] = sequences([*rows, *worse])
    if any(row.label is not None for row in rows):
        others = [rows[-1] if len(rows) > 1 else before or rows[0], *rows[:-1]]
        line["label"] = [bool(row.label) for row in rows]
        line["kl"] = sequences([crossed(row, other) for row, other in zip(rows, others, strict=True)])
    return line


def sequences(rows: Sequence[TrainingExample]) -> dict[str, Any]:
    ids = [token for row in rows for token in row.ids]
    mask = b"".join(row.mask for row in rows)
    labels = [token if flag else -100 for token, flag in zip(ids, mask, strict=True)]
    return {"ids": ids, "labels": labels, "lengths": [len(row.ids) for row in rows]}


def crossed(row: TrainingExample, other: TrainingExample) -> TrainingExample:
    """The prompt of one row with the answer of another."""
    begun, answer = row.mask.index(1), other.mask.index(1)
    return replace(row, ids=row.ids[:begun] + other.ids[answer:], mask=row.mask[:begun] + other.mask[answer:])
