"""DSSE: bytes, their type and who signed them, as JSON that says nothing twice and nothing unknown.

A reader refuses what one changed byte could leave with the same meaning: an unknown or repeated key, base64
whose last bits are not zero. Format: DSSE protocol 1.0.

Not here: what the payload says (statement.py, model.py).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..disk import atomic, write_all
from .identity import fingerprint, is_signed, no_folder, sign

PAYLOAD_TYPE = "application/vnd.in-toto+json"
MOST_BYTES = 256 << 20  # a model of a million files


class Malformed(ValueError):
    """What is wrong with a file, in words; who reads it knows which file it is."""


@dataclass(frozen=True, slots=True)
class Signature:
    sig: bytes
    key: str | None = None  # fingerprint


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload and its signatures, none of them verified."""

    payload: bytes
    signatures: tuple[Signature, ...]

    @property
    def signed(self) -> bytes:
        """What the signatures are over: the pre-authentication encoding."""
        return pae(self.payload)

    def holds(self, public: Any, signature: Signature) -> bool:
        return is_signed(public, signature.sig, self.signed)

    def by(self, public: Any) -> bool:
        """Has this key signed it, under its name?"""
        name = fingerprint(public)
        return any(s.key == name and self.holds(public, s) for s in self.signatures)


def pae(payload: bytes) -> bytes:
    return b"DSSEv1 %d %s %d " % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload)) + payload


def enveloped(payload: bytes, keys: Sequence[Any], named: bool = True) -> dict[str, Any]:
    """The payload signed by each private key; `named`: each signature under its key's fingerprint."""
    signed = pae(payload)
    names = [{"keyid": fingerprint(key.public_key())} if named else {} for key in keys]
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [
            {"sig": base64.b64encode(sign(key, signed)).decode()} | name
            for key, name in zip(keys, names, strict=True)
        ],
    }


def written(document: Mapping[str, Any]) -> bytes:
    """JSON without a space: every byte of it matters."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Whole or not at all, in the place of an older one. Raises WrongUse (no folder), Lacking (disk)."""
    if not path.parent.is_dir():
        raise no_folder(path)
    with atomic(path, 0o644) as file:
        write_all(file, written(document))


# ------------------------------------------------------------------ reading


def envelope_of(document: Any) -> Envelope:
    """Raises Malformed."""
    parts = fields(document, "the envelope", ("payload", "payloadType", "signatures"))
    if parts["payloadType"] != PAYLOAD_TYPE:
        raise Malformed(f"its payload is of the type {parts['payloadType']!r}, not {PAYLOAD_TYPE}")
    rows = parts["signatures"]
    if not isinstance(rows, list) or not rows:
        raise Malformed("it has no signatures")
    return Envelope(decoded(parts["payload"], "the payload"), tuple(map(_signature, rows)))


def _signature(document: Any) -> Signature:
    parts = fields(document, "a signature", ("sig",), ("keyid",))
    key = parts.get("keyid") or None
    if key is not None and not isinstance(key, str):
        raise Malformed("a keyid is no text")
    return Signature(decoded(parts["sig"], "a signature"), key)


def fields(document: Any, what: str, needed: Sequence[str], allowed: Sequence[str] = ()) -> dict[str, Any]:
    """An object with these keys and no others. Raises Malformed."""
    if not isinstance(document, dict):
        raise Malformed(f"{what} is no object")
    missing = [name for name in needed if name not in document]
    unknown = [name for name in document if name not in (*needed, *allowed)]
    if missing or unknown:
        raise Malformed(
            f"{what} lacks {missing[0]}" if missing else f"{what} has an unknown key {unknown[0]!r}"
        )
    return document


def decoded(text: Any, what: str) -> bytes:
    """Base64 in its one canonical form. Raises Malformed."""
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except (binascii.Error, ValueError):
        data = None
    if not data or base64.b64encode(data).decode() != text:
        raise Malformed(f"{what} is no plain base64")
    return data


def read_json(data: bytes) -> Any:
    """JSON in UTF-8 without repeated keys. Raises Malformed."""
    try:
        return json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except Malformed:
        raise
    except (ValueError, RecursionError) as e:
        raise Malformed(f"it is no JSON: {e}") from e


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise Malformed("it says a key twice")
    return document


def _no_constant(name: str) -> Any:
    raise Malformed(f"{name} is no number of JSON")
