"""What Intel publishes of a platform: TCB info, QE identity, revocation lists, the chains that sign them.

The nine fields of dcap-qvl's QuoteCollateralV3. A tenth, `pck_certificate_chain`, is dropped: it would
stand in for the chain that lies in the quote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from .certificates import (
    PCK_CA,
    ROOT,
    TCB_SIGNING,
    Span,
    check_begun,
    check_chain,
    check_crl,
    check_ended,
    is_signed,
    key_of,
    parsing,
    read_chain,
    read_crl,
    span_of,
)
from .document import Document, read_document
from .pck import Platform
from .tcb import Level, Module, read_levels, read_modules
from .verdict import Rejected

if TYPE_CHECKING:
    from cryptography.x509 import Certificate, CertificateRevocationList

COLLATERAL_BYTES_MAX = 16 << 20  # a CRL grows with each revoked platform
MALFORMED, SIGNATURE, MISMATCH = "collateral_malformed", "collateral_signature_invalid", "collateral_mismatch"
CHAINS = {"pck_crl_issuer_chain": PCK_CA, "tcb_info_issuer_chain": TCB_SIGNING,
          "qe_identity_issuer_chain": TCB_SIGNING}  # fmt: skip
FIELDS = {*CHAINS, "root_ca_crl", "pck_crl", "tcb_info", "tcb_info_signature", "qe_identity",
          "qe_identity_signature"}  # fmt: skip
TCB_INFO_IDS = {"sgx": "SGX", "tdx": "TDX"}
QE_IDS = {"sgx": "QE", "tdx": "TD_QE"}


@dataclass(frozen=True, slots=True)
class TcbInfo:
    id: str
    fmspc: bytes
    pce_id: bytes
    issued: datetime
    until: datetime
    evaluation: int
    levels: tuple[Level, ...]
    modules: tuple[Module, ...]


@dataclass(frozen=True, slots=True)
class QeIdentity:
    id: str
    issued: datetime
    until: datetime
    evaluation: int
    misc_select: tuple[bytes, bytes]  # value and mask
    attributes: tuple[bytes, bytes]
    mr_signer: bytes
    isv_prod_id: int
    levels: tuple[Level, ...]


@dataclass(frozen=True)
class Collateral:
    """`chains` by the name of their field, leaf first."""

    chains: dict[str, list[Certificate]]
    root_crl: CertificateRevocationList
    pck_crl: CertificateRevocationList
    tcb_info: TcbInfo
    qe_identity: QeIdentity
    signed: tuple[tuple[str, str, bytes], ...]  # field of the chain, text, signature


# ------------------------------------------------------------------ reading


def read_collateral(data: bytes) -> Collateral:
    if len(data) > COLLATERAL_BYTES_MAX:
        raise Rejected(MALFORMED, f"{len(data)} bytes are more than any collateral has")
    with parsing(MALFORMED, "the collateral"):  # text that is no UTF-8 is a ValueError
        document = read_document(data, "the collateral")
        if "vcek_certificate" in document:
            raise Rejected(MISMATCH, "this is AMD's collateral, the quote is Intel's")
        if strange := set(document.fields) - FIELDS - {"pck_certificate_chain"}:
            raise Rejected(MALFORMED, f"the collateral has a field {min(strange)}")
        chains = {name: read_chain(document.text(name), 2, MALFORMED, name) for name in CHAINS}
        root_crl, pck_crl = (
            read_crl(document.bytes(name), MALFORMED, name) for name in ("root_ca_crl", "pck_crl")
        )
        texts = [document.text(name) for name in ("tcb_info", "qe_identity")]
        signatures = [document.bytes(f"{name}_signature", 64) for name in ("tcb_info", "qe_identity")]
        tcb_info = read_tcb_info(read_document(texts[0], "tcb_info"))
        qe_identity = read_qe_identity(read_document(texts[1], "qe_identity"))
    signed = tuple(zip(list(CHAINS)[1:], texts, signatures, strict=True))
    return Collateral(chains, root_crl, pck_crl, tcb_info, qe_identity, signed)


def read_tcb_info(document: Document) -> TcbInfo:
    name = document.text("id")
    if name not in TCB_INFO_IDS.values() or document.number("version", 99) != 3:
        raise Rejected(MALFORMED, f"the TCB info {name} is not of version 3")
    if document.number("tcbType", 99) != 0:
        raise Rejected(MALFORMED, "the TCB info is of an unknown type of TCB")
    return TcbInfo(
        id=name,
        fmspc=document.bytes("fmspc", 6),
        pce_id=document.bytes("pceId", 2),
        issued=document.moment("issueDate"),
        until=document.moment("nextUpdate"),
        evaluation=document.number("tcbEvaluationDataNumber", 1 << 31),
        levels=read_levels(document, name),
        modules=read_modules(document) if name == "TDX" else (),
    )


def read_qe_identity(document: Document) -> QeIdentity:
    name = document.text("id")
    if name not in QE_IDS.values() or document.number("version", 99) != 2:
        raise Rejected(MALFORMED, f"the identity {name} is not a quoting enclave's, of version 2")
    return QeIdentity(
        id=name,
        issued=document.moment("issueDate"),
        until=document.moment("nextUpdate"),
        evaluation=document.number("tcbEvaluationDataNumber", 1 << 31),
        misc_select=(document.bytes("miscselect", 4), document.bytes("miscselectMask", 4)),
        attributes=(document.bytes("attributes", 16), document.bytes("attributesMask", 16)),
        mr_signer=document.bytes("mrsigner", 32),
        isv_prod_id=document.number("isvprodid", 0xFFFF),
        levels=read_levels(document, "ISV"),
    )


# ------------------------------------------------------------------ checking


def check_collateral(
    collateral: Collateral, tee: str, platform: Platform, pck_issuer: object, root: Certificate, at: datetime
) -> None:
    """In date, signed up to `root`, of this TEE and platform. `pck_issuer`: as the PCK certificate says."""
    spans = spans_of(collateral)
    check_ended(spans, at, "collateral_expired")
    check_begun(spans, at, "collateral_not_yet_valid")
    for name, role in CHAINS.items():
        check_chain(collateral.chains[name], (role, ROOT), root, SIGNATURE)
    check_crl(collateral.root_crl, root, SIGNATURE)
    check_crl(collateral.pck_crl, collateral.chains["pck_crl_issuer_chain"][0], SIGNATURE)
    for name, text, signature in collateral.signed:
        if not is_signed(key_of(collateral.chains[name][0], SIGNATURE), signature, text.encode()):
            raise Rejected(SIGNATURE, f"{name.removesuffix('_issuer_chain')} is not what was signed")
    check_match(collateral, tee, platform, pck_issuer)


def spans_of(collateral: Collateral) -> Sequence[Span]:
    info, qe = collateral.tcb_info, collateral.qe_identity
    certificates = [span_of(c) for chain in collateral.chains.values() for c in chain]
    crls = (("root_ca_crl", collateral.root_crl), ("pck_crl", collateral.pck_crl))
    lists = [(name, crl.last_update_utc, crl.next_update_utc) for name, crl in crls]
    texts = [("tcb_info", info.issued, info.until), ("qe_identity", qe.issued, qe.until)]
    return [*texts, *lists, *certificates]  # type: ignore[list-item]  # read_crl refused a list without an end


def check_match(collateral: Collateral, tee: str, platform: Platform, pck_issuer: object) -> None:
    info, qe = collateral.tcb_info, collateral.qe_identity
    for what, have, want in (
        ("the TEE of the TCB info", info.id, TCB_INFO_IDS[tee]),
        ("the QE identity", qe.id, QE_IDS[tee]),
        ("the FMSPC", info.fmspc.hex(), platform.fmspc.hex()),
        ("the PCE-ID", info.pce_id.hex(), platform.pce_id.hex()),
        ("the issuer of the PCK revocation list", collateral.pck_crl.issuer, pck_issuer),
    ):
        if have != want:
            raise Rejected(MISMATCH, f"{what} is {have}, the quote's is {want}")
