"""What AMD publishes of a chip: the certificate of its key (VCEK), the chain above it, the revocation list.

    {"vcek_certificate": PEM, "vcek_issuer_chain": PEM of ASK and ARK, "ark_crl": hex of the list's DER}

All of RSA-PSS with SHA-384 but for the VCEK's key, which is P-384. Source: AMD's Versioned Chip Endorsement
Key (VCEK) Certificate and KDS Interface Specification (57230).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..certificates import Role, check_revoked, check_role, der_of, name_of, parsing, read_chain, read_crl
from ..document import read_document
from ..verdict import Rejected
from .report import TCB_BYTES

if TYPE_CHECKING:
    from cryptography.x509 import Certificate, CertificateRevocationList

COLLATERAL_BYTES_MAX = 16 << 20
MALFORMED = "collateral_malformed"
FIELDS = {"vcek_certificate", "vcek_issuer_chain", "ark_crl"}
AMD = "1.3.6.1.4.1.3704.1."
PRODUCT, CHIP = AMD + "2", AMD + "4"
SVNS = {"fmc": AMD + "3.9", "boot_loader": AMD + "3.1", "tee": AMD + "3.2", "snp": AMD + "3.3",
        "microcode": AMD + "3.8"}  # fmt: skip
INTEGER, IA5_STRING = 0x02, 0x16
RSA_BITS_MIN, SALT_BYTES = 2048, 48


@dataclass(frozen=True)
class Endorsement:
    """`product`: Milan, Genoa or Turin, without its stepping. `tcb`: what the VCEK was made for."""

    vcek: Certificate
    ask: Certificate
    ark: Certificate
    crl: CertificateRevocationList | None
    product: str
    chip: bytes
    tcb: dict[str, int]


@contextmanager
def numbered_zero() -> Iterator[None]:
    """AMD gives every VCEK the serial number 0, of which `cryptography` warns each time that it is read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Parsed a serial number")
        yield


def read_endorsement(data: bytes) -> Endorsement:
    """Raises Rejected (`collateral_malformed`, `collateral_mismatch` for Intel's)."""
    if len(data) > COLLATERAL_BYTES_MAX:
        raise Rejected(MALFORMED, f"{len(data)} bytes are more than any collateral has")
    with parsing(MALFORMED, "the collateral"), numbered_zero():
        document = read_document(data, "the collateral")
        if "tcb_info" in document:
            raise Rejected("collateral_mismatch", "this is Intel's collateral, the report is AMD's")
        if strange := set(document.fields) - FIELDS:
            raise Rejected(MALFORMED, f"the collateral has a field {min(strange)}")
        [vcek] = read_chain(document.text("vcek_certificate"), 1, MALFORMED, "vcek_certificate")
        ask, ark = read_chain(document.text("vcek_issuer_chain"), 2, MALFORMED, "vcek_issuer_chain")
        crl = read_crl(document.bytes("ark_crl"), MALFORMED, "ark_crl") if "ark_crl" in document else None
        values = extensions_of(vcek)
    product = text_of(values, PRODUCT).partition("-")[0]
    if product not in TCB_BYTES:
        raise Rejected(MALFORMED, f"the VCEK is of {product[:40]!r}, not of Milan, Genoa or Turin")
    tcb = {name: number_of(values, SVNS[name]) for name in TCB_BYTES[product]}
    return Endorsement(vcek, ask, ark, crl, product, values.get(CHIP, b""), tcb)


def extensions_of(vcek: Certificate) -> dict[str, bytes]:
    from cryptography.x509 import UnrecognizedExtension

    found = [e.value for e in vcek.extensions if isinstance(e.value, UnrecognizedExtension)]
    return {value.oid.dotted_string: value.value for value in found}


def text_of(values: dict[str, bytes], name: str) -> str:
    raw = values.get(name, b"")
    if len(raw) < 2 or raw[0] != IA5_STRING or raw[1] != len(raw) - 2 or not raw.isascii():
        raise Rejected(MALFORMED, f"the VCEK has no text {name}")
    return raw[2:].decode("ascii")


