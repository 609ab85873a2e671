"""The sealed file: a 4096-byte header, then chunks of 256 KiB, each with its own tag.

    part A   magic "SYSEAL1", kind u8, chunk u32, file id 16 B, length u64, chunks u64       (44 bytes)
    part B   wraps u16, then each: key id 16 B, HPKE enc 1120 B, wrapped data key 48 B; zeros
    mac      HMAC-SHA256 over A and B under a key derived from the data key                  (last 32 bytes)

All integers are little-endian. Kind: 1 a file, 2 a log (log.py), both of cipher suite 1; 3 and 4 the same
of suite 2 (ciphers.py); 5 and 6 a file of suite 1 or 2 with its sealer's signature behind it (sealer.py).
Chunk i is sealed by the suite's cipher, nonce = 4 zero bytes + u64 i, AAD = SHA-256(A) + u64 i + u64 chunks:
flips, cuts, swaps and splices fail on the first touched chunk. The data key is new for every file, so no
nonce repeats; a file is never changed in place. An empty file has one empty chunk. Wraps are HPKE base mode,
MLKEM768_X25519, HKDF-SHA256, AES-256-GCM, in either suite; their info is bound to A, so that a file of one
suite cannot be passed off as one of the other, nor a signed file as an unsigned one.

Not here: key files (keys.py), logs of unknown length (log.py). A whole sealed file put in another's place
is for the manifest to find: the format does not know its own name.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .ciphers import TAG_BYTES, aead_of
from .header import (
    CHUNK_BYTES,
    DATA_KEY_BYTES,
    FILE,
    HEADER_BYTES,
    SIGNED,
    PartA,
    Recipient,
    chunks_of,
    cut,
    damaged,
    make_header,
    read_header,
)
from .sealer import Trailer, check_chunk, check_signer, is_whole, made_trailer, read_trailer

if TYPE_CHECKING:
    from ..signing.identity import Signer, Trusted


def nonce_and_aad(index: int, part_a_digest: bytes, chunks: int) -> tuple[bytes, bytes]:
    return struct.pack("<4xQ", index), part_a_digest + struct.pack("<QQ", index, chunks)


def seal_stream(
    reader: BinaryIO,
    length: int,
    writer: BinaryIO,
    recipients: tuple[Recipient, ...],
    name: str,
    cipher: str,
    signer: Signer | None = None,
) -> None:
    """Seal exactly `length` bytes of `reader` into `writer`, with one chunk in memory.

    With a `signer` 32 bytes a chunk are kept too, and the signature follows the chunks.
    """
    from ..disk import write_all

    part_a = PartA(SIGNED if signer else FILE, cipher, os.urandom(16), length, chunks_of(length))
    data_key = os.urandom(DATA_KEY_BYTES)
    aead, digest = aead_of(cipher, data_key), part_a.digest
    write_all(writer, make_header(part_a, data_key, recipients))
    sealed = memoryview(bytearray(CHUNK_BYTES + TAG_BYTES))
    hashes = []
    for index, plain in enumerate(pieces(reader, part_a, name)):
        nonce, aad = nonce_and_aad(index, digest, part_a.chunks)
        whole = sealed[: len(plain) + TAG_BYTES]
        aead.encrypt_into(nonce, plain, aad, whole)
        write_all(writer, whole)
        if signer:
            hashes.append(hashlib.sha256(whole).digest())
    if reader.read(1):
        raise damaged(name, "the file grew while it was sealed")
    if signer:
        write_all(writer, made_trailer(part_a, data_key, hashes, signer))


def in_memory(file: BinaryIO) -> memoryview | None:
    """What is left of a file that lies in memory, without a copy; None of another."""
    return memoryview(file.getvalue())[file.tell() :] if isinstance(file, io.BytesIO) else None


def pieces(reader: BinaryIO, part_a: PartA, name: str) -> Iterator[memoryview]:
    """The plaintext of each chunk: of what lies in memory a view, else in one buffer that is used again."""
    held = in_memory(reader)
    buffer = memoryview(bytearray(CHUNK_BYTES if held is None else 0))
    for index in range(part_a.chunks):
        size = part_a.plain_size(index)
        if held is None:
            piece = buffer[:size]
            got = read_exactly(reader, piece)
        else:
            piece = held[index * CHUNK_BYTES :][:size]
            got = len(piece)
            reader.seek(got, os.SEEK_CUR)
        if got != size:
            raise damaged(name, "the file became shorter while it was sealed")
        yield piece


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

    Keeps one chunk. `trusted`: one of them must have signed it (`signer` is who did). Raises CheckFailed at
    the first chunk that was touched.
    """

    def __init__(
        self, file: BinaryIO, recipient: Recipient, name: str, trusted: Sequence[Trusted] = ()
    ) -> None:
        self.file, self.name, self.held = file, name, in_memory(file)
        self.part_a, data_key = read_header(file.read(HEADER_BYTES), recipient, name)
        size = file.seek(0, os.SEEK_END)
        if not self.part_a.fits(size):
            raise cut(name, self.part_a, size)
        self.trailer = self.read_trailer(data_key)
        self.signer = check_signer(self.trailer, self.part_a, trusted, name) if trusted else None
        self.aead = aead_of(self.part_a.cipher, data_key)
        self.digest = self.part_a.digest
        self.place = 0
        self.index = -1  # of the chunk held
        self.cipher = bytearray(0 if self.held else CHUNK_BYTES + TAG_BYTES)
        self.plain = bytearray(CHUNK_BYTES)
        self.load(0)  # an empty file's one chunk is checked too

    def read_trailer(self, data_key: bytes) -> Trailer | None:
        """Of a signed file; checked as far as the data key can, whoever signed it."""
        if self.part_a.kind != SIGNED:
            return None
        trailer = read_trailer(self.file, self.part_a)
        if trailer is None or not is_whole(trailer, data_key):
            raise damaged(self.name, "its signature was changed")
        return trailer

    def load(self, index: int) -> memoryview:
        """The plaintext of chunk `index`; a view of the one buffer."""
        plain = memoryview(self.plain)[: self.part_a.plain_size(index)]
        if index != self.index:
            self.index = -1
            self.open_into(index, plain)
            self.index = index
        return plain

    def open_into(self, index: int, plain: memoryview) -> None:
        """Chunk `index` into a buffer of just its size; where it fails its check, the buffer is wiped."""
        from cryptography.exceptions import InvalidTag

        cipher = self.sealed_chunk(index)
        nonce, aad = nonce_and_aad(index, self.digest, self.part_a.chunks)
        try:
            if self.signer and self.trailer:
                check_chunk(self.trailer, index, cipher, self.name)
            self.aead.decrypt_into(nonce, cipher, aad, plain)
        except InvalidTag as e:
            plain[:] = bytes(len(plain))
            raise damaged(self.name, f"chunk {index} of {self.part_a.chunks} fails its check") from e

    def sealed_chunk(self, index: int) -> memoryview:
        """As it lies in the file: of what lies in memory a view, else read into the one buffer."""
        place, size = HEADER_BYTES + index * (CHUNK_BYTES + TAG_BYTES), self.part_a.sealed_size(index)
        if self.held is not None:
            return self.held[place : place + size]
        self.file.seek(place)
        cipher = memoryview(self.cipher)[:size]
        if read_exactly(self.file, cipher) != size:
            raise damaged(self.name, f"chunk {index} is cut")
        return cipher

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
        out = memoryview(buffer).cast("B")
        size = self.part_a.plain_size(index)
        if skip == 0 and index != self.index and size <= len(out):
            self.open_into(index, out[:size])  # a whole chunk needs no copy
        else:
            piece = self.load(index)[skip : skip + len(out)]
            size = len(piece)
            out[:size] = piece
        self.place += size
        return size

    def readall(self) -> bytes:
        """From where it stands to the end."""
        out = memoryview(bytearray(max(0, self.part_a.length - self.place)))
        read_exactly(self, out)  # type: ignore[arg-type]
        return bytes(out)

    def close(self) -> None:
        if not self.closed:
            self.file.close()
        super().close()


def open_stream(path: Path, recipient: Recipient, trusted: Sequence[Trusted] = ()) -> io.BufferedReader:
    """A readable, seekable view of the plaintext."""
    file = open(path, "rb")  # noqa: SIM115 - the view closes it
    try:
        return io.BufferedReader(SealedReader(file, recipient, str(path), trusted), CHUNK_BYTES)
    except BaseException:
        file.close()
        raise
