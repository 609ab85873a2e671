"""Each character's kind, and the character that it is after NFKC and lower case, from tables of 65,536."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache

import numpy as np

BMP = 0x10000


class Kind(IntEnum):
    """What a character counts as. Letters and digits from LATIN to OTHER_LETTER make up words."""

    OTHER = 0
    SPACE = 1
    NEWLINE = 2
    END = 3  # of a sentence
    COMMA = 4
    SYMBOL = 5  # of code, mostly
    HIDDEN = 6  # shows nothing: control, zero width, direction
    LOST = 7  # U+FFFD
    HAN = 8  # in everyday use, simplified or traditional
    RARE_HAN = 9
    LATIN = 10
    DIGIT = 11
    KANA = 12
    HANGUL = 13
    CYRILLIC = 14
    ARABIC = 15
    OTHER_LETTER = 16


KINDS = len(Kind)
ENDS = ".!?。！？…｡"
COMMAS = ",;:、，；："
SYMBOLS = "{}()[]<>=+*/\\_#&|$@^%~`\"'-"
SCRIPTS = {"CJK": Kind.RARE_HAN, "HIRAGANA": Kind.KANA, "KATAKANA": Kind.KANA, "HANGUL": Kind.HANGUL,
           "CYRILLIC": Kind.CYRILLIC, "ARABIC": Kind.ARABIC, "LATIN": Kind.LATIN}  # fmt: skip
# First, last, kind: blocks whose characters fold to themselves.
BLOCKS = ((0x3400, 0x4DBF, Kind.RARE_HAN), (0x4E00, 0x9FFF, Kind.RARE_HAN), (0xAC00, 0xD7A3, Kind.HANGUL),
          (0xD800, 0xF8FF, Kind.OTHER))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tables:
    """By code point: what it folds to, its kind, whether its text must be normalised as a whole first."""

    fold: np.ndarray  # uint32 [65536]
    kind: np.ndarray  # uint8 [65536]
    slow: np.ndarray  # bool [65536]
    unlike: np.ndarray  # bool [65536]: `str.casefold` would make something else of it


@cache
def tables() -> Tables:
    """Made once a process (25 ms): blocks of one kind at once, the other characters one by one."""
    fold = np.arange(BMP, dtype=np.uint32)
    slow = np.zeros(BMP, dtype=bool)
    kind = np.zeros(BMP, dtype=np.uint8)
    single = np.ones(BMP, dtype=bool)
    for first, last, of_block in BLOCKS:
        kind[first : last + 1] = of_block
        single[first : last + 1] = False
    for code in np.flatnonzero(single).tolist():
        fold[code], slow[code] = folded(chr(code))
        kind[code] = kind_of(chr(code))
    kind[code_points(everyday_han())] = Kind.HAN
    unlike = np.zeros(BMP, dtype=bool)
    for code in np.flatnonzero(single & (kind >= Kind.LATIN)).tolist():
        unlike[code] = chr(code).casefold() != chr(code)
    return Tables(fold, kind, slow, unlike)


def folded(char: str) -> tuple[int, bool]:
    """Its one character after NFKC and lower case; True where it becomes letters, or joins the one before."""
    text = unicodedata.normalize("NFKC", char).lower()
    if unicodedata.combining(char):
        return ord(char), True
    if len(text) == 1:
        return ord(text), False
    return (ord(char), True) if any(c.isalnum() for c in text) else (ord(" "), False)


def kind_of(char: str) -> Kind:
    for kind, chars in ((Kind.END, ENDS), (Kind.COMMA, COMMAS), (Kind.SYMBOL, SYMBOLS)):
        if char in chars:
            return kind
    if char in "\n\r\x0b\x0c\u2028\u2029":
        return Kind.NEWLINE
    if char == "\ufffd":
        return Kind.LOST
    if char.isspace():
        return Kind.SPACE
    if char.isalnum():
        return letter_kind(char)
    return Kind.HIDDEN if unicodedata.category(char) in ("Cc", "Cf") else Kind.OTHER


def letter_kind(char: str) -> Kind:
    if char.isdigit():
        return Kind.DIGIT
    name = unicodedata.name(char, "").split(" ")[0].split("-")[0]
    return SCRIPTS.get(name, Kind.OTHER_LETTER)


def everyday_han() -> str:
    """In everyday use: the first level of GB 2312 (rows 16 to 55) and of Big5 (A440 to C67E)."""
    simple = (bytes((0xA0 + row, 0xA0 + cell)) for row in range(16, 56) for cell in range(1, 95))
    trail = (*range(0x40, 0x7F), *range(0xA1, 0xFF))
    full = (bytes((lead, cell)) for lead in range(0xA4, 0xC7) for cell in trail)
    chars = b"".join(simple).decode("gb2312", "ignore") + b"".join(full).decode("big5", "ignore")
    return "".join(c for c in chars if "\u4e00" <= c <= "\u9fff")


def code_points(text: str) -> np.ndarray:
    """uint32, one a character."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def characters(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(folded code points, kinds, where each text begins, texts normalised as a whole).

    A line end follows each text; the beginnings have one more at the end.
    """
    codes = code_points("\n".join(texts) + "\n")
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    table = tables()
    slow = np.flatnonzero(table.slow[np.minimum(codes, BMP - 1)])
    slow_texts = np.unique(np.searchsorted(np.cumsum(lengths + 1), slow, side="right"))
    if len(slow_texts):
        texts = normalised(texts, slow_texts)
        lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        codes = code_points("\n".join(texts) + "\n")
    low = np.minimum(codes, BMP - 1)
    kinds = table.kind[table.fold[low]]
    codes = np.where(codes < BMP, table.fold[low], codes)
    kinds[(codes >= 0x20000) & (codes < 0x40000)] = Kind.RARE_HAN
    kinds[(codes >= 0xE0000) & (codes < 0xE0080)] = Kind.HIDDEN  # tags: letters that nothing shows
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths + 1, out=starts[1:])
    return codes, kinds, starts, slow_texts


def normalised(texts: Sequence[str], numbers: np.ndarray) -> list[str]:
    """The texts, those of these numbers normalised as a whole."""
    out = list(texts)
    for number in numbers.tolist():
        out[number] = unicodedata.normalize("NFKC", out[number]).lower()
    return out
