"""Answers of the four generating routes, whole or streamed, as one shape. Pure: JSON in, `Answer` out.

Not here: the requests (endpoint.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One token of an answer as the server reports it."""

    text: str
    logprob: float
    raw: bytes | None = None
    top: tuple[tuple[str, float], ...] = ()
    id: int | None = None  # llama-server reports it


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer, or the reason why there is none (`error`)."""

    text: str | None
    finish: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    tokens: tuple[Token, ...] | None = None
    error: str | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()


NOT_A_COMPLETION = Answer(text=None, error="not a completion")
Document = Mapping[str, Any]


def read_answer(document: Any) -> Answer:
    """A chat's or a text's completion; a shape that is neither becomes an error, not a crash."""
    try:
        choice, usage = document["choices"][0], document.get("usage") or {}
        message = choice.get("message")
        calls = tuple((message or {}).get("tool_calls") or ())
        text = choice["text"] if message is None else message.get("content")
        if not isinstance(text, str) and not calls:
            return Answer(text=None, error="no content")
        return Answer(
            text=text or "",
            finish=choice.get("finish_reason"),
            prompt_tokens=usage.get("prompt_tokens"),
            completion_tokens=usage.get("completion_tokens"),
            tokens=_tokens(choice.get("logprobs") or {}),
            tool_calls=calls,
        )
    except (LookupError, TypeError, AttributeError, ValueError):
        return NOT_A_COMPLETION


def read_response(document: Any) -> Answer:
    """Of /v1/responses."""
    try:
        usage = document.get("usage") or {}
        parts = [p for item in document["output"] if item["type"] == "message" for p in item["content"]]
        return Answer(
            text="".join(p["text"] for p in parts if p["type"] == "output_text"),
            finish="length" if document.get("status") == "incomplete" else "stop",
            prompt_tokens=usage.get("input_tokens"),
            completion_tokens=usage.get("output_tokens"),
        )
    except (LookupError, TypeError, AttributeError):
        return NOT_A_COMPLETION


def read_message(document: Any) -> Answer:
    """Of /v1/messages. Anthropic counts the part of a prompt that a cache held apart."""
    try:
        return Answer(
            text="".join(block["text"] for block in document["content"] if block["type"] == "text"),
            finish="length" if document.get("stop_reason") == "max_tokens" else "stop",
            prompt_tokens=_input_tokens(document.get("usage") or {}),
            completion_tokens=(document.get("usage") or {}).get("output_tokens"),
        )
    except (LookupError, TypeError, AttributeError):
        return NOT_A_COMPLETION


def _input_tokens(usage: Document) -> int | None:
    names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    counts = [usage.get(name) for name in names]
    return None if counts[0] is None else sum(c for c in counts if isinstance(c, int))


# ------------------------------------------------------------------ streams


def events(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The JSON of each `data:` line of a stream. Raises ValueError for a line that holds none."""
    data = (line[5:].strip() for line in lines if line.startswith("data:"))
    return [json.loads(text) for text in data if text and text != "[DONE]"]


def joined_completion(chunks: Sequence[Document]) -> dict[str, Any]:
    """Chunks of a chat or a text as the document of the whole answer."""
    choices = [c for chunk in chunks for c in chunk.get("choices") or () if c.get("index", 0) == 0]
    texts = [(c.get("delta") or {}).get("content") or c.get("text") or "" for c in choices]
    logprobs = [c["logprobs"] for c in choices if c.get("logprobs")]
    tokens = {
        name: [item for part in logprobs for item in part.get(name) or ()]
        for name in ("content", "tokens", "token_logprobs")
    }
    finish = next((c["finish_reason"] for c in reversed(choices) if c.get("finish_reason")), None)
    usage: Any = next((chunk["usage"] for chunk in reversed(chunks) if chunk.get("usage")), {})
    choice = {"message": {"content": "".join(texts)}, "finish_reason": finish, "logprobs": tokens}
    return {"choices": [choice], "usage": usage}


def joined_response(chunks: Sequence[Document]) -> dict[str, Any]:
    """The text as its pieces came; status and usage as the last event has them."""
    ended: Any = next((c["response"] for c in reversed(chunks) if "response" in c), {})
    text = "".join(c["delta"] for c in chunks if c.get("type") == "response.output_text.delta")
    part = {"type": "output_text", "text": text}
    return {**ended, "output": [{"type": "message", "content": [part]}]}


def joined_message(chunks: Sequence[Document]) -> dict[str, Any]:
    message: dict[str, Any] = {}
    usage: dict[str, Any] = {}
    texts = []
    for chunk in chunks:
        message |= chunk.get("message") or {}
        usage |= (chunk.get("message") or {}).get("usage") or {}
        usage |= {k: v for k, v in (chunk.get("usage") or {}).items() if v is not None}
        delta = chunk.get("delta") or {}
        texts += [delta["text"]] if "text" in delta else []
        message |= {"stop_reason": delta["stop_reason"]} if "stop_reason" in delta else {}
    return {**message, "usage": usage, "content": [{"type": "text", "text": "".join(texts)}]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one route's documents and streams are read."""

    read: Callable[[Any], Answer]
    join: Callable[[Sequence[Document]], dict[str, Any]]


DIALECTS = {
    "/v1/chat/completions": Dialect(read=read_answer, join=joined_completion),
    "/v1/completions": Dialect(read=read_answer, join=joined_completion),
    "/v1/responses": Dialect(read=read_response, join=joined_response),
    "/v1/messages": Dialect(read=read_message, join=joined_message),
}


def _tokens(logprobs: Any) -> tuple[Token, ...] | None:
    """Of a chat's shape (`content`) or of the older completions' (`tokens`, `token_logprobs`)."""
    if logprobs.get("content"):
        return tuple(map(_token, logprobs["content"]))
    texts, values = logprobs.get("tokens") or (), logprobs.get("token_logprobs") or ()
    pairs = [(t, p) for t, p in zip(texts, values, strict=False) if p is not None]
    return tuple(Token(text=t, logprob=float(p)) for t, p in pairs) or None


def _token(entry: Any) -> Token:
    return Token(
        text=entry["token"],
        logprob=float(entry["logprob"]),
        raw=bytes(entry["bytes"]) if entry.get("bytes") is not None else None,
        top=tuple((x["token"], float(x["logprob"])) for x in entry.get("top_logprobs") or ()),
        id=entry["id"] if isinstance(entry.get("id"), int) else None,
    )
