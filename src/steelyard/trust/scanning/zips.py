"""Zip files: every entry read as the directory says and as its own header says; both must say the same."""

from __future__ import annotations

import bz2
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .limits import ENTRIES_MAX, Bad, Limits, TooMuch
from .view import View, in_memory

LOCAL = struct.Struct("<4s5H3L2H")
DESCRIPTOR_BYTES = (0, 12, 16, 20, 24)  # what may follow the data where flag 8 is set
ENCRYPTED, LATER, UTF8 = 1, 8, 0x800
PIECE_BYTES = 1 << 20
FAR = 0xFFFFFFFF  # the size stands in the 64-bit extra field


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the archive. `data` is packed as `method` says."""

    name: str
    method: int
    crc: int
    data: View
    size: int


def leaves_folder(name: str) -> bool:
    parts = re.split(r"[/\\]", name)
    return name.startswith(("/", "\\")) or ".." in parts or bool(re.match(r"[A-Za-z]:", name))


def check_name(name: str, names: set[str]) -> None:
    """Raises Bad for a path that leaves the archive's folder, or stands in it twice."""
    if leaves_folder(name) or "\\" in name or "\0" in name:
        raise Bad("archive_path")
    if name in names:
        raise Bad("archive_duplicate")
    names.add(name)


def read_entries(view: View, limits: Limits) -> list[Entry]:
    """Every entry, none unpacked; together they fill the file up to its directory. Raises Bad, TooMuch."""
    infos, directory = _directory(view)
    names: set[str] = set()
    entries: list[Entry] = []
    end, later = 0, False
    for info in sorted(infos, key=lambda i: i.header_offset):
        limits.check_time()
        check_name(info.orig_filename, names)
        _check_gap(info.header_offset - end, later, first=not entries)
        entry, end = _entry(view, info)
        later = bool(info.flag_bits & LATER)
        entries.append(entry)
    _check_gap(directory - end, later, first=not entries)
    return entries


def _directory(view: View) -> tuple[list[Any], int]:
    """What the directory lists, and where it begins."""
    try:
        with zipfile.ZipFile(view) as archive:
            infos, directory, comment = archive.infolist(), archive.start_dir, archive.comment
    except (zipfile.BadZipFile, ValueError, OSError, struct.error, EOFError, NotImplementedError) as e:
        raise Bad("archive_broken") from e
    if len(infos) > ENTRIES_MAX:
        raise TooMuch("too_many_entries")
    if view.read_at(view.size - 22 - len(comment), 4) != b"PK\x05\x06" or b"PK" in comment:
        raise Bad("archive_tail")
    return infos, directory


def _check_gap(gap: int, later: bool, first: bool) -> None:
    """Between entries nothing may hide, nor may they share bytes."""
    if gap < 0:
        raise Bad("archive_overlap")
    if gap not in (DESCRIPTOR_BYTES if later else (0,)):
        raise Bad("archive_prefix" if first else "archive_gap")


def _entry(view: View, info: Any) -> tuple[Entry, int]:
    """The entry, and where its data ends."""
    at = info.header_offset
    head = view.read_at(at, LOCAL.size)
    if len(head) < LOCAL.size:
        raise Bad("archive_cut")
    sign, _, flags, method, _, _, crc, packed, size, name_bytes, extra_bytes = LOCAL.unpack(head)
    if (flags | info.flag_bits) & ENCRYPTED:
        raise Bad("archive_encrypted")
    name = view.read_at(at + LOCAL.size, name_bytes)
    later = flags & LATER and not (crc or packed or size)
    sizes = _same(packed, info.compress_size) and _same(size, info.file_size) and crc == info.CRC
    if (sign, method, name) != (b"PK\x03\x04", info.compress_type, _raw_name(info)) or not (later or sizes):
        raise Bad("archive_header")
    begin = at + LOCAL.size + name_bytes + extra_bytes
    if begin + info.compress_size > view.size:
        raise Bad("archive_cut")
    data = view.part(begin, info.compress_size)
    return Entry(info.orig_filename, method, info.CRC, data, info.file_size), begin + info.compress_size


def _same(told: int, listed: int) -> bool:
    return told in (listed, FAR)


def _raw_name(info: Any) -> bytes:
    return info.orig_filename.encode("utf-8" if info.flag_bits & UTF8 else "cp437")


# ------------------------------------------------------------------ what an entry holds


def is_as_long_as_it_says(entry: Entry) -> bool:
    """Stored as it is, in as many bytes: seen without reading it."""
    return entry.method == zipfile.ZIP_STORED and entry.data.size == entry.size


def unpack(entry: Entry, limits: Limits) -> View:
    """The content, its length and CRC checked; a stored one is not copied. Raises Bad, TooMuch."""
    if entry.method == zipfile.ZIP_STORED:
        view, crc = entry.data, _crc_of(entry.data, limits)
    else:
        if entry.method not in UNPACKERS:
            raise TooMuch("archive_method")
        data = unpacked(entry.data, UNPACKERS[entry.method](), limits)
        view, crc = in_memory(data), zlib.crc32(data)
    if view.size != entry.size or crc != entry.crc:
        raise Bad("archive_crc")
    return view


def _crc_of(view: View, limits: Limits) -> int:
    """Through one buffer: a new one for each piece costs more than the sum."""
    crc, buffer = 0, memoryview(bytearray(min(PIECE_BYTES, view.size)))
    for at in range(0, view.size, PIECE_BYTES):
        limits.check_time()
        crc = zlib.crc32(buffer[: view.read_into(at, buffer)], crc)
    return crc


def unpacked(view: View, unpacker: Any, limits: Limits) -> bytes:
    """All that one stream gives, and nothing behind it. Raises Bad, TooMuch."""
    unpacking = Unpacking(view, limits)
    content = unpacking.stream(unpacker)
    if unpacking.at < view.size or unpacking.waiting:
        raise Bad("archive_tail")
    return content


@dataclass(slots=True)
class Unpacking:
    """Compressed streams of a file, one after the other: where it is, and what it has read and not used."""

    view: View
    limits: Limits
    at: int = 0
    waiting: bytes = b""

    def stream(self, unpacker: Any) -> bytes:
        """To the end of the next one, in pieces that are counted as they come. Raises Bad, TooMuch."""
        pieces = []
        while not unpacker.eof:
            self.limits.check_time()
            if not self.waiting:
                self.waiting = self.view.read_at(self.at, PIECE_BYTES)
                self.at += len(self.waiting)
            piece, rest = step(unpacker, self.waiting)
            if not (piece or self.waiting or unpacker.eof):
                raise Bad("archive_cut")
            self.limits.count_unpacked(len(piece))
            pieces.append(piece)
            self.waiting = rest
        return b"".join(pieces)


def step(unpacker: Any, waiting: bytes) -> tuple[bytes, bytes]:
    """The next piece, and what was not used of `waiting`. Raises Bad."""
    try:
        piece = unpacker.decompress(waiting, PIECE_BYTES)
    except (zlib.error, OSError, EOFError, lzma.LZMAError, ValueError) as e:
        raise Bad("archive_broken") from e
    if unpacker.eof:
        return piece, unpacker.unused_data
    return piece, getattr(unpacker, "unconsumed_tail", b"")


UNPACKERS: dict[int, Callable[[], Any]] = {
    zipfile.ZIP_DEFLATED: lambda: zlib.decompressobj(-15),
    zipfile.ZIP_BZIP2: bz2.BZ2Decompressor,
}
