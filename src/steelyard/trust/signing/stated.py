"""A statement in a file of its own, signed by every key of its signer: a DSSE envelope, one line of JSON.

Not here: what is stated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .check import SignedBy, Trust, check_hybrid, invalid, misstated, no_trust, read_file, wrong_key
from .envelope import Envelope, Malformed, envelope_of, enveloped, read_json, write_document, written
from .identity import Signer
from .statement import Statement, read_statement

BEGIN = b'{"payload":'


def sign_statement(
    path: Path, signer: Signer, kind: str, subject: tuple[str, str], predicate: Mapping[str, Any]
) -> None:
    """State `predicate`, of the type `kind`, of a subject (name, SHA-256). Raises WrongUse, Lacking."""
    statement = Statement(*subject, kind, dict(predicate))
    document = enveloped(written(statement.as_json()), (signer.curve, *signer.hybrid))
    write_document(path, document)


def is_statement(path: Path) -> bool:
    """Does the file begin as a signed statement does?"""
    try:
        with path.open("rb") as file:
            return file.read(len(BEGIN)) == BEGIN
    except OSError:
        return False


def read_signed(
    path: Path, trust: Trust, kind: str, fault_of: Callable[[Statement], str | None]
) -> tuple[Statement, SignedBy]:
    """A statement of that type by a trusted signer. `fault_of` says what is wrong in it, or None.

    Raises CheckFailed with the reason, WrongUse where nobody is trusted.
    """
    envelope = read_file(path, lambda data: envelope_of(read_json(data)))
    by = signer_of(path, envelope, trust)
    try:
        statement = read_statement(envelope.payload)
    except Malformed as e:
        raise misstated(path, str(e)) from e
    fault = f"it states {statement.kind!r}" if statement.kind != kind else fault_of(statement)
    if fault:
        raise misstated(path, fault)
    return statement, by


def signer_of(path: Path, envelope: Envelope, trust: Trust) -> SignedBy:
    """The first trusted signer whose keys have all signed it, and nobody else. Raises CheckFailed."""
    if not trust.keys:
        raise no_trust(path, "it is signed by a key, and no key is named")
    names = [signature.key for signature in envelope.signatures]
    own = next((known for known in trust.keys if known.name in names), None)
    if own is None:
        raise wrong_key(path, names[0] or "no key", trust.keys)
    if not envelope.by(own.curve):
        raise invalid(path, f"by the key {own.name[:16]} it should be")
    if own.hybrid:
        check_hybrid(path, envelope, (own.curve, *own.hybrid))
    return SignedBy(own.name, hybrid=own.hybrid)
