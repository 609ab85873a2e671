"""What the whole set says of its rows: sketches of batches go in, verdicts come out."""

from .asked import asked_shingles, groups_of
from .keys import Keys
from .names import Names
from .sketch import Sketch, sketch_of
from .store import Growing, GrowingRagged, Ragged
from .verdict import Settings, Verdict, Verdicts, Whole

__all__ = [
    "Growing", "GrowingRagged", "Keys", "Names", "Ragged", "Settings", "Sketch", "Verdict", "Verdicts",
    "Whole", "asked_shingles", "groups_of", "sketch_of",
]  # fmt: skip
