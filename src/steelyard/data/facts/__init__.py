"""What the rules ask of texts, counted once for a batch, as arrays: no rule counts again."""

from .batch import LANGUAGES, Facts, facts_of
from .forms import CHAT, CODE, FORMS, LABEL, PROSE, TABLE
from .kinds import Kind, code_points, tables
from .tokens import SHINGLE, Tokens, hashes_of, joined, mixed, shingles
from .words import Cues

__all__ = [
    "CHAT", "CODE", "FORMS", "LABEL", "LANGUAGES", "PROSE", "SHINGLE", "TABLE", "Cues", "Facts", "Kind",
    "Tokens", "code_points", "facts_of", "hashes_of", "joined", "mixed", "shingles", "tables",
]  # fmt: skip
