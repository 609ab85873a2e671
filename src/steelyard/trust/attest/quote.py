"""The bytes of a quote: SGX version 3, TDX versions 4 and 5. Every length is checked before it is used.

    header   version u16, key type u16, TEE u32, 4 B, QE vendor 16 B, user data 20 B            (48 bytes)
    body     v3: enclave report 384; v4: TD report 1.0 584; v5: type u16, size u32, then 584 or 648
    auth     size u32: signature 64, key 64, certification: QE report 384, its signature 64, QE data,
             PCK chain (type 5, PEM); in v4 and v5 all of the certification lies in a block of type 6

Little-endian. After it only zeros may follow: cloud guests pad. Source: Intel's quote generation and TDX
quoting specifications, and the parser of SGX-TDX-DCAP-QuoteVerificationLibrary.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from .verdict import Rejected

QUOTE_BYTES_MAX = 1 << 20
HEADER = struct.Struct("<HHI4s16s20s")
ECDSA_P256 = 2
INTEL_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
TEES = {0x00: "sgx", 0x81: "tdx"}
ENCLAVE_REPORT = struct.Struct("<16s4s28s16s32s32s32s96sHH60s64s")
TD_REPORT_BYTES = {2: 584, 3: 648}  # by body type: 1.0, 1.5
TD_FIELDS = (("tee_tcb_svn", 16), ("mr_seam", 48), ("mr_signer_seam", 48), ("seam_attributes", 8),
             ("td_attributes", 8), ("xfam", 8), ("mr_td", 48), ("mr_config_id", 48), ("mr_owner", 48),
             ("mr_owner_config", 48), ("rtmr0", 48), ("rtmr1", 48), ("rtmr2", 48), ("rtmr3", 48),
             ("report_data", 64), ("tee_tcb_svn2", 16), ("mr_service_td", 48))  # fmt: skip
TD_MEASURED = ("mr_seam", "mr_td", "mr_config_id", "mr_owner", "mr_owner_config",
               "rtmr0", "rtmr1", "rtmr2", "rtmr3", "report_data")  # fmt: skip
QE_CERTIFICATION, PCK_CHAIN = 6, 5


@dataclass(frozen=True, slots=True)
class EnclaveReport:
    raw: bytes
    misc_select: bytes
    attributes: bytes
    mr_enclave: bytes
    mr_signer: bytes
    isv_prod_id: int
    isv_svn: int
    report_data: bytes

    @property
    def debug(self) -> bool:
        return bool(self.attributes[0] & 2)

    @property
    def measurements(self) -> dict[str, Any]:
        hexed = {n: getattr(self, n).hex() for n in ("mr_enclave", "mr_signer")}
        whole = {"isv_prod_id": self.isv_prod_id, "isv_svn": self.isv_svn}
        return hexed | whole | {"report_data": self.report_data.hex()}


@dataclass(frozen=True, slots=True)
class TdReport:
    """Fields by the names of TD_FIELDS; those of 1.5 are empty in a report 1.0."""

    fields: dict[str, bytes]

    def __getitem__(self, name: str) -> bytes:
        return self.fields[name]

    @property
    def report_data(self) -> bytes:
        return self.fields["report_data"]

    @property
    def measurements(self) -> dict[str, Any]:
        return {name: self.fields[name].hex() for name in TD_MEASURED}


@dataclass(frozen=True, slots=True)
class Quote:
    version: int
    tee: str
    body: EnclaveReport | TdReport
    signed: bytes  # header and body, what the attestation key signs
    signature: bytes
    attestation_key: bytes
    qe_report: EnclaveReport
    qe_signature: bytes
    qe_auth_data: bytes
    pck_chain: bytes  # PEM: leaf, intermediate, root

    @property
    def report_data(self) -> bytes:
        return self.body.report_data

    @property
    def measurements(self) -> dict[str, Any]:
        return self.body.measurements


class Reader:
    """Bytes in order; asking for more than there is rejects the quote."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def take(self, count: int, what: str) -> bytes:
        piece = self.data[self.place : self.place + count]
        if len(piece) != count:
            raise Rejected("quote_malformed", f"{what} needs {count} bytes, {len(piece)} are left")
        self.place += count
        return piece

    def number(self, form: str, what: str) -> int:
        return int(struct.unpack(form, self.take(struct.calcsize(form), what))[0])

    def end(self, what: str) -> None:
        if left := len(self.data) - self.place:
            raise Rejected("quote_malformed", f"{left} bytes are left over in {what}")


