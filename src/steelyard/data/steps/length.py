"""Rows longer than training can take, or than a row can be."""

from __future__ import annotations

import re

from ..row import Row
from .finding import Finding, Rules

# One CJK character is about one token, other text about 3.5 characters a token; a turn adds its marks.
WIDE = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]")
CHARS_PER_TOKEN = 3.5
TURN_TOKENS = 8


def too_long(row: Row, rules: Rules) -> tuple[Row, list[Finding]]:
    """`too_long`: over `max_chars`, or over `max_tokens` by the model's own tokenizer where it is given."""
    parts = row.parts
    if sum(map(len, parts)) > rules.max_chars:
        return row, [Finding("too_long", "drop")]
    if rules.max_tokens is None or most_tokens(row) <= rules.max_tokens:
        return row, []
    count = rules.tokens_of(row) if rules.tokens_of else estimated_tokens(row)
    return row, [Finding("too_long", "drop")] if count > rules.max_tokens else []


def most_tokens(row: Row) -> int:
    """No tokenizer makes more tokens than bytes: short rows need no tokenizing to pass."""
    turns = len(row.messages) if row.messages is not None else 1
    return sum(len(p.encode("utf-8", "replace")) for p in row.parts) + 64 * turns


def estimated_tokens(row: Row) -> int:
    wide = sum(len(WIDE.findall(p)) for p in row.parts)
    other = sum(map(len, row.parts)) - wide
    turns = len(row.messages) if row.messages is not None else 1
    return round(wide + other / CHARS_PER_TOKEN) + TURN_TOKENS * turns
