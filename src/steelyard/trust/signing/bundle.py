"""The file of a signature: a Sigstore bundle, version 0.3, around an envelope. By a key, or by certificates.

Not here: whether anyone is to be believed (check.py).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .chain import der_of
from .envelope import Envelope, Malformed, decoded, envelope_of, enveloped, fields, read_json
from .identity import Signer, fingerprint

MEDIA = "application/vnd.dev.sigstore.bundle.v0.3+json"
TRANSPARENCY = ("tlogEntries", "timestampVerificationData")


class Keyless(Malformed):
    """Signed by an account (Fulcio, Rekor): its roots are fetched from a network."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """An envelope with one signature, and who made it: a key by fingerprint (None: unsaid), or a chain."""

    envelope: Envelope
    key: str | None
    certificates: tuple[bytes, ...] = ()


def bundled(payload: bytes, signer: Signer, certificates: Sequence[Any] = ()) -> dict[str, Any]:
    chain = [{"rawBytes": base64.b64encode(der_of(c)).decode()} for c in certificates]
    by: dict[str, Any] = {"publicKey": {"hint": fingerprint(signer.curve.public_key())}}
    if chain:
        by = {"x509CertificateChain": {"certificates": chain}}
    return {
        "mediaType": MEDIA,
        "verificationMaterial": by | {"tlogEntries": []},
        "dsseEnvelope": enveloped(payload, [signer.curve], named=False),
    }


def read_bundle(data: bytes) -> Bundle:
    """Raises Malformed, of which Keyless."""
    parts = fields(read_json(data), "the bundle", ("mediaType", "verificationMaterial", "dsseEnvelope"))
    if parts["mediaType"] != MEDIA:
        raise Malformed(f"it is no bundle of version 0.3: {parts['mediaType']!r}")
    material = parts["verificationMaterial"]
    if isinstance(material, dict) and "certificate" in material:
        raise Keyless("it is signed by an account (Sigstore keyless)")
    by = (
        ("publicKey",)
        if isinstance(material, dict) and "publicKey" in material
        else ("x509CertificateChain",)
    )
    material = fields(material, "verificationMaterial", by, TRANSPARENCY)
    if any(material.get(name) for name in TRANSPARENCY):
        raise Malformed("it has entries of a transparency log, which are not for a key or a certificate")
    envelope = envelope_of(parts["dsseEnvelope"])
    if len(envelope.signatures) != 1 or envelope.signatures[0].key:
        raise Malformed("it has not one signature without a keyid")
    if by == ("publicKey",):
        return Bundle(envelope, key_of(material["publicKey"]))
    rows = fields(material["x509CertificateChain"], "x509CertificateChain", ("certificates",))["certificates"]
    if not isinstance(rows, list) or not rows:
        raise Malformed("it has no certificates")
    ders = (decoded(fields(row, "a certificate", ("rawBytes",))["rawBytes"], "a certificate") for row in rows)
    return Bundle(envelope, None, tuple(ders))


def key_of(document: Any) -> str | None:
    """The fingerprint; None in bundles before version 1.1 of OMS, which carry the key itself."""
    if isinstance(document, dict) and "rawBytes" in document:
        fields(document, "publicKey", ("rawBytes",), ("keyDetails", "hint"))
        return document.get("hint") or None
    hint = fields(document, "publicKey", ("hint",))["hint"]
    if not isinstance(hint, str) or not hint:
        raise Malformed("publicKey.hint is no fingerprint")
    return hint