def number_of(values: dict[str, bytes], name: str) -> int:
    """A whole number of one byte, in DER."""
    raw = values.get(name, b"")
    value = int.from_bytes(raw[2:], "big", signed=True)
    if raw[:1] != bytes([INTEGER]) or raw[1:2] != bytes([len(raw) - 2]) or not 0 <= value <= 0xFF:
        raise Rejected(MALFORMED, f"the VCEK has no number {name}")
    return value


# ------------------------------------------------------------------ trust


def check_unrevoked(found: Endorsement, crl: CertificateRevocationList) -> None:
    with numbered_zero():
        check_revoked([(found.vcek, crl), (found.ask, crl)])


def check_links(found: Endorsement, roots: tuple[Certificate, ...]) -> None:
    """ARK, ASK and VCEK in their roles, signed one by the other, up to one of `roots`. No clock."""
    wrong = "chain_untrusted"
    with parsing(wrong, "a certificate"):
        check_role(found.ark, Role(f"ARK-{found.product}", True), 1, wrong)
        check_role(found.ask, Role(f"SEV-{found.product}", True), 0, wrong)
        check_leaf(found.vcek)
        if der_of(found.ark) not in [der_of(root) for root in roots]:
            raise Rejected(wrong, f"the chain ends at {name_of(found.ark)}, which is no trusted root")
        for child, parent in ((found.ark, found.ark), (found.ask, found.ark), (found.vcek, found.ask)):
            check_signed(child, parent, wrong)


def check_ark(root: Certificate, reason: str) -> None:
    """A root of AMD's form: a CA that signed itself by RSA-PSS."""
    with parsing(reason, "root_ca"):
        check_role(root, Role("ARK-", True), 1, reason)
        check_signed(root, root, reason)


def check_leaf(vcek: Certificate) -> None:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePublicKey
    from cryptography.x509 import BasicConstraints

    key, wrong = vcek.public_key(), "chain_untrusted"
    if name_of(vcek).removeprefix("SIMULATED ") != "SEV-VCEK":
        raise Rejected(wrong, f"{name_of(vcek)} stands where a SEV-VCEK is expected")
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP384R1):
        raise Rejected(wrong, "the key of the VCEK is not of P-384")
    if any(e.critical or (isinstance(e.value, BasicConstraints) and e.value.ca) for e in vcek.extensions):
        raise Rejected(wrong, "the VCEK is a CA, or has a critical extension")


def check_signed(child: Certificate, parent: Certificate, reason: str) -> None:
    from cryptography.exceptions import InvalidSignature

    if not is_pss(child) or not is_rsa(parent):
        raise Rejected(reason, f"{name_of(child)} is not signed by RSA-PSS with SHA-384")
    try:
        child.verify_directly_issued_by(parent)
    except (InvalidSignature, ValueError, TypeError) as e:
        raise Rejected(reason, f"{name_of(child)} is not signed by {name_of(parent)}") from e


def is_pss(signed: Certificate | CertificateRevocationList) -> bool:
    from cryptography.hazmat.primitives.asymmetric.padding import PSS
    from cryptography.hazmat.primitives.hashes import SHA384

    how, digest = signed.signature_algorithm_parameters, signed.signature_hash_algorithm
    return (
        isinstance(how, PSS)
        and how._salt_length == SALT_BYTES
        and isinstance(digest, SHA384)
        and isinstance(how.mgf._algorithm, SHA384)
    )


def is_rsa(certificate: Certificate) -> bool:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    key = certificate.public_key()
    return isinstance(key, RSAPublicKey) and key.key_size >= RSA_BITS_MIN


def check_list(crl: CertificateRevocationList, ark: Certificate) -> None:
    """The revocation list is this ARK's. Whether the ARK is trusted is not asked here."""
    with parsing("collateral_signature_invalid", "the revocation list"):
        key = ark.public_key()
        if crl.issuer != ark.subject:
            what = f"the revocation list is of {crl.issuer.rfc4514_string()[:80]}, the chain ends elsewhere"
            raise Rejected("collateral_mismatch", what)
        if not is_pss(crl) or not is_rsa(ark) or not crl.is_signature_valid(key):  # type: ignore[arg-type]
            raise Rejected("collateral_signature_invalid", "the revocation list is not signed by its ARK")
