"""Signing certificates: a chain from the key's certificate up to a root that the reader trusts.

Every certificate of the chain is looked at, the root too where it is carried along. No revocation: nothing is
asked of a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import Where, WrongUse
from .envelope import Malformed
from .identity import CURVES

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

MOST = 10  # certificates of a chain


class Untrusted(ValueError):
    """Why a chain is not trusted, in words."""


def read_certificates(path: Path) -> list[Certificate]:
    """Every certificate of a PEM file, in its order. Raises WrongUse."""
    from cryptography.x509 import load_pem_x509_certificates

    try:
        return load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as e:
        raise WrongUse(
            "sign.certificates",
            f"cannot read certificates from {path}",
            where=Where(str(path)),
            why=str(e),
            hint="a PEM file: the signing certificate first, then the one that issued it, and so on",
        ) from e


def check_key(chain: Sequence[Certificate], key: Any, path: Path) -> None:
    """Raises WrongUse where the first certificate is of another key."""
    if chain[0].public_key() != key.public_key():
        raise WrongUse(
            "sign.certificate_key",
            f"the first certificate of {path} is not of the signing key",
            where=Where(str(path)),
            hint="name the certificate that was issued for --key",
        )


def der_of(certificate: Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


def chain_of(ders: Sequence[bytes]) -> list[Certificate]:
    """Raises Malformed."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.x509 import DuplicateExtension, InvalidVersion, load_der_x509_certificate

    if not 1 <= len(ders) <= MOST:
        raise Malformed(f"it has {len(ders)} certificates")
    faults = (ValueError, TypeError, OverflowError, UnsupportedAlgorithm, DuplicateExtension, InvalidVersion)
    try:
        chain = [load_der_x509_certificate(der) for der in ders]
        for c in chain:  # `cryptography` reads a field when it is asked for
            _ = c.subject, c.issuer, c.extensions, c.public_key(), c.signature, c.version, c.serial_number
            _ = c.not_valid_before_utc, c.not_valid_after_utc, c.signature_algorithm_parameters
    except faults as e:
        raise Malformed(f"a certificate cannot be read: {e}") from e
    if any(has_spare_bits(der, c.signature) for der, c in zip(ders, chain, strict=True)):
        raise Malformed("the signature of a certificate has spare bits")
    return chain


def has_spare_bits(der: bytes, signature: bytes) -> bool:
    """A certificate ends with its signature; the byte before it says how many of the last bits do not count.

    Zeros there may be called spare without another signature: the one byte that no signature covers.
    """
    return der[-len(signature) - 1] != 0


def check_chain(
    chain: Sequence[Certificate], roots: Sequence[Certificate], at: datetime | None = None
) -> Any:
    """The key of the first certificate, once the chain leads to a root at that time. Raises Untrusted."""
    whole = up_to_a_root(chain, roots)
    for child, parent in pairwise(whole):
        if not issued(child, parent):
            raise Untrusted(f"{name_of(child)} was not issued by {name_of(parent)}")
    for depth, certificate in enumerate(whole):
        check_use(certificate, depth)
        check_time(certificate, at or datetime.now(UTC))
    key = chain[0].public_key()
    if getattr(getattr(key, "curve", None), "name", None) not in CURVES:
        raise Untrusted(f"the key of {name_of(chain[0])} is not of P-256, P-384 or P-521")
    return key


def up_to_a_root(chain: Sequence[Certificate], roots: Sequence[Certificate]) -> list[Certificate]:
    """The chain with its root at its end, which may be carried along, byte for byte. Raises Untrusted."""
    last = chain[-1]
    if der_of(last) in map(der_of, roots):
        return list(chain)
    root = next((root for root in roots if issued(last, root)), None)
    if root is None:
        raise Untrusted(f"{name_of(last)} was not issued by a trusted root")
    return [*chain, root]


def check_time(certificate: Certificate, at: datetime) -> None:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begins <= at <= ends:
        raise Untrusted(
            f"{name_of(certificate)} holds from {begins.date()} to {ends.date()}, not at {at.date()}"
        )


def check_use(certificate: Certificate, depth: int) -> None:
    """The first signs, and all above it issue: by what their extensions allow. Raises Untrusted."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

    name, found = name_of(certificate), {e.oid: e.value for e in certificate.extensions}
    known = (ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE, ExtensionOID.EXTENDED_KEY_USAGE)
    strange = [e.oid.dotted_string for e in certificate.extensions if e.critical and e.oid not in known]
    if strange:
        raise Untrusted(f"{name} has a critical extension that is not understood: {strange[0]}")
    basics: Any = found.get(ExtensionOID.BASIC_CONSTRAINTS)
    usage: Any = found.get(ExtensionOID.KEY_USAGE)
    purposes: Any = found.get(ExtensionOID.EXTENDED_KEY_USAGE, x509.ExtendedKeyUsage([]))
    if depth == 0:
        if not (usage.digital_signature if usage else ExtendedKeyUsageOID.CODE_SIGNING in purposes):
            raise Untrusted(f"the key of {name} is not for signing")
        return
    if not (basics and basics.ca) or (usage and not usage.key_cert_sign):
        raise Untrusted(f"{name} may issue no certificates")
    if basics.path_length is not None and basics.path_length < depth - 1:
        raise Untrusted(f"{name} allows {basics.path_length} certificates below it")


def issued(child: Certificate, parent: Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        child.verify_directly_issued_by(parent)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


def name_of(certificate: Certificate) -> str:
    return certificate.subject.rfc4514_string() or f"certificate {certificate.serial_number:x}"
