"""In which encoding a text file is: a byte order mark, valid UTF-8, or GB18030 with Chinese in it.

GB18030 decodes almost any bytes, so validity proves little. What proves it: nearly all of its non-ASCII
characters lie in GB 2312, the 6763 common ones; Latin-1 read as GB18030 does not.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ...errors import Where, WrongUse

MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
BLOCK_BYTES = 1 << 20
SAMPLE_LINES = 2000  # non-ASCII lines looked at where the file is not UTF-8 throughout
COMMON_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Encoding:
    """`name` is a Python codec; `how` is mark, valid, mostly (some lines are broken), guessed or given."""

    name: str
    how: str

    @property
    def wide(self) -> bool:
        """Newlines are more than one byte: lines cannot be cut before decoding."""
        return self.name.startswith(("utf-16", "utf-32", "utf_16", "utf_32"))

    def __str__(self) -> str:
        return f"{self.name} ({self.how})"


def given(name: str, where: Where) -> Encoding:
    """The encoding that the recipe names. Raises WrongUse."""
    try:
        return Encoding(codecs.lookup(name).name, "given")
    except LookupError as e:
        raise WrongUse(
            "data.unknown_encoding",
            f"there is no encoding {name!r}",
            where=where,
            hint="leave `encoding` out (utf-8, utf-16 and gb18030 are detected) or name a Python codec",
        ) from e


def detect(file: BinaryIO) -> Encoding | None:
    """Reads `file` from its start to its end (or to a decision). None = none of the known encodings."""
    head = file.read(64 * 1024)
    for mark, name in MARKS:
        if head.startswith(mark):
            return Encoding(name, "mark")
    if wide := wide_without_mark(head):
        return Encoding(wide, "guessed")
    file.seek(0)
    if valid_utf8(file):
        return Encoding("utf-8", "valid")
    file.seek(0)
    return judge(list(telling_lines(file)))


def wide_without_mark(head: bytes) -> str | None:
    """UTF-16 without a mark shows by its ASCII: a zero byte beside each, always on the same side."""
    if b"\0" not in head:
        return None
    pairs = list(zip(head[0::2], head[1::2], strict=False))
    little = sum(high == 0 and 9 <= low < 127 for low, high in pairs)
    big = sum(high == 0 and 9 <= low < 127 for high, low in pairs)
    if max(little, big) * 50 < len(pairs) or min(little, big) * 4 > max(little, big):
        return None
    return "utf-16-le" if little > big else "utf-16-be"


def valid_utf8(file: BinaryIO) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while block := file.read(BLOCK_BYTES):
            decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def telling_lines(file: BinaryIO) -> Iterator[bytes]:
    count = 0
    for line in file:
        if not line.isascii():
            yield line
            count += 1
            if count == SAMPLE_LINES:
                return


def judge(lines: list[bytes]) -> Encoding | None:
    """UTF-8 if at least half of the telling lines are, else GB18030 if they are common Chinese."""
    if sum(decodes(line, "utf-8") for line in lines) * 2 >= len(lines):
        return Encoding("utf-8", "mostly")
    good = [line.decode("gb18030") for line in lines if decodes(line, "gb18030")]
    if len(good) < 0.9 * len(lines):
        return None
    wide = "".join(c for text in good for c in text if ord(c) > 127)
    common = len(wide.encode("gb2312", "ignore")) // 2  # two bytes for each character that GB 2312 has
    return Encoding("gb18030", "guessed") if common >= COMMON_SHARE * len(wide) else None


def decodes(line: bytes, name: str) -> bool:
    try:
        line.decode(name)
    except UnicodeDecodeError:
        return False
    return True
