"""An in-toto statement: what is stated of which subject. Read strictly, since it is what was signed.

Format: in-toto attestation framework, statement v1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from .envelope import Malformed, fields, read_json

STATEMENT = "https://in-toto.io/Statement/v1"
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Statement:
    """One subject by its SHA-256, and what is said of it."""

    name: str
    sha256: str
    kind: str  # predicateType
    predicate: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {
            "_type": STATEMENT,
            "subject": [{"name": self.name, "digest": {"sha256": self.sha256}}],
            "predicateType": self.kind,
            "predicate": self.predicate,
        }


def read_statement(payload: bytes) -> Statement:
    """Raises Malformed."""
    parts = fields(read_json(payload), "the statement", ("_type", "subject", "predicateType", "predicate"))
    if parts["_type"] != STATEMENT:
        raise Malformed(f"it is a statement of the type {parts['_type']!r}")
    subjects = parts["subject"]
    if not isinstance(subjects, list) or len(subjects) != 1:
        raise Malformed("it has not one subject")
    subject = subjects[0] if isinstance(subjects[0], dict) else {}
    digest = subject.get("digest")
    sha256 = digest.get("sha256") if isinstance(digest, dict) else None
    if not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
        raise Malformed("its subject has no SHA-256")
    if not isinstance(parts["predicateType"], str) or not isinstance(parts["predicate"], dict):
        raise Malformed("it has no predicate")
    return Statement(str(subject.get("name", "")), sha256, parts["predicateType"], parts["predicate"])
