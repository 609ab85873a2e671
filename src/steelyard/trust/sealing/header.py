"""The header of a sealed file: what it is (part A), for whom its data key is wrapped (part B), a MAC.

The layout stands in sealed.py, byte by byte in docs/why/sealed-format.md.

Not here: chunks (sealed.py), records of a log (log.py), signatures (sealer.py).
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import CheckFailed, Lacking, Refused, Where
from .ciphers import AES, SM4, TAG_BYTES, derive

MAGIC = b"SYSEAL1"
HEADER_BYTES = 4096
CHUNK_BYTES = 256 * 1024
DATA_KEY_BYTES = 32
HASH_BYTES = 32
SIGNATURE_BYTES = 32 + 32 + 64 + 3309 + 32  # sealer.py has its parts
MAC_BYTES = 32
FILE, LOG, SIGNED = 1, 2, 3  # a log has records instead of chunks, a signed file a signature behind them
# The header's eighth byte: kind and cipher.
KINDS = {1: (FILE, AES), 2: (LOG, AES), 3: (FILE, SM4), 4: (LOG, SM4), 5: (SIGNED, AES), 6: (SIGNED, SM4)}
NUMBERS = {known: number for number, known in KINDS.items()}
FAMILY = MAGIC[:6]  # the seventh byte would be another in a format that is not this one
PART_A = struct.Struct("<7sBI16sQQ")
WRAP = struct.Struct("<16s1120s48s")  # 1120 = ML-KEM-768 ciphertext 1088 + X25519 share 32
WRAPS_MAX = (HEADER_BYTES - PART_A.size - 2 - MAC_BYTES) // WRAP.size


@dataclass(frozen=True, slots=True)
class PartA:
    """The immutable part of the header. `kind`: FILE, LOG or SIGNED; `cipher`: a word of CIPHERS."""

    kind: int
    cipher: str
    file_id: bytes
    length: int  # bytes of plaintext
    chunks: int

    def pack(self) -> bytes:
        number = NUMBERS[self.kind, self.cipher]
        return PART_A.pack(MAGIC, number, CHUNK_BYTES, self.file_id, self.length, self.chunks)

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.pack()).digest()

    @property
    def trailer_at(self) -> int:
        """Where the chunks end."""
        return HEADER_BYTES + self.length + TAG_BYTES * self.chunks

    @property
    def trailer_bytes(self) -> int:
        """Of what follows the chunks of a signed file."""
        return self.chunks * HASH_BYTES + SIGNATURE_BYTES if self.kind == SIGNED else 0

    @property
    def sealed_bytes(self) -> int:
        """Size of the whole file: nothing may be missing, nothing may follow."""
        return self.trailer_at + self.trailer_bytes

    def fits(self, size: int) -> bool:
        """Is a file of so many bytes one that this describes?"""
        return size == self.sealed_bytes and self.chunks == chunks_of(self.length)

    def plain_size(self, index: int) -> int:
        """Bytes of plaintext in chunk `index`."""
        return min(CHUNK_BYTES, self.length - index * CHUNK_BYTES)

    def sealed_size(self, index: int) -> int:
        return self.plain_size(index) + TAG_BYTES


@dataclass(frozen=True)
class Recipient:
    """Who may open: `key_id` names the key, `public` wraps, `private` unwraps (None: somebody else's).

    `raw`: the public key's bytes, ML-KEM-768 (1184) then X25519 (32).
    """

    key_id: bytes
    public: Any
    private: Any
    raw: bytes = b""

    def __repr__(self) -> str:
        return f"Recipient({self.key_id.hex()})"


def is_sealed(path: Path) -> bool:
    """Whether it begins as a sealed file, or a sealed log, does; of a newer version too."""
    with open(path, "rb") as file:
        return file.read(len(FAMILY)) == FAMILY


def sealed_id(path: Path) -> str:
    """The hash of the header's immutable part: what a sealed file is called, whoever may open it."""
    with open(path, "rb") as file:
        return hashlib.sha256(file.read(PART_A.size)).hexdigest()


def kind_of(header: bytes, name: str) -> tuple[int, str]:
    """FILE, LOG or SIGNED, and the cipher. Raises CheckFailed where the header names what is unknown here."""
    if len(header) <= len(MAGIC) or header[: len(FAMILY)] != FAMILY:
        raise damaged(name, "it has no sealed header")
    if header[: len(MAGIC)] == MAGIC and header[len(MAGIC)] in KINDS:
        return KINDS[header[len(MAGIC)]]
    raise CheckFailed(
        "trust.unknown_suite",
        f"{name} is sealed in a form that this steelyard does not know",
        where=Where(name),
        why=f"version {chr(header[6])!r}, form {header[7]}; known are version '1', forms 1 to {max(KINDS)}",
        hint="a newer steelyard may; or the file was changed: restore it from a copy",
    )


def cipher_of(blob: bytes, name: str) -> str:
    """The cipher that a sealed file or log says it is sealed with."""
    return kind_of(blob, name)[1]


def chunks_of(length: int) -> int:
    return max(1, -(-length // CHUNK_BYTES))


def damaged(name: str, why: str) -> CheckFailed:
    return CheckFailed(
        "trust.sealed_damaged",
        f"{name} is not what was sealed",
        where=Where(name),
        why=why,
        hint="restore the file from a copy, or delete its artefact and run `steelyard up` again",
    )


def cut(name: str, part_a: PartA, size: int) -> CheckFailed:
    return damaged(name, f"it has {size} bytes where {part_a.sealed_bytes} were sealed")


def suite() -> Any:
    """The HPKE suite. Raises Lacking where the installed `cryptography` has no hybrid KEM."""
    try:
        from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

        return Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    except (ImportError, AttributeError) as e:
        raise Lacking(
            "trust.no_hybrid_kem",
            "this `cryptography` cannot wrap keys with ML-KEM-768 + X25519",
            why=str(e),
            hint="pip install 'cryptography>=50'",
        ) from e


# ------------------------------------------------------------------ header


def make_header(part_a: PartA, data_key: bytes, recipients: tuple[Recipient, ...]) -> bytes:
    """The 4096 bytes for this file and these recipients."""
    info = b"steelyard/seal/1" + part_a.digest
    wraps = [r.key_id + suite().encrypt(data_key, r.public, info) for r in recipients]
    body = part_a.pack() + struct.pack("<H", len(wraps)) + b"".join(wraps)
    body = body.ljust(HEADER_BYTES - MAC_BYTES, b"\0")
    return body + header_mac(data_key, body)


def header_mac(data_key: bytes, body: bytes) -> bytes:
    return hmac.digest(derive(data_key, b"steelyard/seal/1/header"), body, "sha256")


def parse_part_a(header: bytes, name: str) -> PartA:
    """What the header says, verified by nothing yet. Raises CheckFailed (none, or an unknown form)."""
    kind, cipher = kind_of(header, name)
    if len(header) != HEADER_BYTES:
        raise damaged(name, f"it has {len(header)} bytes, a header alone {HEADER_BYTES}")
    _, _, chunk, file_id, length, chunks = PART_A.unpack_from(header)
    if chunk != CHUNK_BYTES:
        raise damaged(name, f"chunks of {chunk} bytes are in no version")
    return PartA(kind, cipher, file_id, length, chunks)


def read_header(
    header: bytes, recipient: Recipient, name: str, wanted: tuple[int, ...] = (FILE, SIGNED)
) -> tuple[PartA, bytes]:
    """Part A and the data key. Raises CheckFailed (damaged, not a kind that is wanted, unknown) or Refused
    (sealed for another key)."""
    part_a = parse_part_a(header, name)
    if part_a.kind not in wanted:
        raise damaged(name, "it is a sealed log" if part_a.kind == LOG else "it is no sealed log")
    data_key = unwrap(header, part_a, recipient, name)
    if not hmac.compare_digest(header[-MAC_BYTES:], header_mac(data_key, header[:-MAC_BYTES])):
        raise damaged(name, "its header was changed")
    return part_a, data_key


def unwrap(header: bytes, part_a: PartA, recipient: Recipient, name: str) -> bytes:
    """The data key, from the wrap that is meant for `recipient`."""
    (count,) = struct.unpack_from("<H", header, PART_A.size)
    if not 1 <= count <= WRAPS_MAX:
        raise damaged(name, f"it claims {count} recipients")
    places = (PART_A.size + 2 + i * WRAP.size for i in range(count))
    wraps = {key_id: enc + sealed for key_id, enc, sealed in (WRAP.unpack_from(header, p) for p in places)}
    if recipient.key_id not in wraps:
        raise Refused(
            "trust.wrong_key",
            f"{name} is sealed for another key",
            where=Where(name),
            why=f"it names {', '.join(k.hex()[:8] for k in wraps)}; yours is {recipient.key_id.hex()[:8]}",
            hint="set trust.key_file to the key it was made with, or remove the artefact and make it again",
        )
    from cryptography.exceptions import InvalidTag

    try:
        return suite().decrypt(
            wraps[recipient.key_id], recipient.private, b"steelyard/seal/1" + part_a.digest
        )
    except (InvalidTag, ValueError) as e:
        raise damaged(name, "its wrapped key does not open") from e