def parse_quote(data: bytes) -> Quote:
    """Raises Rejected, nothing else, whatever the bytes are."""
    if len(data) > QUOTE_BYTES_MAX:
        raise Rejected("quote_malformed", f"{len(data)} bytes are more than any quote has")
    reader = Reader(data)
    version, tee = read_header(reader)
    body = read_body(reader, version, tee)
    signed = data[: reader.place]
    auth = Reader(reader.take(reader.number("<I", "the size of the signature"), "the signature data"))
    if data[reader.place :].strip(b"\0"):
        raise Rejected("quote_trailing_data", f"{len(data) - reader.place} bytes follow that are not zeros")
    signature, key = auth.take(64, "the signature"), auth.take(64, "the attestation key")
    if version > 3:
        auth = block(auth, QE_CERTIFICATION, "the certification data")
    qe_report = read_enclave_report(auth.take(ENCLAVE_REPORT.size, "the QE report"))
    qe_signature = auth.take(64, "the signature of the QE report")
    qe_data = auth.take(auth.number("<H", "the size of the QE data"), "the QE data")
    chain = block(auth, PCK_CHAIN, "the PCK chain").data
    return Quote(version, tee, body, signed, signature, key, qe_report, qe_signature, qe_data, chain)


def read_header(reader: Reader) -> tuple[int, str]:
    header = HEADER.unpack(reader.take(HEADER.size, "the header"))
    version, key_type, tee_type, _, vendor, _ = header
    tee = TEES.get(tee_type)
    if (version, tee) not in ((3, "sgx"), (4, "tdx"), (5, "tdx")):
        raise Rejected("quote_version_unsupported", f"version {version} of TEE type {tee_type:#x}")
    if key_type != ECDSA_P256:
        raise Rejected("quote_key_type_unsupported", f"key type {key_type}, not ECDSA P-256")
    if vendor != INTEL_QE_VENDOR:
        raise Rejected("qe_vendor_unknown", f"the QE's vendor is {vendor.hex()}, not Intel")
    return version, str(tee)


def read_body(reader: Reader, version: int, tee: str) -> EnclaveReport | TdReport:
    if tee == "sgx":
        return read_enclave_report(reader.take(ENCLAVE_REPORT.size, "the enclave report"))
    size = TD_REPORT_BYTES[2]
    if version == 5:
        kind, claimed = reader.number("<H", "the body's type"), reader.number("<I", "the body's size")
        if kind not in TD_REPORT_BYTES:
            raise Rejected("quote_version_unsupported", f"body type {kind} of a version 5 quote")
        size = TD_REPORT_BYTES[kind]
        if claimed != size:
            raise Rejected("quote_malformed", f"a body of type {kind} has {size} bytes, not {claimed}")
    return read_td_report(reader.take(size, "the TD report"))


def read_enclave_report(raw: bytes) -> EnclaveReport:
    _, misc, _, attributes, enclave, _, signer, _, prod, svn, _, data = ENCLAVE_REPORT.unpack(raw)
    return EnclaveReport(raw, misc, attributes, enclave, signer, prod, svn, data)


def read_td_report(raw: bytes) -> TdReport:
    fields, place = {}, 0
    for name, size in TD_FIELDS:
        fields[name] = raw[place : place + size]
        place += size
    return TdReport(fields)


def block(reader: Reader, kind: int, what: str) -> Reader:
    """The inside of a block {type u16, size u32, bytes} that ends where what is around it ends."""
    found = reader.number("<H", f"the type of {what}")
    if found != kind:
        raise Rejected("quote_malformed", f"{what} is of type {found}, not {kind}")
    inside = Reader(reader.take(reader.number("<I", f"the size of {what}"), what))
    reader.end(f"what holds {what}")
    return inside
