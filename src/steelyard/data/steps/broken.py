"""Text whose characters were lost or misread before it came here."""

from __future__ import annotations

import re

from ..row import Row
from .finding import Finding, Rules

LOST_LEAST = 3  # one U+FFFD may be quoted by a text about encodings
LOST_SHARE = 0.002
# UTF-8 read as cp1252: a lead byte's letter, then what a continuation byte looks like there.
MISREAD_UTF8 = re.compile(
    "[\u00c2\u00c3\u00e2-\u00ef][\u0080-\u00bf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160"
    "\u2039\u0152\u017d\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178]"
)
# GB18030 read as Latin-1: long runs of upper Latin-1 without a space or a plain letter.
MISREAD_GBK = re.compile("[\u00a1-\u00ff]{8,}")
# UTF-8 read as GBK leaves these; the second is U+FFFD itself, read as GBK.
MISREAD_AS_GBK = re.compile("锟斤拷|烫烫烫|屯屯屯|鈥[滃漙攢]|銆[傦傚]|锛[屼岃]")
# Memory that nobody wrote to, and what a code page could not say: honest texts have either now and then.
FILLED = re.compile("烫{2,}|屯{2,}|(?<=[\u4e00-\u9fff])\\?{1,4}(?=[\u4e00-\u9fff])")
FILLED_SIGNS = ("?", "烫烫", "屯屯")
FILLED_LEAST, FILLED_SHARE = 5, 0.03
MISREAD_LEAST = 3
MISREAD_SHARE = 0.01  # of all characters


def broken(row: Row, rules: Rules) -> tuple[Row, list[Finding]]:
    """`lost_characters` (U+FFFD) and `mojibake`."""
    text = "\n".join(row.parts)
    if text.isascii():
        return row, []
    lost = text.count("\ufffd")
    if lost >= LOST_LEAST and lost >= LOST_SHARE * len(text):
        return row, [Finding("lost_characters", "drop", lost)]
    wrong = misread_chars(text)
    if wrong >= MISREAD_LEAST and wrong >= MISREAD_SHARE * len(text):
        return row, [Finding("mojibake", "drop", wrong)]
    if not any(sign in text for sign in FILLED_SIGNS):
        return row, []
    filled = [len(piece) for piece in FILLED.findall(text)]
    if len(filled) >= FILLED_LEAST and sum(filled) >= FILLED_SHARE * len(text):
        return row, [Finding("lost_characters", "drop", len(filled))]
    return row, []


def misread_chars(text: str) -> int:
    """Characters that lie in sequences no language writes."""
    patterns = (MISREAD_UTF8, MISREAD_GBK, MISREAD_AS_GBK)
    return sum(len(piece) for pattern in patterns for piece in pattern.findall(text))
