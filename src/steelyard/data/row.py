"""One row of data, from whatever file it came: a chat or a text. What cannot be one is `Unreadable`."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Message = dict[str, str]  # {"role", "content"}
ROLES = ("system", "user", "assistant", "tool", "developer")
LETTERS = re.compile(r"[^\W_]+")
LOOSE_FROM_CHARS = 40  # shorter texts may differ by a mark only and mean another thing


@dataclass(frozen=True, slots=True)
class Row:
    """A chat (`messages`) or a text. `raw` holds the foreign object where it must be written back."""

    id: str
    source: str  # name of the file, free of the folder it lies in
    line: int
    ability: str = "main"
    messages: tuple[Message, ...] | None = None
    text: str | None = None
    accept: tuple[str, ...] = ()  # other right answers
    compare: str | None = None
    weight: float | None = None
    raw: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def parts(self) -> list[str]:
        """Every text of the row that a person wrote: each content, or the text; then `accept`."""
        first = [m["content"] for m in self.messages] if self.messages is not None else [self.text or ""]
        return [*first, *self.accept]

    def with_parts(self, parts: Sequence[str]) -> Row:
        """The same row with other texts, in the order of `parts`."""
        count = len(self.messages) if self.messages is not None else 1
        accept = tuple(parts[count:])
        if self.messages is None:
            return replace(self, text=parts[0], accept=accept)
        pairs = zip(self.messages, parts, strict=False)
        return replace(self, messages=tuple({**m, "content": part} for m, part in pairs), accept=accept)

    def as_json(self) -> dict[str, Any]:
        """The row of a dataset artefact."""
        body: dict[str, Any] = {"id": self.id, "ability": self.ability}
        if self.messages is not None:
            body["messages"] = list(self.messages)
        else:
            body["text"] = self.text
        if self.accept:
            body["accept"] = list(self.accept)
        if self.compare:
            body["compare"] = self.compare
        if self.weight is not None:
            body["weight"] = self.weight
        return body

    def merged(self) -> dict[str, Any]:
        """The foreign object with this row's texts in it, all else untouched."""
        raw = self.raw or {}
        if self.text is not None and isinstance(raw.get("text"), str):
            return {**raw, "id": self.id, "text": self.text}
        if self.messages is not None and isinstance(raw.get("messages"), list):
            old = raw["messages"]
            new = [{**o, "content": m["content"]} for o, m in zip(old, self.messages, strict=True)]
            return {**raw, "id": self.id, "messages": new}
        return {key: value for key, value in self.as_json().items() if key != "ability"}


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A line that is no row: `kind` is its reason in the account, `why` never quotes the line."""

    id: str
    source: str
    line: int
    kind: str  # broken_json | broken_encoding | wrong_shape
    why: str
    file: str = ""  # where to point the user; stands in no output


# ------------------------------------------------------------------ what makes two rows equal


def tight(text: str) -> str:
    """The text but for white space and width: what a person would call the same."""
    return " ".join((text if text.isascii() else unicodedata.normalize("NFKC", text)).split())


def loose(text: str) -> str:
    """Long prose but for case and marks too."""
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    bare = "".join(LETTERS.findall(plain.casefold()))
    return bare if len(bare) >= LOOSE_FROM_CHARS else tight(text)


def digest(*parts: str) -> bytes:
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def row_key(row: Row) -> bytes:
    """Equal for rows that teach the same."""
    if row.messages is None:
        label = (row.raw or {}).get("label")
        return digest("text", loose(row.text or ""), str(label))
    return digest(*(f"{m['role']}\1{tight(m['content'])}" for m in row.messages))


def prompt_key(row: Row) -> bytes:
    """Equal for rows that ask the same, whatever the system prompt and the answer."""
    return digest("ask", *asked(row))


def asked(row: Row) -> list[str]:
    """The user's turns (for a text: the text), normalised."""
    if row.messages is None:
        return [loose(row.text or "")]
    return [tight(m["content"]) for m in row.messages if m["role"] == "user"]
