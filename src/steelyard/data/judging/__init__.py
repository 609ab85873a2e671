"""What one row says by itself, in batches; then the last word on each, in their order."""

from .elsewhere import Judging, Others, Piece, elsewhere, here
from .equal import Lines, asked_alone, equal_batch, equal_lines
from .judge import Batch, Judged, judge
from .sieve import Sieve

__all__ = [
    "Batch", "Judged", "Judging", "Lines", "Others", "Piece", "Sieve", "asked_alone", "elsewhere",
    "equal_batch", "equal_lines", "here", "judge",
]  # fmt: skip
