"""What Intel wrote into a PCK certificate of its platform: the SGX extension, in DER."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .verdict import Rejected

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

SGX_EXTENSION = "1.2.840.113741.1.13.1"
PREFIX = bytes.fromhex("2a864886f84d010d01")  # the same in DER
TCB, PCE_ID, FMSPC, CONFIGURATION = b"\x02", b"\x03", b"\x04", b"\x07"
PCE_SVN = b"\x02\x11"
FLAGS = {b"\x07\x01": "dynamic_platform", b"\x07\x02": "cached_keys", b"\x07\x03": "smt"}
BOOLEAN, INTEGER, OCTETS, OID, SEQUENCE = 0x01, 0x02, 0x04, 0x06, 0x30


@dataclass(frozen=True, slots=True)
class Platform:
    """`svn`: the 16 SVNs of CPUSVN. `flags`: what is on of dynamic_platform, cached_keys, smt."""

    svn: tuple[int, ...]
    pce_svn: int
    pce_id: bytes
    fmspc: bytes
    flags: frozenset[str]


def platform_of(certificate: Certificate) -> Platform:
    """Raises Rejected (`quote_malformed`: the certificate lies in the quote)."""
    from cryptography.x509 import ObjectIdentifier, UnrecognizedExtension

    extensions = [e.value for e in certificate.extensions if e.oid == ObjectIdentifier(SGX_EXTENSION)]
    if len(extensions) != 1 or not isinstance(extensions[0], UnrecognizedExtension):
        raise Rejected("quote_malformed", "the PCK certificate has no SGX extension")
    [(kind, content)] = elements(extensions[0].value, 1)
    entries = pairs(content) if kind == SEQUENCE else {}
    tcb = pairs(value_of(entries, TCB, SEQUENCE))
    svn = tuple(number_of(tcb, b"\x02" + bytes([n]), 0xFF) for n in range(1, 17))
    setting = pairs(value_of(entries, CONFIGURATION, SEQUENCE)) if CONFIGURATION in entries else {}
    on = {name for oid, name in FLAGS.items() if oid in setting and value_of(setting, oid, BOOLEAN) != b"\0"}
    ids = value_of(entries, PCE_ID, OCTETS, 2), value_of(entries, FMSPC, OCTETS, 6)
    return Platform(svn, number_of(tcb, PCE_SVN, 0xFFFF), *ids, frozenset(on))


def pairs(content: bytes) -> dict[bytes, tuple[int, bytes]]:
    """{last part of the OID: (tag, value)} of a sequence of {OID, value}."""
    entries = {}
    for kind, pair in elements(content):
        (oid_kind, oid), value = elements(pair, 2) if kind == SEQUENCE else [(0, b""), (0, b"")]
        name = oid.removeprefix(PREFIX)
        if oid_kind != OID or name == oid or name in entries:
            raise broken()
        entries[name] = value
    return entries


def value_of(entries: dict[bytes, tuple[int, bytes]], name: bytes, kind: int, size: int = 0) -> bytes:
    found, value = entries.get(name, (0, b""))
    if found != kind or (size and len(value) != size):
        raise broken()
    return value


def number_of(entries: dict[bytes, tuple[int, bytes]], name: bytes, most: int) -> int:
    value = value_of(entries, name, INTEGER)
    number = int.from_bytes(value, "big", signed=True)
    if not value or not 0 <= number <= most:
        raise broken()
    return number


def elements(data: bytes, count: int | None = None) -> list[tuple[int, bytes]]:
    """[(tag, content)] of DER elements that fill `data` exactly; lengths below 64 KiB, in shortest form."""
    found, place = [], 0
    while place < len(data):
        head = data[place : place + 4].ljust(4, b"\0")
        extra = {0x81: 1, 0x82: 2}.get(head[1], 0)
        size = int.from_bytes(head[2 : 2 + extra], "big") if extra else head[1]
        start = place + 2 + extra
        if size < (0, 0x80, 0x100)[extra] or (not extra and size > 0x7F) or start + size > len(data):
            raise broken()
        found.append((head[0], data[start : start + size]))
        place = start + size
    if count is not None and len(found) != count:
        raise broken()
    return found


def broken() -> Rejected:
    return Rejected("quote_malformed", "the SGX extension of the PCK certificate is broken")
