"""One row of data, from whatever file it came: a chat or a text. What cannot be one is `Unreadable`."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import orjson

# {"role", "content", "tool_calls"?, "tool_call_id"?, "name"?, "reasoning_content"?, "weight"?: 0 | 1}
Message = dict[str, Any]
ROLES = ("system", "user", "assistant", "tool", "developer")
LETTERS = re.compile(r"[^\W_]+")
WIDE_MARKS = tuple((mark, chr(ord(mark) - 0xFEE0)) for mark in "，：？！；（）")  # (mark, its NFKC)
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
    tools: tuple[dict[str, Any], ...] = ()  # that the chat may call, as OpenAI writes them
    accept: tuple[str, ...] = ()  # other right answers
    compare: str | None = None
    rejected: Message | None = None  # of a pair, the worse answer; `messages` end with the better one
    label: bool | None = None  # whether the answer is rated good
    raw: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def made(self) -> bool:
        """A model made it of a document; no person wrote it."""
        return (self.raw or {}).get("made") is True

    @property
    def parts(self) -> list[str]:
        """Every text of the row that a person or a model wrote, in a fixed order; `accept` is last.

        Of a message: its content, its thought, the arguments of each call as JSON.
        """
        if self.messages is None:
            return [self.text or "", *self.accept]
        every = (*self.messages, self.rejected) if self.rejected else self.messages
        return [*(text for message in every for text in message_texts(message)), *self.accept]

    def with_parts(self, parts: Sequence[str]) -> Row:
        """The same row with other texts, in the order of `parts`."""
        texts = iter(parts)
        if self.messages is None:
            return replace(self, text=next(texts), accept=tuple(texts))
        messages = tuple(with_texts(message, texts) for message in self.messages)
        rejected = with_texts(self.rejected, texts) if self.rejected else None
        return replace(self, messages=messages, rejected=rejected, accept=tuple(texts))

    @property
    def answers(self) -> list[str]:
        """The texts that training would teach; of a plain text, all of it."""
        if self.messages is None:
            return [self.text or ""]
        taught = [m for m in self.messages if m["role"] == "assistant" and m.get("weight") != 0]
        return [text for message in taught for text in message_texts(message)]

    def as_json(self) -> dict[str, Any]:
        """The row of a dataset artefact."""
        body: dict[str, Any] = {"id": self.id, "ability": self.ability}
        if self.messages is not None:
            body["messages"] = list(self.messages)
        else:
            body["text"] = self.text
        if self.rejected:
            body["rejected"] = self.rejected
        if self.label is not None:
            body["label"] = self.label
        if self.tools:
            body["tools"] = list(self.tools)
        if self.accept:
            body["accept"] = list(self.accept)
        if self.compare:
            body["compare"] = self.compare
        if self.made:
            body |= {"made": True} | {n: v for n, v in (self.raw or {}).items() if n in ("passage", "quote")}
        return body

    def merged(self) -> dict[str, Any]:
        """The foreign object with this row's texts in it, all else untouched."""
        raw = self.raw or {}
        if self.text is not None and isinstance(raw.get("text"), str):
            return {**raw, "id": self.id, "text": self.text}
        old = raw.get("messages")
        if self.messages is not None and isinstance(old, list) and len(old) == len(self.messages):
            new = [put_back(o, m) for o, m in zip(old, self.messages, strict=True)]
            return {**raw, "id": self.id, "messages": new}
        return {key: value for key, value in self.as_json().items() if key != "ability"}


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A line that is no row: `kind` is its reason in the account, `why` never quotes the line."""

    id: str
    source: str
    line: int
    # broken_json, broken_encoding, wrong_shape, not_text, preference, rejected_answer, no_rejected,
    # no_chosen, too_long, unreadable_page, unreadable_file
    kind: str
    why: str
    file: str = ""  # where to point the user; stands in no output


# ------------------------------------------------------------------ texts of a message


def message_texts(message: Message) -> Iterator[str]:
    yield message["content"]
    if "reasoning_content" in message:
        yield message["reasoning_content"]
    for call in message.get("tool_calls", ()):
        yield call["function"]["arguments"]


def with_texts(message: Message, texts: Iterator[str]) -> Message:
    """The message with its next texts; takes as many as `message_texts` gives."""
    result = {**message, "content": next(texts)}
    if "reasoning_content" in message:
        result["reasoning_content"] = next(texts)
    if "tool_calls" in message:
        result["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": next(texts)}}
            for call in message["tool_calls"]
        ]
    return result


def put_back(old: dict[str, Any], new: Message) -> dict[str, Any]:
    """A foreign message with our texts in its own form: null stays null, an object an object."""
    result = dict(old)
    if old.get("content") is not None or new["content"]:
        result["content"] = new["content"]
    for name in ("reasoning_content", "reasoning", "thinking"):
        if old.get(name) and "reasoning_content" in new:
            result[name] = new["reasoning_content"]
    calls = old.get("tool_calls")
    if isinstance(calls, list) and "tool_calls" in new:
        result["tool_calls"] = [put_call_back(o, n) for o, n in zip(calls, new["tool_calls"], strict=True)]
    return result


def put_call_back(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    inner = old.get("function", old)
    ours = new["function"]["arguments"]
    if isinstance(inner.get("arguments"), dict):
        ours = orjson.loads(ours)
    changed = {**inner, "arguments": ours} if "arguments" in inner else inner
    return {**old, "function": changed} if "function" in old else changed


def as_line(body: Mapping[str, Any]) -> bytes:
    """One line of JSON; a lone surrogate, which UTF-8 cannot hold, becomes U+FFFD."""
    try:
        return orjson.dumps(body, default=str, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), default=str)
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode() + b"\n"


def dumped(value: Any) -> str:
    return orjson.dumps(value, default=str).decode()


# ------------------------------------------------------------------ what makes two rows equal


@lru_cache(maxsize=4)
def plain_width(text: str) -> str:
    """NFKC. What full-width marks alone would make slow (eight times) is quick once they are ASCII."""
    for wide, narrow in WIDE_MARKS:
        if wide in text:
            text = text.replace(wide, narrow)
    return unicodedata.normalize("NFKC", text)


@lru_cache(maxsize=64)  # of one row, several keys are taken
def tight(text: str) -> str:
    """The text but for white space and width: what a person would call the same."""
    return " ".join((text if text.isascii() else plain_width(text)).split())


@lru_cache(maxsize=4)
def loose(text: str) -> str:
    """Long prose but for case and marks too."""
    plain = text if text.isascii() else plain_width(text)
    bare = "".join(LETTERS.findall(plain.casefold()))
    return bare if len(bare) >= LOOSE_FROM_CHARS else tight(text)


def digest(*parts: str) -> bytes:
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def text_hash(row: Row) -> str:
    """Names a row by its texts as they were read, wherever they stand; white space and width do not count.

    SHA-256 over all its parts, the first 32 hex digits.
    """
    texts = "\0".join(map(tight, row.parts)).encode("utf-8", "surrogatepass")
    return hashlib.sha256(texts).hexdigest()[:32]


def row_key(row: Row, plain: str | None = None) -> bytes:
    """Equal for rows that teach the same; `plain` is `loose` of its text, where it is known."""
    if row.messages is None:
        label = (row.raw or {}).get("label")
        return digest("text", loose(row.text or "") if plain is None else plain, str(label))
    tools = [f"tools\1{sorted_json(row.tools)}"] if row.tools else []
    rejected = [f"rejected\1{message_key(row.rejected)}"] if row.rejected else []
    label = [] if row.label is None else [f"label\1{row.label}"]
    return digest(*map(message_key, row.messages), *tools, *rejected, *label)


def message_key(message: Message) -> str:
    """Role and content, then what else the template renders; the id of a call is chance and left out."""
    key = f"{message['role']}\1{tight(message['content'])}"
    if len(message) == 2:
        return key
    calls = [called(call["function"]) for call in message.get("tool_calls", ())]
    thought, name = tight(message.get("reasoning_content", "")), message.get("name", "")
    weight = "" if message.get("weight", 1) else "0"
    beside = [thought, sorted_json(calls) if calls else "", name, weight]
    return "\1".join([key, *beside]) if any(beside) else key


def called(function: dict[str, Any]) -> list[Any]:
    """Name and arguments, however the JSON of these was written."""
    try:
        return [function["name"], orjson.loads(function["arguments"])]
    except orjson.JSONDecodeError:
        return [function["name"], tight(function["arguments"])]


def sorted_json(value: Any) -> str:
    return orjson.dumps(value, default=str, option=orjson.OPT_SORT_KEYS).decode()


def prompt_key(row: Row, plain: str | None = None) -> bytes:
    """Equal for rows that ask the same, whatever the system prompt and the answer."""
    return digest("ask", *(questions_of_row(row) if plain is None else [plain]))


def questions_of_row(row: Row) -> list[str]:
    """The user's turns (for a text: the text), normalised."""
    if row.messages is None:
        return [loose(row.text or "")]
    return [tight(m["content"]) for m in row.messages if m["role"] == "user"]
