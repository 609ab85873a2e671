"""The step that counts personal data, or replaces it: <EMAIL_1>, <PHONE_1>, <CARD_1> ...

Not here: how a value looks and what it is replaced by (sensitive), names and addresses in prose (prose.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from ...sensitive import PLACEHOLDER, Tags, redact_part
from ..row import Row
from .finding import Finding, Rules
from .prose import redact_prose
from .tagger import Tagger, tagger


def personal(row: Row, rules: Rules) -> tuple[Row, list[Finding]]:
    """Count the personal data of the row (`report`), or replace it too (`mask`)."""
    if rules.pii == "off":
        return row, []
    parts, counts = redact(row.parts, tagger(rules.pii_model) if rules.pii_model else None)
    action = "redact" if rules.pii == "mask" else "report"
    findings = [Finding(kind, action, count) for kind, count in counts.items() if count]
    return (row.with_parts(parts) if findings and action == "redact" else row), findings


def has_placeholder(row: Row) -> bool:
    """An answer that training would teach holds a placeholder."""
    if row.messages is None:
        return False
    return any(map(holds_placeholder, row.answers))


def holds_placeholder(text: str) -> bool:
    return ("<" in text or "[" in text) and PLACEHOLDER.search(text) is not None


def redact(parts: Sequence[str], spans_of: Tagger | None = None) -> tuple[list[str], dict[str, int]]:
    """The texts with tags, and how many of each kind; numbering runs through all texts of a row.

    `spans_of`: a classifier that names people and addresses in prose, asked after all else is replaced.
    """
    tags = Tags()
    out = [redact_part(part, tags) for part in parts]
    out = [tags.named(part) for part in out] if tags.names else out
    return (redact_prose(out, spans_of, tags, tags.names) if spans_of else out), tags.counts
