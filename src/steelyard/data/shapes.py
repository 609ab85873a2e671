"""From the fields of one record to a chat or a text: the shapes that people's files have.

Pure: a record in, a row's content out. Raises Misfit, whose text never quotes the record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from .row import ROLES, Message

Fields = Mapping[str, Any]
Content = tuple[tuple[Message, ...] | None, str | None]  # (messages, text), one of them None
SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
                  "chatgpt": "assistant", "bing": "assistant", "model": "assistant", "system": "system",
                  "tool": "tool", "observation": "tool"}  # fmt: skip
# Words of `map:`, with those of other trainers; the first name is ours.
MAP_WORDS = {"user": "user", "prompt": "user", "question": "user", "instruction": "user",
             "assistant": "assistant", "completion": "assistant", "answer": "assistant",
             "output": "assistant",
             "system": "system", "thread": "thread", "text": "text", "id": "id", "accept": "accept",
             "compare": "compare"}  # fmt: skip


class Misfit(Exception):
    """The record fits no shape; the text says why."""


def filled(value: Any) -> str:
    """A cell as text: None is empty, a whole float loses its point."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, dict | list):
        return orjson.dumps(value).decode()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def string(fields: Fields, name: str) -> str:
    value = fields.get(name)
    if value is not None and not isinstance(value, str | int | float):
        raise Misfit(f"field {name!r} is no text")
    return filled(value)


# ------------------------------------------------------------------ the shapes


def from_messages(fields: Fields) -> Content:
    turns = listed(fields["messages"], "messages")
    return tuple(message_of(turn) for turn in turns), None


def from_sharegpt(fields: Fields) -> Content:
    turns = listed(fields["conversations"], "conversations")
    system = [{"role": "system", "content": string(fields, "system")}] if fields.get("system") else []
    return (*system, *(message_of(turn) for turn in turns)), None


def from_prompt(fields: Fields) -> Content:
    prompt, completion = fields["prompt"], fields["completion"]
    if isinstance(prompt, list) or isinstance(completion, list):
        turns = listed(prompt, "prompt", "user") + listed(completion, "completion", "assistant")
        return tuple(message_of(turn) for turn in turns), None
    return chat(string(fields, "system"), string(fields, "prompt"), string(fields, "completion")), None


def from_alpaca(fields: Fields) -> Content:
    asked = "\n".join(filter(None, (string(fields, "instruction"), string(fields, "input"))))
    history: list[Message] = []
    for pair in fields.get("history") or []:
        if not isinstance(pair, list) or len(pair) != 2:
            raise Misfit("'history' is no list of pairs")
        history += chat("", filled(pair[0]), filled(pair[1]))
    last = chat("", asked, string(fields, "output"))
    system = chat(string(fields, "system"), None, None)
    return (*system, *history, *last), None


def from_question(fields: Fields) -> Content:
    return chat("", string(fields, "question"), string(fields, "answer")), None


def from_roles(fields: Fields) -> Content:
    return chat(string(fields, "system"), string(fields, "user"), string(fields, "assistant")), None


def from_text(fields: Fields) -> Content:
    if not isinstance(fields["text"], str):
        raise Misfit("field 'text' is no text")
    return None, fields["text"]


# Name: (fields that show it, reader); the first that matches is taken.
SHAPES: dict[str, tuple[tuple[str, ...], Callable[[Fields], Content]]] = {
    "messages": (("messages",), from_messages),
    "sharegpt": (("conversations",), from_sharegpt),
    "prompt": (("prompt", "completion"), from_prompt),
    "alpaca": (("instruction", "output"), from_alpaca),
    "roles": (("user", "assistant"), from_roles),
    "qa": (("question", "answer"), from_question),
    "text": (("text",), from_text),
}


def shape_of(fields: Fields) -> str | None:
    """The first shape whose fields are there."""
    return next((name for name, (keys, _) in SHAPES.items() if all(k in fields for k in keys)), None)


def content_of(fields: Fields, shape: str | None) -> Content:
    """The chat or text in `fields`; `shape` None = seen from the fields. Raises Misfit."""
    name = shape or shape_of(fields)
    if name is None:
        raise Misfit(f"fields {', '.join(map(repr, list(fields)[:8])) or '(none)'} fit no known shape")
    keys, reader = SHAPES[name]
    if missing := [k for k in keys if k not in fields]:
        raise Misfit(f"field {missing[0]!r} is missing")
    return reader(fields)


def mapped(fields: Fields, names: Mapping[str, str]) -> Content:
    """The chat or text in the columns that `map` names. Raises Misfit."""
    if "text" in names:
        return None, string(fields, names["text"])
    asked = string(fields, names["user"]) if "user" in names else None
    answer = string(fields, names["assistant"]) if "assistant" in names else None
    return chat(string(fields, names["system"]) if "system" in names else "", asked, answer), None


# ------------------------------------------------------------------ parts


def chat(system: str, asked: str | None, answer: str | None) -> tuple[Message, ...]:
    """A chat of one turn; an empty system prompt is none."""
    turns = (("system", system or None), ("user", asked), ("assistant", answer))
    return tuple({"role": role, "content": content} for role, content in turns if content is not None)


def listed(value: Any, name: str, role: str = "user") -> list[Any]:
    """A list of turns; in a table's cell it is JSON text, in prompt/completion it may be a plain text."""
    if isinstance(value, str) and name in ("messages", "conversations"):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as e:
            raise Misfit(f"field {name!r} is no list of messages") from e
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, list):
        raise Misfit(f"field {name!r} is no list of messages")
    return value


def message_of(turn: Any) -> Message:
    """One message, in OpenAI's words or ShareGPT's. Raises Misfit."""
    if not isinstance(turn, dict):
        raise Misfit("a message is no object")
    if "role" in turn:
        role, content = turn["role"], turn.get("content", "")
    elif "from" in turn:
        role, content = SHAREGPT_ROLES.get(str(turn["from"])), turn.get("value", "")
    else:
        raise Misfit("a message has no role")
    role = SHAREGPT_ROLES.get(role, role) if isinstance(role, str) else None
    if role not in ROLES:
        raise Misfit(f"a message has a role that is none of {', '.join(ROLES)}")
    return {"role": role, "content": content_text(content)}


def content_text(content: Any) -> str:
    """Text of a message; of a list of parts, the text parts."""
    if isinstance(content, list):
        parts = [p.get("text") for p in content if isinstance(p, dict) and p.get("type") == "text"]
        if len(parts) == len(content) and all(isinstance(p, str) for p in parts):
            return "".join(parts)  # type: ignore[arg-type]
        raise Misfit("a message has parts that are no text")
    if content is None:
        return ""
    if not isinstance(content, str):
        raise Misfit("a message has content that is no text")
    return content
