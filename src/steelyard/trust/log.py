"""An append-only log whose lines are sealed at rest and read back in order.

    header   as in sealed.py, kind 2 or 4, length 0
    record   u32 size, nonce 12 B, ciphertext + tag; AAD = SHA-256(A) + u64 i + previous tag

Nonces are random because a record torn by a crash is written again under the same index. The chain of tags
finds flips, swaps, splices and lost lines; lines cut off at the very end look like lines that
were never written. Several processes may append: each takes the file's lock for one line.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from .disk import disk_problem, write_all
from .sealing.ciphers import TAG_BYTES, aead_of
from .sealing.header import DATA_KEY_BYTES, HEADER_BYTES, LOG, PartA, damaged, make_header, read_header

if TYPE_CHECKING:
    from .keys import Keys

NONCE_BYTES = 12
LINE_BYTES_MAX = 1 << 20
SIZE = struct.Struct("<I")


class SealedLog:
    """One sealed log: `append(line)`; iterating gives the lines so far.

    Raises CheckFailed where the file was changed by anyone else, Lacking (disk).
    """

    def __init__(self, path: Path, keys: Keys) -> None:
        self.path, self.keys = path, keys
        self.header = b""
        self.end = HEADER_BYTES  # of the last verified record
        self.index, self.tag = 0, bytes(TAG_BYTES)

    def append(self, line: str) -> None:
        cut = line.encode("utf-8", "replace")[:LINE_BYTES_MAX]
        data = cut.decode("utf-8", "ignore").encode()  # characters whole
        try:
            with open(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                self.catch_up(file)
                nonce = os.urandom(NONCE_BYTES)
                cipher = self.aead.encrypt(nonce, data, self.aad())
                write_all(file, SIZE.pack(len(cipher)) + nonce + cipher)
                self.advance(cipher)
        except OSError as e:
            raise disk_problem(e, self.path) from e

    def __iter__(self) -> Iterator[str]:
        """The lines from the first; a record still being written at the end is left out."""
        if not self.path.exists():
            return
        reader = SealedLog(self.path, self.keys)
        with open(self.path, "rb") as file:
            if not reader.open_header(file.read(HEADER_BYTES)):
                return
            yield from reader.records(file)

    def catch_up(self, file: BinaryIO) -> None:
        """Make the header if the log is new, go over what others appended, cut a torn record."""
        if not self.open_header(file.read(HEADER_BYTES)):
            self.start(file)
        if os.fstat(file.fileno()).st_size != self.end:
            file.seek(self.end)
            for _ in self.records(file):
                pass
            file.truncate(self.end)
        file.seek(self.end)

    def start(self, file: BinaryIO) -> None:
        part_a = PartA(LOG, self.keys.cipher, os.urandom(16), 0, 0)
        header = make_header(part_a, os.urandom(DATA_KEY_BYTES), self.keys.recipients)
        file.seek(0)
        write_all(file, header)
        os.fsync(file.fileno())
        self.open_header(header)

    def open_header(self, header: bytes) -> bool:
        """True once the data key is known; False for a log that no line was written to yet."""
        if self.header and header == self.header:
            return True
        if self.header:
            raise damaged(str(self.path), "its header was changed")
        if len(header) < HEADER_BYTES:
            return False
        part_a, data_key = read_header(header, self.keys.recipient, str(self.path), (LOG,))
        self.header, self.digest, self.aead = header, part_a.digest, aead_of(part_a.cipher, data_key)
        return True

    def records(self, file: BinaryIO) -> Iterator[str]:
        """Whole records from where this log stands, each verified. Raises CheckFailed."""
        from cryptography.exceptions import InvalidTag

        size_of_file = os.fstat(file.fileno()).st_size
        while self.end + SIZE.size + NONCE_BYTES + TAG_BYTES <= size_of_file:
            (size,) = SIZE.unpack(file.read(SIZE.size))
            if self.end + SIZE.size + NONCE_BYTES + size > size_of_file:
                return
            nonce, cipher = file.read(NONCE_BYTES), file.read(size)
            try:
                line = self.aead.decrypt(nonce, cipher, self.aad())
            except InvalidTag as e:
                raise damaged(str(self.path), f"line {self.index + 1} fails its check") from e
            self.advance(cipher)
            yield line.decode("utf-8", "replace")  # an earlier version cut a long line within a character

    def aad(self) -> bytes:
        return self.digest + struct.pack("<Q", self.index) + self.tag

    def advance(self, cipher: bytes) -> None:
        self.end += SIZE.size + NONCE_BYTES + len(cipher)
        self.index, self.tag = self.index + 1, cipher[-TAG_BYTES:]


def append_log(path: Path, line: str, keys: Keys | None = None) -> None:
    """One line more: plain without keys, sealed with them. For many lines keep a `SealedLog`."""
    if keys is not None:
        SealedLog(path, keys).append(line)
        return
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as e:
        raise disk_problem(e, path) from e


def read_log(path: Path, keys: Keys | None = None) -> Iterator[str]:
    """The lines of a log, in order, without their newline."""
    if keys is not None:
        yield from SealedLog(path, keys)
    elif path.exists():
        with open(path, encoding="utf-8", errors="replace") as file:
            yield from (line.rstrip("\n") for line in file)
