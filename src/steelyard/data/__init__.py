"""Sources, cleaning, the account, held-out rows. Readers of XLSX and Parquet load when a file needs them."""

from .clean import clean, fingerprint
from .clean_files import clean_files
from .facts import LANGUAGES
from .looking.check import check
from .looking.count import count
from .looking.differences import differences
from .looking.page import page_facts
from .looking.sets import DataSet, judged_now, open_set, plain_settings
from .looking.shown import Wanted, plain_text, show, visible
from .looking.split import parts_of, split_set
from .looking.traced import (
    Query,
    Traced,
    row_of,
    source_texts,
    standing,
    standing_in_sources,
    strings_of,
    traced,
)
from .making.make import MakeOrder, make_rows
from .making.pictures import Found, make_pictures
from .making.rated import UNFINISHED, Fault, Line, Rating, ratings_of
from .making.weighed import RatedRow, Rules, Weighed, taught_hashes, weigh
from .reading.columns import Column, Guess, guess_map, nearest
from .reading.files import FORMATS
from .reading.look import Sniff, answers_of, rows_with, sniff
from .reading.shapes import MAP_WORDS, SHAPES
from .reading.sources import Source, needed_files, rows
from .reading.stores.remote import asked_once, url_of
from .row import Row, Unreadable, text_hash
from .rules import KINDS
from .steps import STEPS, Suppressed, redact, suppress, suppressed

__all__ = [
    "FORMATS", "KINDS", "LANGUAGES", "MAP_WORDS", "SHAPES", "STEPS", "UNFINISHED", "Column", "DataSet",
    "Fault", "Found", "Guess", "Line", "MakeOrder", "Query", "RatedRow", "Rating", "Row", "Rules", "Sniff",
    "Source", "Suppressed", "Traced", "Unreadable", "Wanted", "Weighed", "answers_of", "asked_once",
    "check", "clean", "clean_files", "count", "differences", "fingerprint", "guess_map", "judged_now",
    "make_pictures", "make_rows", "nearest", "needed_files", "open_set", "page_facts", "parts_of",
    "plain_settings", "plain_text", "ratings_of", "redact", "row_of", "rows", "rows_with", "show", "sniff",
    "source_texts", "split_set", "standing", "standing_in_sources", "strings_of", "suppress", "suppressed",
    "taught_hashes", "text_hash", "traced", "url_of", "visible", "weigh",
]  # fmt: skip
