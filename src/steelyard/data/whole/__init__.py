"""What the whole set says of its rows: sketches of batches go in, verdicts come out."""

from .asked import asked_shingles, groups_of
from .sketch import Sketch, sketch_of
from .store import GrowingRagged, Ragged
from .verdict import Settings, Verdict, Whole

__all__ = [
    "GrowingRagged", "Ragged", "Settings", "Sketch", "Verdict", "Whole", "asked_shingles", "groups_of",
    "sketch_of",
]  # fmt: skip
