"""The sealed file: a 4096-byte header, then chunks of 256 KiB, each with its own tag.

    part A   magic "SYSEAL1", kind u8, chunk u32, file id 16 B, length u64, chunks u64       (44 bytes)
    part B   wraps u16, then each: key id 16 B, HPKE enc 1120 B, wrapped data key 48 B; zeros
    mac      HMAC-SHA256 over A and B under a key derived from the data key                  (last 32 bytes)

All integers are little-endian. Kind: 1 a file, 2 a log (log.py), both of cipher suite 1; 3 and 4 the same
of suite 2 (ciphers.py). Chunk i is sealed by the suite's cipher, nonce = 4 zero bytes + u64 i,
AAD = SHA-256(A) + u64 i + u64 chunks: flips, cuts, swaps and splices fail on the first touched chunk. The
data key is new for every file, so no nonce repeats; a file is never changed in place. An empty file has one
empty chunk. Wraps are HPKE base mode, MLKEM768_X25519, HKDF-SHA256, AES-256-GCM, in either suite; their info
is bound to A, so that a file of one suite cannot be passed off as one of the other.

Not here: key files (keys.py), logs of unknown length (log.py). A whole sealed file put in another's place
is for the manifest to find: the format does not know its own name.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ...errors import CheckFailed, Lacking, Refused, Where
from .ciphers import CIPHERS, TAG_BYTES, aead_of, derive

MAGIC = b"SYSEAL1"
HEADER_BYTES = 4096
CHUNK_BYTES = 256 * 1024
DATA_KEY_BYTES = 32
MAC_BYTES = 32
FILE, LOG = 1, 2  # of cipher suite 1; a log has records behind its header instead of chunks, see log.py
KINDS = len((FILE, LOG))
PART_A = struct.Struct("<7sBI16sQQ")
WRAP = struct.Struct("<16s1120s48s")  # 1120 = ML-KEM-768 ciphertext 1088 + X25519 share 32
WRAPS_MAX = (HEADER_BYTES - PART_A.size - 2 - MAC_BYTES) // WRAP.size


@dataclass(frozen=True, slots=True)
class PartA:
    """The immutable part of the header. `kind`: FILE or LOG; `cipher`: a word of CIPHERS."""

    kind: int
    cipher: str
    file_id: bytes
    length: int  # bytes of plaintext
    chunks: int

    def pack(self) -> bytes:
        kind = self.kind + KINDS * (CIPHERS[self.cipher] - 1)
        return PART_A.pack(MAGIC, kind, CHUNK_BYTES, self.file_id, self.length, self.chunks)

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.pack()).digest()

    @property
    def sealed_bytes(self) -> int:
        """Size of the whole file: nothing may be missing, nothing may follow."""
        return HEADER_BYTES + self.length + TAG_BYTES * self.chunks


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
    """Whether it begins as a sealed file, or a sealed log, does."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def sealed_id(path: Path) -> str:
    """The hash of the header's immutable part: what a sealed file is called, whoever may open it."""
    with open(path, "rb") as file:
        return hashlib.sha256(file.read(PART_A.size)).hexdigest()


