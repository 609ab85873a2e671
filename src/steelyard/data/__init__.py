"""Sources, cleaning, the account, held-out rows. Readers of XLSX and Parquet load when a file needs them."""

from .clean import clean, fingerprint
from .clean_files import clean_files
from .count import count
from .files import FORMATS
from .row import Row, Unreadable
from .shapes import SHAPES
from .sources import Sniff, Source, guess_map, rows, sniff
from .steps import STEPS, redact

__all__ = [
    "FORMATS", "SHAPES", "STEPS", "Row", "Sniff", "Source", "Unreadable", "clean", "clean_files", "count",
    "fingerprint", "guess_map", "redact", "rows", "sniff",
]  # fmt: skip
