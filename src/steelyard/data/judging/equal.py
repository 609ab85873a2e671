"""Equal rows and nothing else: where a cleaning asks for no other rule, a row is its key and its line.

Keys, reasons and bytes are those of judge.py; only the looks that nobody asked for are left out. Plain texts
are folded a batch at a time, other rows one by one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from ..facts import Kind, code_points, tables
from ..questions import Questions
from ..reading.files import Broken, Record
from ..reading.sources import RowReader
from ..row import LOOSE_FROM_CHARS, Row, Unreadable, as_line, loose, row_key
from ..rules import KINDS
from ..steps import STEPS, Rules, has_placeholder, says_nothing, terms_of
from .judge import Batch, Judged, plainly

EQUAL = {"duplicate", "near_duplicate"}
# A record with `text` and one of these may be no text, or more than one.
BESIDE = frozenset(
    ["messages", "conversations", "prompt", "instruction", "user", "question", "rejected",
     "rejected_response", "accept", "licence", "license", "consent", "made"]
)  # fmt: skip
LOWER = bytes(range(256)).lower()
NO_LETTERS = bytes(code for code in range(128) if not chr(code).isalnum())
ODD = np.uint32(1 << 31)


def asked_alone(rules: Rules, questions: Questions) -> bool:
    """Nothing but equal rows is asked for."""
    others = (
        rules.pii != "off", rules.pii_model, rules.licences, rules.consent, rules.max_tokens,
        rules.suppressed.rows, questions,
    )  # fmt: skip
    on = set(KINDS) - set(rules.off)
    return rules.enabled and on <= EQUAL and rules.near is None and not any(others)


def equal_batch(
    reader: RowReader, records: Sequence[Record], rules: Rules, line_of: Callable[[Row, Any], bytes]
) -> Batch:
    """The records judged; `line_of` makes a line of a row and the id that it brought. Pure."""
    texts = {n: text for n, (_, fields) in enumerate(records) if (text := text_record(reader, fields))}
    keys = dict(zip(texts, keys_of(list(texts.values())), strict=True))
    judged = [
        text_judged(reader, line, texts[n], keys[n], rules)
        if n in keys
        else other_judged(reader, line, fields, rules, line_of)
        for n, (line, fields) in enumerate(records)
    ]
    return Batch(judged, None)


def text_record(reader: RowReader, fields: dict[str, Any] | Broken) -> dict[str, Any] | None:
    """The record, if it is a plain text and nothing more."""
    if isinstance(fields, Broken) or reader.names or reader.shape is not None:
        return None
    return fields if isinstance(fields.get("text"), str) and BESIDE.isdisjoint(fields) else None


def text_judged(reader: RowReader, line: int, fields: dict[str, Any], key: bytes, rules: Rules) -> Judged:
    text, own = fields["text"], fields.get("id")
    named = isinstance(own, str | int) and own != ""
    id = str(own) if named else f"{reader.name}:{line}"
    faults = {"empty": says_nothing(text), "too_long": len(text) > rules.max_chars}
    if any(faults.values()):
        return Judged(id, tuple(kind for kind, is_so in faults.items() if is_so))
    return Judged(id, key=key, body=as_line(fields if named else {**fields, "id": id}))


def other_judged(
    reader: RowReader, line: int, fields: Any, rules: Rules, line_of: Callable[[Row, Any], bytes]
) -> Judged:
    given = None if isinstance(fields, Broken) else fields.get("id")
    row = reader.row(line, fields, str(given) if isinstance(given, str | int) else "")
    if isinstance(row, Unreadable):
        return plainly(row)
    reasons = [f.kind for name in ("empty", "too_long") for f in STEPS[name](row, rules)[1]]
    if reasons:
        return Judged(row.id, tuple(reasons))
    return Judged(
        row.id, key=row_key(row), placeholder=has_placeholder(row), made=row.made, terms=terms_of(row),
        body=line_of(row, given),
    )  # fmt: skip


# ------------------------------------------------------------------ keys


def keys_of(records: Sequence[Mapping[str, Any]]) -> list[bytes]:
    """What `row_key` gives for plain texts."""
    plain = folded([fields["text"] for fields in records])
    labels = (str(fields.get("label")).encode("utf-8", "surrogatepass") for fields in records)
    return [
        hashlib.blake2b(b"text\0%b\0%b" % pair, digest_size=16).digest()
        for pair in zip(plain, labels, strict=True)
    ]


def folded(texts: Sequence[str]) -> list[bytes]:
    """`loose` of each text, as UTF-8."""
    plain = [text.encode().translate(LOWER, NO_LETTERS) if text.isascii() else b"" for text in texts]
    wide = [number for number, text in enumerate(texts) if not text.isascii()]
    for number, letters in zip(wide, wide_letters([texts[n] for n in wide]), strict=True):
        plain[number] = letters
    return [
        letters if len(letters) >= LOOSE_FROM_CHARS else loose(text).encode("utf-8", "surrogatepass")
        for letters, text in zip(plain, texts, strict=True)
    ]


def wide_letters(texts: Sequence[str]) -> list[bytes]:
    """Letters and digits, folded; nothing of a text that is short or must be normalised as a whole."""
    letters = letter_table()[np.minimum(code_points("\n".join([*texts, ""])), 0xFFFF)]
    ends = np.cumsum(np.fromiter((len(text) + 1 for text in texts), dtype=np.int64, count=len(texts)))
    odd = np.zeros(len(texts), dtype=bool)
    odd[np.searchsorted(ends, np.flatnonzero(letters == ODD), side="right")] = True
    kept = letters > 0
    before = np.concatenate(([0], np.cumsum(kept)[ends - 1]))
    codes = letters[kept]
    return [
        b"" if odd[n] or b - a < LOOSE_FROM_CHARS else utf8(codes[a:b])
        for n, (a, b) in enumerate(zip(before[:-1].tolist(), before[1:].tolist(), strict=True))
    ]


def utf8(codes: np.ndarray) -> bytes:
    return codes.tobytes().decode("utf-32-le").encode()


@cache
def letter_table() -> np.ndarray:
    """uint32 [65536]: what a letter or digit folds to, 0 for all else, ODD where only the whole text says."""
    of = tables()
    fold = np.minimum(of.fold, 0xFFFF)
    out = np.where(of.kind[fold] >= Kind.HAN, fold, 0).astype(np.uint32)
    out[of.slow | of.unlike[fold] | (fold == 0xFFFF)] = ODD  # the last: it and all beyond the plane
    return out
