"""What every reader of a file shares: unpacked bytes, lines within a bound, what it says of a fault."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from ...errors import Lacking, Where, WrongUse

PACKED = (".gz", ".zst")
LINE_BYTES_MAX = 32 << 20  # cleaning keeps no text of over a million characters; a packed file may have any
PART_BYTES = 1 << 20
DOCUMENTS, CPU = "documents", "cpu"  # the extras that bring readers


@dataclass(frozen=True, slots=True)
class Broken:
    """Why a line gave no record."""

    kind: str  # broken_json | broken_encoding | wrong_shape | too_long | unreadable_page | unreadable_file
    why: str


Record = tuple[int, dict[str, Any] | Broken]


def bare(name: str) -> str:
    """A file's name without what only says how it is packed."""
    return next((name.removesuffix(end) for end in PACKED if name.endswith(end)), name)


def packed(path: Path) -> bool:
    return path.suffix in PACKED


def binary(path: Path) -> BinaryIO:
    """The file's bytes, unpacked; can be rewound. Raises OSError, Lacking."""
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix == ".zst":
        return cast(BinaryIO, io.BufferedReader(Zstd(path), PART_BYTES))
    return open(path, "rb")


class Zstd(io.RawIOBase):
    """A zstd file as a stream; to rewind it is to open it again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.at = 0
        self.unpacked = self.opened()

    def opened(self) -> Any:
        try:
            from pyarrow import CompressedInputStream, OSFile
        except ImportError as e:
            raise lacking("pyarrow", "zstd", CPU) from e
        return CompressedInputStream(OSFile(str(self.path)), "zstd")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        data = self.unpacked.read(len(buffer))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset += self.at
        if whence == io.SEEK_END or offset < 0:
            raise io.UnsupportedOperation("a zstd stream has no known end")
        if offset < self.at:
            self.unpacked.close()
            self.unpacked, self.at = self.opened(), 0
        while self.at < offset and (data := self.unpacked.read(min(PART_BYTES, offset - self.at))):
            self.at += len(data)
        return self.at

    def close(self) -> None:
        if not self.closed:
            self.unpacked.close()
        super().close()


FAULTS = (EOFError, zlib.error, gzip.BadGzipFile)


def bounded(file: Any, limit: int = LINE_BYTES_MAX) -> Iterator[tuple[Any, int]]:
    """(line, its length) of a file of bytes or text; of a line over `limit` only its beginning is held."""
    while line := file.readline(limit):
        length = len(line)
        newline = "\n" if isinstance(line, str) else b"\n"
        while not line.endswith(newline) and (more := file.readline(limit)):
            length += len(more)
            if more.endswith(newline):
                break
        yield line, length


def too_long() -> Broken:
    return Broken("too_long", f"the line has more than {LINE_BYTES_MAX >> 20} MiB")


# ------------------------------------------------------------------ faults of a whole file


def unreadable_file(path: Path, why: str, cause: Exception | None = None) -> WrongUse:
    fault = WrongUse(
        "data.unreadable_file", f"{path.name} cannot be read", where=Where(str(path)), why=why,
        hint="check that the file is whole and that you may read it",
    )  # fmt: skip
    fault.__cause__ = cause
    return fault


def lacking(package: str, what: str, extra: str) -> Lacking:
    return Lacking(
        "data.no_reader",
        f"{what} files need the package {package}",
        hint=f"in the steelyard checkout: pip install -c constraints.txt '.[{extra}]'",
    )
