"""Sources, cleaning, the account, held-out rows. Readers of XLSX and Parquet load when a file needs them."""

from .check import check
from .clean import clean, fingerprint
from .clean_files import clean_files
from .count import count
from .facts import LANGUAGES
from .reading.columns import Column, Guess, guess_map, nearest
from .reading.files import FORMATS
from .reading.look import Sniff, answers_of, rows_with, sniff
from .reading.shapes import MAP_WORDS, SHAPES
from .reading.sources import Source, rows
from .row import Row, Unreadable
from .rules import KINDS
from .steps import STEPS, redact

__all__ = [
    "FORMATS", "KINDS", "LANGUAGES", "MAP_WORDS", "SHAPES", "STEPS", "Column", "Guess", "Row", "Sniff",
    "Source", "Unreadable",
    "answers_of", "check", "clean", "clean_files", "count", "fingerprint", "guess_map", "nearest", "redact",
    "rows", "rows_with", "sniff",
]  # fmt: skip
