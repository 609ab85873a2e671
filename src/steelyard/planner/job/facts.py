"""What a plan starts from: counts of the data, the settings that are filled in. Plain values, no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """Counts of the data that training and cleaning will see, taken with the tokenizer before the plan.

    `lengths` are tokens a row, prompt and answer, special tokens included: all rows or an even sample.
    """

    rows: int = 0  # that training sees: kept, and not held out
    bytes: int = 0  # of the files
    tokens: int = 0
    answer_tokens: int = 0
    longest: int = 0  # tokens of the longest row
    lengths: Sequence[int] = ()
    abilities: Mapping[str, int] = field(default_factory=dict)  # rows of each
    texts: int | None = None  # of the rows, those of plain text; None where nobody counted
    pairs: int | None = None  # those of a better and a worse answer
    labels: int | None = None  # those of a rated answer
    held_out: int = 0  # rows kept for the gate
    held_out_by: Mapping[str, int] = field(default_factory=dict)  # of those, each ability's

    @property
    def mean_length(self) -> float:
        """Tokens a row, 1 where nothing is known."""
        return self.tokens / self.rows if self.rows and self.tokens else 1.0

    @property
    def answer_share(self) -> float:
        """Share of tokens that carry loss."""
        return min(1.0, self.answer_tokens / self.tokens) if self.tokens else 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """Every setting of every step, and where each came from: "recipe", or "plan: why"."""

    settings: Mapping[
        str, Any
    ]  # {"clean": {...}, "train": [{...}], "compress": {...}, "gate": {...}, "serve": {...}}
    origins: Mapping[str, str]
    price_usd_per_h: float | None = None  # the user's own; None = by the catalogue
