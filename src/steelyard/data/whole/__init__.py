"""What the whole set says of its rows: sketches of batches go in, verdicts come out."""

from .sketch import Sketch, sketch_of
from .verdict import Settings, Verdict, Whole

__all__ = ["Settings", "Sketch", "Verdict", "Whole", "sketch_of"]
