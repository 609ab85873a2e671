"""Rows that say nothing, or ask without an answer."""

from __future__ import annotations

import re

from ..row import Row
from .finding import Finding, Rules

LETTER = re.compile(r"[^\W_]")


def empty(row: Row, rules: Rules) -> tuple[Row, list[Finding]]:
    """`empty`: a text without a letter or digit, a blank turn. `no_answer`: a chat that ends unanswered."""
    if row.messages is None:
        return row, [] if LETTER.search(row.text or "") else [Finding("empty", "drop")]
    spoken = [m for m in row.messages if m["role"] in ("user", "assistant")]
    if not spoken or any(not m["content"].strip() for m in spoken):
        return row, [Finding("empty", "drop")]
    if row.messages[-1]["role"] != "assistant":
        return row, [Finding("no_answer", "drop")]
    return row, []
