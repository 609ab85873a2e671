"""What one row says by itself, in batches; then the last word on each, in their order."""

from .equal import Lines, asked_alone, equal_batch, equal_lines
from .judge import Batch, Judged, judge
from .sieve import Sieve

__all__ = ["Batch", "Judged", "Lines", "Sieve", "asked_alone", "equal_batch", "equal_lines", "judge"]
