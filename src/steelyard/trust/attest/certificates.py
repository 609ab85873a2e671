"""Certificates and revocation lists: strict PEM, fixed chains, P-256 with SHA-256 and nothing else.

A chain is read as it is written, leaf first; its last certificate must be the trusted root, byte for byte.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from ..signing.chain import has_spare_bits
from .verdict import Rejected

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.x509 import Certificate, CertificateRevocationList

BEGIN, END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
BLOCK = re.compile(f"{BEGIN}\r?\n([A-Za-z0-9+/=\r\n]+){END}\r?\n?")


@dataclass(frozen=True)
class Role:
    """What a certificate of Intel's PKI has to be: a part of its common name, and whether it is a CA."""

    name: str
    ca: bool


ROOT, PCK_CA = Role("SGX Root CA", True), Role("CA", True)
PCK, TCB_SIGNING = Role("SGX PCK Certificate", False), Role("SGX TCB Signing", False)


@contextmanager
def parsing(reason: str, what: str) -> Iterator[None]:
    """`cryptography` reads some fields only when asked, and names their faults by several classes."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.x509 import DuplicateExtension, InvalidVersion, UnsupportedGeneralNameType

    faults = (ValueError, TypeError, OverflowError, UnsupportedAlgorithm, DuplicateExtension,
              InvalidVersion, UnsupportedGeneralNameType)  # fmt: skip
    try:
        yield
    except faults as e:
        raise Rejected(reason, f"{what} cannot be read: {e}") from e


def read_chain(pem: bytes | str, count: int, reason: str, what: str) -> list[Certificate]:
    """`count` certificates from canonical PEM: with one bit flipped, padding too, it is no PEM."""
    from cryptography.x509 import load_der_x509_certificate

    with parsing(reason, what):
        text = pem if isinstance(pem, str) else pem.decode("ascii")
        ders = [base64.b64decode(body) for body in BLOCK.findall(text)]
        if len(ders) != count:
            raise Rejected(reason, f"{what} has {len(ders)} certificates, not {count}")
        if text.rstrip("\0").replace("\r\n", "\n").removesuffix("\n") != "\n".join(map(pem_of, ders)):
            raise Rejected(reason, f"{what} is not plain PEM")
        chain = [load_der_x509_certificate(der) for der in ders]
        for der, certificate in zip(ders, chain, strict=True):
            read_whole(certificate)
            if has_spare_bits(der, certificate.signature):
                raise Rejected(reason, f"{what}: a signature has spare bits")
        return chain


def read_whole(certificate: Certificate) -> None:
    """`cryptography` parses a field when it is asked for: ask now, where a fault has its reason."""
    _ = certificate.subject, certificate.issuer, certificate.serial_number, certificate.extensions
    _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc, certificate.public_key()
    _ = certificate.signature_algorithm_oid, certificate.signature, certificate.version


def pem_of(der: bytes) -> str:
    body = base64.b64encode(der).decode()
    return "\n".join([BEGIN, *(body[i : i + 64] for i in range(0, len(body), 64)), END])


def der_of(certificate: Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


# ------------------------------------------------------------------ trust


def check_chain(chain: Sequence[Certificate], roles: Sequence[Role], root: Certificate, reason: str) -> None:
    """Signed link by link up to `root`, each in its role. No clock."""
    with parsing(reason, "a certificate"):
        for depth, (certificate, role) in enumerate(zip(chain, roles, strict=True)):
            check_role(certificate, role, depth, reason)
        if der_of(chain[-1]) != der_of(root):
            raise Rejected(reason, f"the chain ends at {name_of(chain[-1])}, which is not the trusted root")
        for child, parent in zip(chain, [*chain[1:], root], strict=True):
            check_signed(child, parent, reason)


def check_role(certificate: Certificate, role: Role, depth: int, reason: str) -> None:
    from cryptography import x509

    name = name_of(certificate)
    if role.name not in name:
        raise Rejected(reason, f"{name} stands where a {role.name} is expected")
    extensions = {e.oid: e for e in certificate.extensions}
    basics, usage = extensions.get(x509.BasicConstraints.oid), extensions.get(x509.KeyUsage.oid)
    if basics is None or usage is None or basics.value.ca != role.ca:
        raise Rejected(reason, f"{name} is {'no' if role.ca else 'a'} CA")
    if not (usage.value.key_cert_sign if role.ca else usage.value.digital_signature):
        raise Rejected(reason, f"the key of {name} is not for this use")
    length = basics.value.path_length
    if role.ca and length is not None and length < depth - 1:
        raise Rejected(reason, f"{name} allows {length} certificates below it")
    strange = [e.oid for e in certificate.extensions
               if e.critical and e.oid not in (x509.BasicConstraints.oid, x509.KeyUsage.oid)]  # fmt: skip
    if strange:
        raise Rejected(reason, f"{name} has a critical extension that is not understood: {strange[0]}")


def check_signed(child: Certificate, parent: Certificate, reason: str) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.x509.oid import SignatureAlgorithmOID

    if child.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
        raise Rejected(reason, f"{name_of(child)} is not signed by ECDSA with SHA-256")
    key_of(parent, reason)
    try:
        child.verify_directly_issued_by(parent)
    except (InvalidSignature, ValueError, TypeError) as e:
        raise Rejected(reason, f"{name_of(child)} is not signed by {name_of(parent)}") from e


def key_of(certificate: Certificate, reason: str) -> EllipticCurvePublicKey:
    """The P-256 key of a certificate."""
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey

    with parsing(reason, "a key"):
        key = certificate.public_key()
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise Rejected(reason, f"the key of {name_of(certificate)} is not of P-256")
    return key


def name_of(certificate: Certificate) -> str:
    from cryptography.x509.oid import NameOID

    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def is_signed(key: EllipticCurvePublicKey, signature: bytes, data: bytes) -> bool:
    """ECDSA over SHA-256; `signature` is r and s of 32 bytes each."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
    from cryptography.hazmat.primitives.hashes import SHA256

    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), data, ECDSA(SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


# ------------------------------------------------------------------ time and revocation


Span = tuple[str, datetime, datetime]  # of what, from, to


def span_of(certificate: Certificate) -> Span:
    return name_of(certificate), certificate.not_valid_before_utc, certificate.not_valid_after_utc


def read_crl(der: bytes, reason: str, what: str) -> CertificateRevocationList:
    from cryptography.x509 import load_der_x509_crl

    with parsing(reason, what):
        crl = load_der_x509_crl(der)
        if crl.next_update_utc is None or any(e.critical for e in crl.extensions):
            raise Rejected(reason, f"{what} says not until when it holds, or has a critical extension")
        _ = crl.issuer, crl.last_update_utc, crl.signature, crl.signature_algorithm_oid
        for entry in crl:  # as with certificates: a fault shows here, not when a serial number is looked up
            _ = entry.serial_number, entry.revocation_date_utc, entry.extensions
        return crl


def check_crl(crl: CertificateRevocationList, issuer: Certificate, reason: str) -> None:
    with parsing(reason, "a revocation list"):
        mine = crl.issuer == issuer.subject and crl.is_signature_valid(key_of(issuer, reason))
    if not mine:
        raise Rejected(reason, f"a revocation list is not signed by {name_of(issuer)}")


def check_revoked(pairs: Sequence[tuple[Certificate, CertificateRevocationList]]) -> None:
    for certificate, crl in pairs:
        if crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
            raise Rejected("chain_revoked", f"{name_of(certificate)} is revoked by its issuer")


def check_ended(spans: Sequence[Span], at: datetime, reason: str) -> None:
    for what, _, end in spans:
        if at > end:
            raise Rejected(reason, f"{what} ended at {end.isoformat()}")


def check_begun(spans: Sequence[Span], at: datetime, reason: str) -> None:
    for what, start, _ in spans:
        if at < start:
            raise Rejected(reason, f"{what} begins at {start.isoformat()}")
