"""Sources, cleaning, the account, held-out rows. Readers of XLSX and Parquet load when a file needs them."""

from .check import check
from .clean import clean, fingerprint
from .clean_files import clean_files
from .columns import Column, Guess, guess_map, nearest
from .count import count
from .files import FORMATS
from .look import Sniff, answers_of, rows_with, sniff
from .row import Row, Unreadable
from .shapes import MAP_WORDS, SHAPES
from .sources import Source, rows
from .steps import STEPS, redact

__all__ = [
    "FORMATS", "MAP_WORDS", "SHAPES", "STEPS", "Column", "Guess", "Row", "Sniff", "Source", "Unreadable",
    "answers_of", "check", "clean", "clean_files", "count", "fingerprint", "guess_map", "nearest", "redact",
    "rows", "rows_with", "sniff",
]  # fmt: skip
