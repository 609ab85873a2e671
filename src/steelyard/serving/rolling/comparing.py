"""One request's two answers: did the candidate's fail, how long did it take, how alike are both. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from ...compare import chrf
from .deciding import Pair

ENDLESS = 4  # times as long as the standing answer, and cut at its limit
SHORT = 40  # characters: an answer below may be answered by a sentence
COMPARED_CHARS = 4000


@dataclass(frozen=True, slots=True)
class Said:
    """What a client reads of an answer."""

    text: str
    finish: str | None
    calls: bool = False  # it calls tools

    @property
    def empty(self) -> bool:
        return not self.text.strip() and not self.calls


def pair(standing: Mapping[str, Any], status: int, answer: Any, took_s: float) -> Pair | None:
    """Of a copy (mirror.py) and the candidate's JSON answer; None: it says nothing of the candidate."""
    first = said_in(standing["answer"], standing["streamed"]) if standing["status"] == 200 else None
    second = said(answer) if status == 200 else None
    if first is None:
        return None if second is None else Pair(failed=False, ratio=None, agreement=None)
    if second is None or broken(first, second):
        return Pair(failed=True, ratio=None, agreement=None)
    ratio = took_s / standing["whole_s"] if standing["whole_s"] > 0 else None
    texts = first.text[:COMPARED_CHARS].strip(), second.text[:COMPARED_CHARS].strip()
    agreement = None if not all(texts) else 1.0 if texts[0] == texts[1] else chrf(texts[1], [texts[0]])
    return Pair(failed=False, ratio=ratio, agreement=agreement)


def broken(standing: Said, candidate: Said) -> bool:
    """Worse in form, whatever it says: empty, without end, or no JSON where the other is JSON."""
    if candidate.empty and not standing.empty:
        return True
    longest = ENDLESS * max(len(standing.text), SHORT)
    if candidate.finish == "length" and standing.finish != "length" and len(candidate.text) > longest:
        return True
    return is_json(standing.text) and not candidate.calls and not is_json(candidate.text)


def is_json(text: str) -> bool:
    """An object or a list: a bare number or word is text."""
    if not text.strip().startswith(("{", "[")):
        return False
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def said_in(answer: str, streamed: bool) -> Said | None:
    """Of the bytes that a client got; None where they hold no answer."""
    if streamed:
        return said_streamed(answer)
    try:
        return said(orjson.loads(answer))
    except orjson.JSONDecodeError:
        return None


def said(document: Any) -> Said | None:
    """The first choice of a whole answer."""
    try:
        choice = document["choices"][0]
        message = choice.get("message") or {}
        text = message.get("content") if message else choice.get("text")
        return Said(text or "", choice.get("finish_reason"), bool(message.get("tool_calls")))
    except (KeyError, IndexError, TypeError, AttributeError):
        return None


def said_streamed(answer: str) -> Said | None:
    """The first choice's pieces together; None where the stream ended with an error."""
    text, finish, calls = "", None, False
    for line in answer.splitlines():
        if not line.startswith("data:") or line[5:].strip() == "[DONE]":
            continue
        try:
            event = orjson.loads(line[5:])
            if "error" in event:
                return None
            choices = [c for c in event.get("choices", ()) if c.get("index", 0) == 0]
        except (orjson.JSONDecodeError, TypeError, AttributeError):
            return None
        for choice in choices:
            delta = choice.get("delta") or {}
            text += delta.get("content") or choice.get("text") or ""
            calls = calls or bool(delta.get("tool_calls"))
            finish = choice.get("finish_reason") or finish
    return Said(text, finish, calls)
