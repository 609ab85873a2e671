"""Texts where the model's tokenizer is not here: four bytes stand for a token.

Prompts are counted so until the server says its own count, and beginnings are known by these ids. An answer
travels as ids too: its text, and between two marks whatever a delta holds besides text (reasoning, calls).
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

BYTES = 4  # a token of English, on the average
FRAME_START, FRAME_END = "\ue000", "\ue001"  # of the private use area; taken out of what a server says
FRAMED = FRAME_START + FRAME_END  # in a template's place: answers are framed


class Texts:
    """The methods of a tokenizer that the front calls."""

    template_text = FRAMED
    eos_ids: tuple[int, ...] = ()
    vocab_size = 1 << 40  # ids of clients belong to the server: it judges them

    def encode(self, text: str) -> list[int]:
        """Each id holds its bytes, after a one that keeps leading zeros."""
        data = text.encode("utf-8", "replace")
        return [int.from_bytes(b"\1" + data[at : at + BYTES]) for at in range(0, len(data), BYTES)]

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        return b"".join(map(_bytes, ids)).decode("utf-8", "replace")

    def stream(self) -> TextStream:
        return TextStream()

    def ids_of(self, delta: Mapping[str, Any]) -> list[int]:
        """What one delta of a chat adds to an answer."""
        text = plain(delta.get("content"))
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        more: dict[str, Any] = {"reasoning": plain(reasoning)} if reasoning else {}
        if calls := delta.get("tool_calls"):
            more["calls"] = calls
        frame = FRAME_START + plain(orjson.dumps(more).decode()) + FRAME_END if more else ""
        return self.encode(frame + text)


class TextStream:
    """Ids to text, characters whole."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(_bytes(token))

    def flush(self) -> str:
        return self._decoder.decode(b"", True)


def plain(text: Any) -> str:
    """A server's text without our marks."""
    return str(text or "").replace(FRAME_START, "").replace(FRAME_END, "")


def _bytes(token: int) -> bytes:
    """Of an id that is none of ours: nothing."""
    data = token.to_bytes((token.bit_length() + 7) // 8)
    return data[1:] if data[:1] == b"\1" else b""
