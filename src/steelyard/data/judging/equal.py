"""Equal rows and nothing else: where a cleaning asks for no other rule, a row is its key and its line.

Keys, reasons and bytes are those of judge.py; only the looks that nobody asked for are left out. Plain texts
are folded a batch at a time, other rows one by one. Where whole lines come, plain texts and chats never are
objects of ours: three lists hold the names, keys and lines of a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import orjson

from ..facts import Kind, tables
from ..questions import Questions
from ..reading.files import Broken, Record, parse
from ..reading.messages import MEDIA
from ..reading.sources import RowReader
from ..row import LOOSE_FROM_CHARS, Row, Unreadable, as_line, digest, loose, row_key, tight
from ..rules import KINDS
from ..steps import STEPS, Rules, chat_fault, has_placeholder, holds_placeholder, says_nothing, terms_of
from .judge import Batch, Judged, plainly

EQUAL = {"duplicate", "near_duplicate"}
# A record with `text` and one of these may be no text, or more than one.
BESIDE = frozenset(
    ["messages", "conversations", "prompt", "instruction", "user", "question", "rejected",
     "rejected_response", "accept", "licence", "license", "consent", "made"]
)  # fmt: skip
# A chat with one of these may have tools, a rating or pictures, or be a pair.
BESIDE_CHAT = BESIDE - {"messages"} | {"text", "chosen", "tools", "label", "kto_tag", *MEDIA}
SPEAKERS = ("system", "user", "assistant")
TEXT, CHAT, OTHER = range(3)
LOWER = bytes(range(256)).lower()
NO_LETTERS = bytes(code for code in range(128) if not chr(code).isalnum())
ODD = np.uint16(0xFFFF)  # no character


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
    return fields if is_plain_text(fields) else None


@dataclass(slots=True)
class Lines:
    """Rows in order, by column. One that is dropped, or no plain text or chat, stands in `others` too."""

    ids: list[str] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)  # b"" where it is dropped
    bodies: list[bytes] = field(default_factory=list)
    others: dict[int, Judged] = field(default_factory=dict)

    def add(self, judged: Judged) -> None:
        self.others[len(self.ids)] = judged
        self.ids.append(judged.id)
        self.keys.append(judged.key)
        self.bodies.append(judged.body)


def equal_lines(
    reader: RowReader, first: int, data: bytes, rules: Rules, line_of: Callable[[Row, Any], bytes]
) -> Lines:
    """As `equal_batch`, of whole lines of JSONL in UTF-8; `first` is the number of the first one. Pure."""
    records = list(records_of(data, first))
    texts = [fields for _, fields, kind in records if kind == TEXT]
    keys = iter(keys_of(texts))
    out = Lines()
    for line, fields, kind in records:
        key = next(keys) if kind == TEXT else chat_key(fields["messages"]) if kind == CHAT else b""
        if kind == OTHER or not is_sound(fields, kind, rules):
            out.add(other_judged(reader, line, fields, rules, line_of))
            continue
        own = fields.get("id")
        if not isinstance(own, str | int) or own == "":
            own = fields["id"] = f"{reader.name}:{line}"
        out.ids.append(str(own))
        out.keys.append(key)
        out.bodies.append(as_line(fields))
    return out


def records_of(data: bytes, first: int) -> Iterator[tuple[int, Any, int]]:
    """(number of its line, fields or Broken, kind) of each line that is not blank."""
    for number, line in enumerate(data.split(b"\n"), first):
        try:
            fields = orjson.loads(line)
        except orjson.JSONDecodeError:
            if line.strip():
                yield number, parse(line), OTHER
            continue
        if type(fields) is not dict:
            yield number, parse(line), OTHER
        elif is_plain_text(fields):
            yield number, fields, TEXT
        else:
            yield number, fields, CHAT if is_plain_chat(fields) else OTHER


def is_sound(fields: Mapping[str, Any], kind: int, rules: Rules) -> bool:
    """No reason to drop it, and nothing to note of it."""
    if kind == TEXT:
        return len(fields["text"]) <= rules.max_chars and not says_nothing(fields["text"])
    messages = fields["messages"]
    if sum(len(message["content"]) for message in messages) > rules.max_chars or chat_fault(messages):
        return False
    return not any(m["role"] == "assistant" and holds_placeholder(m["content"]) for m in messages)


def is_plain_chat(fields: Mapping[str, Any]) -> bool:
    """Messages of a role and a text, with nothing beside them that changes what they teach."""
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages or not BESIDE_CHAT.isdisjoint(fields):
        return False
    return all(
        type(m) is dict and len(m) == 2 and m.get("role") in SPEAKERS and type(m.get("content")) is str
        for m in messages
    )


def chat_key(messages: Sequence[Mapping[str, str]]) -> bytes:
    """What `row_key` gives for plain chats."""
    return digest(*(f"{message['role']}\1{tight(message['content'])}" for message in messages))


def is_plain_text(fields: Mapping[str, Any]) -> bool:
    return isinstance(fields.get("text"), str) and BESIDE.isdisjoint(fields)


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
    letters = folded([fields["text"] for fields in records])
    return [
        hashlib.blake2b(b"text\0" + text + label_of(fields), digest_size=16).digest()
        for text, fields in zip(letters, records, strict=True)
    ]


def label_of(fields: Mapping[str, Any]) -> bytes:
    if "label" not in fields:
        return b"\0None"
    return f"\0{fields['label']}".encode("utf-8", "surrogatepass")


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
    units = [text.encode("utf-16-le", "surrogatepass") for text in texts]
    letters = letter_table().take(np.frombuffer(b"".join(units), dtype=np.uint16))
    ends = np.cumsum(np.fromiter(map(len, units), dtype=np.int64, count=len(units))) // 2
    odd = np.zeros(len(texts), dtype=bool)
    odd[np.searchsorted(ends, np.flatnonzero(letters == ODD), side="right")] = True
    kept = letters > 0
    before = np.concatenate(([0], np.cumsum(kept)[ends - 1])).tolist()
    folded = letters[kept].tobytes().decode("utf-16-le", "surrogatepass")
    return [
        b"" if is_odd or b - a < LOOSE_FROM_CHARS else folded[a:b].encode()
        for is_odd, a, b in zip(odd.tolist(), before[:-1], before[1:], strict=True)
    ]


@cache
def letter_table() -> np.ndarray:
    """uint16 [65536], by UTF-16 unit: what a letter or digit folds to, 0 for all else, ODD where only the
    whole text says."""
    of = tables()
    fold = np.minimum(of.fold, 0xFFFF)
    out = np.where(of.kind[fold] >= Kind.HAN, fold, 0).astype(np.uint16)
    out[of.slow | of.unlike[fold] | (fold == ODD)] = ODD
    out[0xD800:0xE000] = ODD  # of a pair: beyond the plane
    return out
