"""The key of this installation: Ed25519, made on first use. It signs lines of the audit log and receipts.

A signed document is one line of JSON whose last field is the signature of all bytes before it:

    {"v":1,...,"key":"<id>","sig":"<base64 of 64 bytes>"}      signed: domain + NUL + the bytes before ,"sig"

So a reader needs no rule of how JSON is written, and no byte of the line can change unseen.
Not here: keys that seal files (keys.py), what is signed (audit, receipts.py).
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from ..errors import Where, WrongUse
from ..places import signing_key_file
from .keys import make_key_file, read_key_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PUBLIC = "steelyard-signing-1:"
SIG = b',"sig":"'
SIG_BYTES = 64


class VerifyingKey:
    """A public key. `id`: the first 16 hex digits of its SHA-256."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key, raw = key, key.public_bytes_raw()
        self.id = hashlib.sha256(raw).hexdigest()[:16]
        self.public = PUBLIC + base64.b64encode(raw).decode()

    def holds(self, domain: bytes, data: bytes, signature: bytes) -> bool:
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(signature, domain + b"\0" + data)
        except InvalidSignature:
            return False
        return True

    def opened(self, line: bytes, domain: bytes) -> dict[str, Any] | None:
        """What a signed line says, None where this key did not sign just these bytes."""
        body, signature = split(line)
        if signature is None or not self.holds(domain, body, signature):
            return None
        return read_line(line)


class SigningKey(VerifyingKey):
    """The private key too."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        super().__init__(key.public_key())
        self._private = key

    def signed(self, document: dict[str, Any], domain: bytes) -> bytes:
        """The document as one line, without a newline."""
        body = orjson.dumps({**document, "key": self.id})[:-1]
        signature = self._private.sign(domain + b"\0" + body)
        return body + SIG + base64.b64encode(signature) + b'"}'


def split(line: bytes) -> tuple[bytes, bytes | None]:
    """What was signed, and the signature; None where the line does not end in one, written the only way."""
    body, found, rest = line.rpartition(SIG)
    text = rest.removesuffix(b'"}')
    try:
        signature = base64.b64decode(text, validate=True)
    except ValueError:
        return b"", None
    sound = found and rest == base64.b64encode(signature) + b'"}' and len(signature) == SIG_BYTES
    return (body, signature) if sound else (b"", None)


def read_line(line: bytes) -> dict[str, Any] | None:
    """What a line says, whoever wrote it."""
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def signing_key() -> SigningKey:
    """Of this installation; its file is made on first use. Raises Problem where it cannot be."""
    return _key_in(signing_key_file())


@cache
def _key_in(path: Path) -> SigningKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if not path.exists():
        make_key_file(path, parents=True)
    return SigningKey(Ed25519PrivateKey.from_private_bytes(read_key_file(path)))


def verifying_key(key: str | None) -> VerifyingKey:
    """Of a public key's line, or a file with it; None: this installation's own. Raises WrongUse."""
    if key is None:
        return _own()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    named = len(key) < 1000 and Path(key).is_file()
    text = (Path(key).read_text("utf-8", "replace") if named else key).strip()
    try:
        raw = base64.b64decode(text.removeprefix(PUBLIC), validate=True)
        if not text.startswith(PUBLIC):
            raise ValueError("it does not begin with " + PUBLIC)
        return VerifyingKey(Ed25519PublicKey.from_public_bytes(raw))
    except ValueError as e:
        raise WrongUse(
            "trust.signing_key", "this is no public key of an installation", where=Where(field="--key"),
            why=str(e), hint="give the line that `steelyard audit key` prints there, or a file with it",
        ) from e  # fmt: skip


def _own() -> VerifyingKey:
    """To verify, no key is made."""
    path = signing_key_file()
    if not path.exists():
        raise WrongUse(
            "trust.no_signing_key", "this installation has signed nothing yet", where=Where(str(path)),
            hint="name the key of the one that did: --key PUB, as `steelyard audit key` prints it there",
        )  # fmt: skip
    return _key_in(path)
