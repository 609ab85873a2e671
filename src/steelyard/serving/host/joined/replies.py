"""What a joined server sends, checked before anything is made of it: it is somebody else's program."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeGuard

import orjson

CONTEXT = 1 << 20  # tokens, where no server says its own
MOST_TOKENS = 1 << 30  # of a context: no model has more, and whoever says so is not believed
MODELS = 4096  # of a list that are read
WORDS = 500  # characters of a server's own message that are passed on
RETRY_MOST_S = 3600.0
# Of `owned_by` in a list of models: servers that keep a prompt of another `cache_salt` out of the way. Others
# ignore the word, or refuse a request that has it.
SALTED = ("vllm", "sglang", "steelyard")


class Unreadable(ValueError):
    """It has none of the shapes that an OpenAI server gives it."""


@dataclass(frozen=True, slots=True)
class Card:
    """A model as the server lists it; `context`: tokens, where it says; `salted`: it takes a `cache_salt`."""

    id: str
    context: int | None
    salted: bool


def cards_of(content: bytes) -> list[Card]:
    """The body of /v1/models. Raises ValueError."""
    document = orjson.loads(content)
    listed = document.get("data") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise Unreadable("its list of models is none")
    return [_card(one) for one in listed[:MODELS] if isinstance(one, dict) and _is_name(one.get("id"))]


def _is_name(id: Any) -> bool:
    return isinstance(id, str) and 0 < len(id) <= WORDS


def _card(one: dict[str, Any]) -> Card:
    context = one.get("max_model_len")
    told = context if is_count(context, MOST_TOKENS) else 0
    return Card(one["id"], told or None, one.get("owned_by") in SALTED)


def is_count(value: Any, most: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


@dataclass(frozen=True, slots=True)
class Chunk:
    """One event of a streamed answer: what it adds, why the answer ends with it, what the server counts."""

    delta: dict[str, Any]
    finish: str | None
    usage: Any


def chunk_of(event: Mapping[str, Any]) -> Chunk:
    """Of a chat or a text completion. Raises Unreadable."""
    choices = _as(event.get("choices"), list, [])
    choice = _as(choices[0], dict, {}) if choices else {}
    delta = _as(choice.get("delta"), dict, {"content": choice.get("text")})
    said = {
        "content": _as(delta.get("content"), str, ""),
        "reasoning": _as(delta.get("reasoning_content"), str, "") or _as(delta.get("reasoning"), str, ""),
        "tool_calls": [_call(call) for call in _as(delta.get("tool_calls"), list, [])],
    }
    return Chunk(said, _as(choice.get("finish_reason"), str, None), event.get("usage"))


def _call(call: Any) -> dict[str, Any]:
    """What is read of a call, and no more."""
    call = _as(call, dict, {})
    function = _as(call.get("function"), dict, {})
    read = {name: _as(function.get(name), str, "") for name in ("name", "arguments")}
    given = {"index": _as(call.get("index"), int, None), "id": _as(call.get("id"), str, None)}
    return {**{name: value for name, value in given.items() if value is not None}, "function": read}


def _as(value: Any, kind: type, missing: Any) -> Any:
    if value is None:
        return missing
    if not isinstance(value, kind):
        raise Unreadable(f"an event holds a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def usage_of(usage: Any, most: int) -> tuple[tuple[int, int] | None, int | None]:
    """(Prompt and completion tokens), and those of the prompt that the server had in its cache.

    Nothing where one of them is no number, or more than `most`: then what is counted here stays.
    """
    if not isinstance(usage, dict):
        return None, None
    prompt, made = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
    if not (is_count(prompt, most) and is_count(made, most)):
        return None, None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return (prompt, made), cached if is_count(cached, prompt) else None


def said_of(document: Any) -> str:
    """The message of an error in any of the shapes that servers give it."""
    error = document.get("error", document) if isinstance(document, dict) else None
    message = error.get("message") or error.get("detail") if isinstance(error, dict) else error
    return f"the server says: {str(message or 'nothing')[:WORDS]}"


def seconds_of(text: str | None) -> float:
    """Of a Retry-After; 1 where it holds no seconds."""
    with suppress(TypeError, ValueError):
        if not math.isnan(seconds := float(text or "")):
            return min(max(seconds, 0.0), RETRY_MOST_S)
    return 1.0
