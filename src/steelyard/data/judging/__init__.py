"""What one row says by itself, in batches; then the last word on each, in their order."""

from .equal import asked_alone, equal_batch
from .judge import Batch, Judged, judge
from .sieve import Sieve

__all__ = ["Batch", "Judged", "Sieve", "asked_alone", "equal_batch", "judge"]
