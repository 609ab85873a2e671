"""Streams and archives other than zip: gz, bz2, xz, zlib, tar. Unpacked in memory, within limits."""

from __future__ import annotations

import bz2
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from .limits import ENTRIES_MAX, Bad, Limits, TooMuch
from .view import View
from .zips import PIECE_BYTES, Unpacking, check_name, unpacked

STREAMS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(31),
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ": lambda: lzma.LZMADecompressor(memlimit=64 << 20),
}
ZLIB_HEADS = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
NO_RULE = {
    b"7z\xbc\xaf\x27\x1c": "archive_7z",
    b"Rar!\x1a\x07": "archive_rar",
    b"\x28\xb5\x2f\xfd": "archive_zstd",
    b"\x04\x22\x4d\x18": "archive_lz4",
    b"ZF0x": "archive_joblib_zf",
}


def stream_of(head: bytes) -> Callable[[], Any] | None:
    return next((make for sign, make in STREAMS.items() if head.startswith(sign)), None)


def unpack_stream(view: View, make: Callable[[], Any], limits: Limits) -> bytes:
    """One compressed stream to its end; several in a row are a gz of several members. Raises Bad, TooMuch."""
    unpacking, streams = Unpacking(view, limits), list[bytes]()
    while True:
        streams.append(unpacking.stream(make()))
        if unpacking.at >= view.size and not unpacking.waiting.strip(b"\0"):
            return b"".join(streams)


def is_zlib(view: View) -> bool:
    """Does it begin as a zlib stream, beyond its two bytes?"""
    head = view.read_at(0, 4096)
    if not head.startswith(ZLIB_HEADS):
        return False
    try:
        return bool(zlib.decompressobj().decompress(head, 64))
    except zlib.error:
        return False


def unpack_zlib(view: View, limits: Limits) -> bytes:
    return unpacked(view, zlib.decompressobj(), limits)


def read_tar(view: View, limits: Limits) -> Iterator[tuple[str, View]]:
    """Name and content of each file. Raises Bad, TooMuch."""
    names: set[str] = set()
    try:
        with tarfile.open(fileobj=view, mode="r:") as archive:
            for count, member in enumerate(archive):
                limits.check_time()
                _check_member(member, names, count)
                if member.isreg():
                    yield member.name, view.part(member.offset_data, member.size)
                end = archive.offset
            _check_rest(view, end if names else 0, limits)
    except (tarfile.TarError, ValueError, OSError, EOFError, OverflowError, RecursionError) as e:
        raise Bad("archive_broken") from e


def _check_member(member: Any, names: set[str], count: int) -> None:
    if count > ENTRIES_MAX:
        raise TooMuch("too_many_entries")
    check_name(member.name, names)
    if member.issym() or member.islnk():
        _check_link(member)
    elif not (member.isreg() or member.isdir()):
        raise Bad("archive_device")
    if member.issparse():
        raise TooMuch("archive_sparse")


def _check_link(member: Any) -> None:
    """A hard link is named from the archive's top, a symbolic one from its own folder."""
    folder = [p for p in member.name.split("/")[:-1] if p not in ("", ".")] if member.issym() else []
    if member.linkname.startswith("/") or re.search(r"\\|^[A-Za-z]:", member.linkname):
        raise Bad("archive_link")
    for part in member.linkname.split("/"):
        if part == ".." and not folder:
            raise Bad("archive_link")
        if part == "..":
            folder.pop()
        elif part not in ("", "."):
            folder.append(part)


def _check_rest(view: View, at: int, limits: Limits) -> None:
    """After the last member nothing but zeros: a second archive could hide there."""
    for place in range(at, view.size, PIECE_BYTES):
        limits.check_time()
        if view.read_at(place, PIECE_BYTES).strip(b"\0"):
            raise Bad("archive_tail")
