"""The bytes of a SEV-SNP attestation report, versions 2 to 5: 1184 bytes, of which 672 are signed.

Little-endian, at fixed places; what is reserved is zero. The signature is ECDSA P-384 with SHA-384: r and s
of 72 bytes each, the lowest byte first. Source: AMD's SEV Secure Nested Paging Firmware ABI Specification
(56860), ATTESTATION_REPORT; versions 3 to 5 as in virtee's `sev`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..verdict import Rejected

REPORT_BYTES, SIGNED_BYTES, HALF_BYTES = 1184, 0x2A0, 72
VERSIONS = range(2, 6)
P384_SHA384, P384_BYTES = 1, 48
VCEK, VLEK = 0, 1
TURIN_FAMILY = 0x1A
PLACES = {  # name: (from, to)
    "family_id": (0x10, 0x20), "image_id": (0x20, 0x30), "report_data": (0x50, 0x90),
    "measurement": (0x90, 0xC0), "host_data": (0xC0, 0xE0), "id_key_digest": (0xE0, 0x110),
    "author_key_digest": (0x110, 0x140), "report_id": (0x140, 0x160), "chip_id": (0x1A0, 0x1E0),
}  # fmt: skip
TCBS = {"current": 0x38, "reported": 0x180, "committed": 0x1E0, "launch": 0x1F0}
TCB_BYTES = {  # of a TCB version's eight bytes
    "Milan": {"boot_loader": 0, "tee": 1, "snp": 6, "microcode": 7},
    "Turin": {"fmc": 0, "boot_loader": 1, "tee": 2, "snp": 3, "microcode": 7},
}
TCB_BYTES["Genoa"] = TCB_BYTES["Milan"]
SMT, RESERVED_ONE, MIGRATE, DEBUG = (1 << bit for bit in (16, 17, 18, 19))
POLICY_RESERVED = ~((1 << 26) - 1)


@dataclass(frozen=True, slots=True)
class Report:
    """`fields` by the names of PLACES, `tcb` by those of TCBS: eight bytes, to be read by product line."""

    version: int
    guest_svn: int
    policy: int
    vmpl: int
    smt: bool  # is on, whatever the policy allows
    family: int | None  # of the processor; not in version 2
    fields: dict[str, bytes]
    tcb: dict[str, bytes]
    signed: bytes
    signature: tuple[int, int]

    tee = "snp"

    @property
    def report_data(self) -> bytes:
        return self.fields["report_data"]

    @property
    def measurements(self) -> dict[str, Any]:
        hexed = {name: self.fields[name].hex() for name in PLACES}
        numbers = {"guest_svn": self.guest_svn, "vmpl": self.vmpl, "policy": f"{self.policy:#x}"}
        return hexed | numbers


def is_report(data: bytes) -> bool:
    """Whether the bytes are laid out as a report is, whole and unsigned or not: no quote of Intel's is."""
    return (
        len(data) >= REPORT_BYTES
        and number(data, 0, 4) in VERSIONS
        and number(data, 0x34, 4) == P384_SHA384
        and bool(number(data, 0x8, 8) & RESERVED_ONE)
        and not any(data[SIGNED_BYTES + 2 * HALF_BYTES : REPORT_BYTES])
    )


def begins_report(data: bytes) -> bool:
    """Whether the bytes begin as a report does, and end too early: Intel's headers have a key type there."""
    return len(data) < REPORT_BYTES and number(data, 0, 4) in VERSIONS


def read_report(data: bytes) -> Report:
    """Raises Rejected, nothing else, whatever the bytes are."""
    if len(data) < REPORT_BYTES:
        raise malformed(f"a SEV-SNP report has {REPORT_BYTES} bytes, {len(data)} are there")
    if data[REPORT_BYTES:].strip(b"\0"):
        raise Rejected("quote_trailing_data", f"{len(data) - REPORT_BYTES} bytes follow that are not zeros")
    version = number(data, 0, 4)
    if version not in VERSIONS:
        raise Rejected("quote_version_unsupported", f"version {version} of a SEV-SNP report, not 2 to 5")
    check_signer(data)
    check_reserved(data, version)
    halves = [data[at : at + HALF_BYTES] for at in (SIGNED_BYTES, SIGNED_BYTES + HALF_BYTES)]
    return Report(
        version=version,
        guest_svn=number(data, 0x4, 4),
        policy=number(data, 0x8, 8),
        vmpl=number(data, 0x30, 4),
        smt=bool(data[0x40] & 1),
        family=data[0x188] if version > 2 else None,
        fields={name: data[start:end] for name, (start, end) in PLACES.items()},
        tcb={name: data[at : at + 8] for name, at in TCBS.items()},
        signed=data[:SIGNED_BYTES],
        signature=(int.from_bytes(halves[0], "little"), int.from_bytes(halves[1], "little")),
    )


def check_signer(data: bytes) -> None:
    """The chip's own key (VCEK) signed it; a cloud's (VLEK) and no key at all are refused."""
    algorithm, key = number(data, 0x34, 4), number(data, 0x48, 4) >> 2 & 7
    if algorithm != P384_SHA384:
        raise Rejected("quote_key_type_unsupported", f"signature algorithm {algorithm}, not ECDSA P-384")
    if key != VCEK:
        signer = (
            "a VLEK, the cloud's key" if key == VLEK else "no key" if key == 7 else f"a key of kind {key}"
        )
        raise Rejected("quote_key_type_unsupported", f"signed by {signer}; only a VCEK, the chip's, is read")


def check_reserved(data: bytes, version: int) -> None:
    s_end = SIGNED_BYTES + 2 * HALF_BYTES
    zeros = [(0x4C, 0x50), (0x188 if version == 2 else 0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0),
             (0x208 if version == 5 else 0x1F8, SIGNED_BYTES),
             (SIGNED_BYTES + P384_BYTES, SIGNED_BYTES + HALF_BYTES),
             (SIGNED_BYTES + HALF_BYTES + P384_BYTES, REPORT_BYTES), (s_end, REPORT_BYTES)]  # fmt: skip
    for start, end in zeros:
        if any(data[start:end]):
            raise malformed(f"what is reserved at {start:#x} of a SEV-SNP report is not zero")
    if number(data, 0x48, 4) >> 5:
        raise malformed("what is reserved at 0x48 of a SEV-SNP report is not zero")


def tcb_of(raw: bytes, product: str) -> dict[str, int]:
    return {name: raw[at] for name, at in TCB_BYTES[product].items()}


def number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")


def malformed(detail: str) -> Rejected:
    return Rejected("quote_malformed", detail)