def kind_of(header: bytes, name: str) -> tuple[int, str]:
    """FILE or LOG, and the cipher. Raises CheckFailed where the header names what is not known here."""
    if len(header) < PART_A.size or header[: len(MAGIC)] != MAGIC:
        raise damaged(name, "it has no sealed header")
    suite, kind = divmod(header[len(MAGIC)] - 1, KINDS)
    for cipher, number in CIPHERS.items():
        if number == suite + 1:
            return kind + 1, cipher
    raise CheckFailed(
        "trust.unknown_suite",
        f"{name} is sealed with cipher suite {suite + 1}, which this steelyard does not know",
        where=Where(name),
        why="it knows " + ", ".join(f"{n} ({cipher})" for cipher, n in CIPHERS.items()),
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


def read_header(header: bytes, recipient: Recipient, name: str, kind_wanted: int) -> tuple[PartA, bytes]:
    """Part A and the data key. Raises CheckFailed (damaged) or Refused (sealed for another key)."""
    if len(header) != HEADER_BYTES or header[:7] != MAGIC:
        raise damaged(name, "it has no sealed header")
    kind, cipher = kind_of(header, name)
    _, _, chunk, file_id, length, chunks = PART_A.unpack_from(header)
    if kind != kind_wanted or chunk != CHUNK_BYTES:
        raise damaged(name, f"kind {kind} with chunks of {chunk} bytes is not what belongs here")
    part_a = PartA(kind, cipher, file_id, length, chunks)
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


# ------------------------------------------------------------------ chunks


def nonce_and_aad(index: int, part_a_digest: bytes, chunks: int) -> tuple[bytes, bytes]:
    return struct.pack("<4xQ", index), part_a_digest + struct.pack("<QQ", index, chunks)


def seal_stream(
    reader: BinaryIO,
    length: int,
    writer: BinaryIO,
    recipients: tuple[Recipient, ...],
    name: str,
    cipher: str,
) -> None:
    """Seal exactly `length` bytes of `reader` into `writer`, with one chunk in memory."""
    from ..disk import write_all

    part_a = PartA(FILE, cipher, os.urandom(16), length, chunks_of(length))
    data_key = os.urandom(DATA_KEY_BYTES)
    aead, digest = aead_of(cipher, data_key), part_a.digest
    write_all(writer, make_header(part_a, data_key, recipients))
    plain, sealed = bytearray(CHUNK_BYTES), bytearray(CHUNK_BYTES + TAG_BYTES)
    for index in range(part_a.chunks):
        size = min(CHUNK_BYTES, length - index * CHUNK_BYTES)
        if read_exactly(reader, memoryview(plain)[:size]) != size:
            raise damaged(name, "the file became shorter while it was sealed")
        nonce, aad = nonce_and_aad(index, digest, part_a.chunks)
        whole = memoryview(sealed)[: size + TAG_BYTES]
        aead.encrypt_into(nonce, memoryview(plain)[:size], aad, whole)
        write_all(writer, whole)
    if reader.read(1):
        raise damaged(name, "the file grew while it was sealed")


def read_exactly(reader: BinaryIO, into: memoryview) -> int:
    """Fill `into`; fewer bytes only at the end of the stream."""
    done = 0
    while done < len(into):
        got = reader.readinto(into[done:])  # type: ignore[attr-defined]
        if not got:
            break
        done += got
    return done


class SealedReader(io.RawIOBase):
    """Random access to the plaintext of a sealed file; every byte given out has been verified.

    Keeps one chunk. Raises CheckFailed at the first chunk that was touched.
    """

    def __init__(self, file: BinaryIO, recipient: Recipient, name: str) -> None:
        self.file, self.name = file, name
        self.part_a, data_key = read_header(file.read(HEADER_BYTES), recipient, name, FILE)
        size = file.seek(0, os.SEEK_END)
        if size != self.part_a.sealed_bytes or self.part_a.chunks != chunks_of(self.part_a.length):
            raise damaged(name, f"it has {size} bytes where {self.part_a.sealed_bytes} were sealed")
        self.aead = aead_of(self.part_a.cipher, data_key)
        self.digest = self.part_a.digest
        self.place = 0
        self.index = -1  # of the chunk held
        self.cipher = bytearray(CHUNK_BYTES + TAG_BYTES)
        self.plain = bytearray(CHUNK_BYTES)
        self.load(0)  # an empty file's one chunk is checked too

    def load(self, index: int) -> memoryview:
        """The plaintext of chunk `index`; a view of the one buffer."""
        from cryptography.exceptions import InvalidTag

        size = min(CHUNK_BYTES, self.part_a.length - index * CHUNK_BYTES)
        if index != self.index:
            self.index = -1
            self.file.seek(HEADER_BYTES + index * (CHUNK_BYTES + TAG_BYTES))
            cipher = memoryview(self.cipher)[: size + TAG_BYTES]
            if read_exactly(self.file, cipher) != len(cipher):
                raise damaged(self.name, f"chunk {index} is cut")
            nonce, aad = nonce_and_aad(index, self.digest, self.part_a.chunks)
            try:
                self.aead.decrypt_into(nonce, cipher, aad, memoryview(self.plain)[:size])
            except InvalidTag as e:
                raise damaged(self.name, f"chunk {index} of {self.part_a.chunks} fails its check") from e
            self.index = index
        return memoryview(self.plain)[:size]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.part_a.length}[whence]
        self.place = max(0, start + offset)
        return self.place

    def tell(self) -> int:
        return self.place

    def readinto(self, buffer: Any) -> int:
        if self.place >= self.part_a.length:
            return 0
        index, skip = divmod(self.place, CHUNK_BYTES)
        piece = self.load(index)[skip : skip + len(buffer)]
        memoryview(buffer)[: len(piece)] = piece
        self.place += len(piece)
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            self.file.close()
        super().close()


def open_stream(path: Path, recipient: Recipient) -> io.BufferedReader:
    """A readable, seekable view of the plaintext."""
    return io.BufferedReader(SealedReader(open(path, "rb"), recipient, str(path)), CHUNK_BYTES)
