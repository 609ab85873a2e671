"""A receipt of one answer: whoever has it can show which model gave just these bytes, to which, and when.

One signed line (installation.py):

    {"schema":"steelyard.answer_receipt/1","id":"rcpt-...","at":"2026-11-30T22:01:02.123Z",
     "request":{"path":"/v1/chat/completions","bytes":93,"sha256":"..."},
     "answer":{"status":200,"bytes":512,"sha256":"..."},
     "model":"<hash of what is served>","adapters":{"name":"<hash>"},"gate":{"verdict":"passed","hash":"..."},
     "key":"...","sig":"..."}

It travels as base64 in the header `x-steelyard-receipt`; after a stream, whose bytes are counted up to there,
as a comment of server-sent events, which clients pass over. Not here: who asks for one (serving).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import Where, WrongUse
from .installation import SigningKey, VerifyingKey, read_line

DOMAIN = b"steelyard/answer/1"
SCHEMA = "steelyard.answer_receipt/1"
HEADER, ID_HEADER = "x-steelyard-receipt", "x-steelyard-receipt-id"
COMMENT, END = b": steelyard-receipt ", b"\n\n"
REASONS = {
    "signature": "its signature does not hold: it was changed, or another key signed it",
    "request": "it is of another request",
    "answer": "it is of another answer",
    "model": "it is of another model",
}


class Counted:
    """The bytes of one direction, hashed as they pass."""

    def __init__(self) -> None:
        self.bytes, self._digest = 0, hashlib.sha256()

    def add(self, data: bytes) -> None:
        self.bytes += len(data)
        self._digest.update(data)

    def as_json(self) -> dict[str, Any]:
        return {"bytes": self.bytes, "sha256": self._digest.hexdigest()}


def counted(data: bytes) -> dict[str, Any]:
    whole = Counted()
    whole.add(data)
    return whole.as_json()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a service says of an answer, beside its bytes. `gate` None: nobody has judged what is served."""

    id: str
    at: str
    path: str
    status: int
    model: str | None
    adapters: Mapping[str, str]
    gate: Mapping[str, Any] | None


def receipt(key: SigningKey, facts: Facts, request: Counted, answer: Counted) -> bytes:
    """The signed line."""
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "id": facts.id,
        "at": facts.at,
        "request": {"path": facts.path, **request.as_json()},
        "answer": {"status": facts.status, **answer.as_json()},
        "model": facts.model,
        "adapters": dict(facts.adapters),
        "gate": dict(facts.gate) if facts.gate else None,
    }
    return key.signed(document, DOMAIN)


def as_header(line: bytes) -> str:
    return base64.b64encode(line).decode()


def as_comment(line: bytes) -> bytes:
    return COMMENT + base64.b64encode(line) + END


def taken_apart(answer: bytes) -> tuple[bytes, bytes | None]:
    """A saved stream: the bytes that its receipt counts, and the receipt; None where none is at its end."""
    body, found, rest = answer.rpartition(COMMENT)
    if not found or (body and not body.endswith(b"\n")) or not rest.endswith(END):
        return answer, None
    return body, _decoded(rest[: -len(END)])


def read_receipt(text: bytes) -> bytes:
    """The signed line in what a client saved: the line itself, the header's value, or all headers.

    Raises WrongUse.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if line.lower().startswith(HEADER.encode() + b":")]
    found = named[-1].partition(b":")[2].strip() if named else lines[0] if len(lines) == 1 else b""
    line = found if found.startswith(b"{") else _decoded(found)
    if line is None or read_line(line) is None:
        raise WrongUse(
            "audit.no_receipt", "there is no receipt in it", where=Where(field="RECEIPT"),
            hint=f"give the answer's headers (curl -D FILE), the value of {HEADER}, or /v1/receipts/ID",
        )  # fmt: skip
    return line


def _decoded(text: bytes) -> bytes | None:
    """base64, written the only way."""
    try:
        line = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return line if line and base64.b64encode(line) == text else None


def check_answer(
    line: bytes, request: bytes, answer: bytes, key: VerifyingKey, model: str | None = None
) -> tuple[str, ...]:
    """Why the receipt does not hold, of REASONS; nothing where it does. `model`: the hash it should name."""
    says = key.opened(line, DOMAIN)
    if says is None or says.get("schema") != SCHEMA:
        return ("signature",)
    wrong = [
        name
        for name, data in (("request", request), ("answer", answer))
        if {part: says[name][part] for part in ("bytes", "sha256")} != counted(data)
    ]
    return (*wrong, *(["model"] if model is not None and says["model"] != model else []))
