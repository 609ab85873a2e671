"""From the fields of one record to a chat or a text: the shapes that people's files have.

Pure: a record in, a row's content out. Raises Misfit, whose text never quotes the record. Not here: how pairs
and rated answers are written (comparisons.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from ..row import Message, dumped
from .comparisons import LABELS, NO_REJECTED, PAIRS, is_pair, label_of, pair_of, refuse_comparison
from .messages import Misfit, chat_of, refuse_media, tools_of

Fields = Mapping[str, Any]
MapNames = Mapping[str, tuple[str, ...]]  # our word -> columns; several are joined by a line end
# Words of `map:`, with those of other trainers; the first name is ours.
MAP_WORDS = {"user": "user", "prompt": "user", "question": "user", "instruction": "user",
             "assistant": "assistant", "completion": "assistant", "answer": "assistant",
             "output": "assistant", "response": "assistant", "chosen": "assistant", "rejected": "rejected",
             "system": "system", "thread": "thread", "text": "text", "id": "id", "accept": "accept",
             "compare": "compare", "tools": "tools"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Content:
    """What a record says: `messages` or `text`, one of them None, and the tools a chat may call.

    Of a pair the chat ends with the better answer; `rejected` is the worse one. `label`: a rated answer's.
    """

    messages: tuple[Message, ...] | None = None
    text: str | None = None
    tools: tuple[dict[str, Any], ...] = ()
    rejected: Message | None = None
    label: bool | None = None


def filled(value: Any) -> str:
    """A cell as text: None is empty, a whole float loses its point."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, dict | list):
        return dumped(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def string(fields: Fields, name: str) -> str:
    value = fields.get(name)
    if isinstance(value, dict | list):
        raise Misfit(f"field {name!r} is no text")
    return filled(value)


# ------------------------------------------------------------------ the shapes


def from_messages(fields: Fields) -> Content:
    turns = listed(fields["messages"], "messages")
    return Content(chat_of(turns), tools=tools_of(fields.get("tools")))


def from_sharegpt(fields: Fields) -> Content:
    turns = listed(fields["conversations"], "conversations")
    system = chat(string(fields, "system"), None, None)
    return Content((*system, *chat_of(turns)), tools=tools_of(fields.get("tools")))


def from_prompt(fields: Fields) -> Content:
    prompt, completion = fields["prompt"], fields["completion"]
    tools = tools_of(fields.get("tools"))
    if isinstance(prompt, list) or isinstance(completion, list):
        turns = listed(prompt, "prompt", "user") + listed(completion, "completion", "assistant")
        return Content(chat_of(turns), tools=tools)
    pair = chat(string(fields, "system"), string(fields, "prompt"), string(fields, "completion"))
    return Content(pair, tools=tools)


def from_alpaca(fields: Fields) -> Content:
    question = "\n".join(filter(None, (string(fields, "instruction"), string(fields, "input"))))
    history: list[Message] = []
    for pair in fields.get("history") or []:
        if not isinstance(pair, list) or len(pair) != 2:
            raise Misfit("'history' is no list of pairs")
        history += chat("", filled(pair[0]), filled(pair[1]))
    last = chat("", question, string(fields, "output"))
    system = chat(string(fields, "system"), None, None)
    return Content((*system, *history, *last), tools=tools_of(fields.get("tools")))


def from_question(fields: Fields) -> Content:
    return Content(chat(string(fields, "system"), string(fields, "question"), string(fields, "answer")))


def from_roles(fields: Fields) -> Content:
    return Content(chat(string(fields, "system"), string(fields, "user"), string(fields, "assistant")))


def from_text(fields: Fields) -> Content:
    if not isinstance(fields["text"], str):
        raise Misfit("field 'text' is no text")
    return Content(text=fields["text"])


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


def content_of(fields: Fields, shape: str | None, kinds: Sequence[str] = ()) -> Content:
    """The chat or text in `fields`; `shape` None = by the fields themselves. Raises Misfit.

    `kinds`: pairs and rated answers (`labels`) are taken where they stand in it, else refused.
    """
    refuse_comparison(fields, kinds)
    if PAIRS in kinds and is_pair(fields):
        refuse_media(fields)
        messages, rejected = pair_of(fields, chat_in)
        return Content(messages, tools=tools_in(fields), rejected=rejected)
    content = plain_content(fields, shape)
    label = label_of(fields) if LABELS in kinds and content.messages else None
    return content if label is None else replace(content, label=label)


def plain_content(fields: Fields, shape: str | None) -> Content:
    if "text" not in fields:
        refuse_media(fields)
    name = shape or shape_of(fields)
    if name is None:
        raise Misfit(f"fields {', '.join(map(repr, list(fields)[:8])) or '(none)'} fit no known shape")
    keys, reader = SHAPES[name]
    if missing := [k for k in keys if k not in fields]:
        raise Misfit(f"field {missing[0]!r} is missing")
    return reader(fields)


def chat_in(fields: Fields) -> tuple[Message, ...]:
    """The messages of what stands before the answers of a pair."""
    return tuple(m for m in plain_content(fields, None).messages or () if m["content"] or m.get("tool_calls"))


def tools_in(fields: Fields) -> tuple[dict[str, Any], ...]:
    given = fields["input"] if isinstance(fields.get("input"), dict) else fields
    return tools_of(given.get("tools"))


def mapped(fields: Fields, names: MapNames) -> Content:
    """The chat or text in the columns that `map` names. Raises Misfit."""
    if "text" in names:
        return Content(text=joined_cells(fields, names["text"]))
    question = joined_cells(fields, names["user"]) if "user" in names else None
    answer = joined_cells(fields, names["assistant"]) if "assistant" in names else None
    system = joined_cells(fields, names.get("system", ()))
    tools = tools_of(fields.get(names["tools"][0])) if "tools" in names else ()
    if "rejected" not in names:
        return Content(chat(system, question, answer), tools=tools)
    rejected = joined_cells(fields, names["rejected"])
    if not rejected.strip():
        raise Misfit(NO_REJECTED, "no_rejected")
    return Content(
        chat(system, question, answer), tools=tools, rejected={"role": "assistant", "content": rejected}
    )


def joined_cells(fields: Fields, columns: Sequence[str]) -> str:
    """The filled cells of the columns, each on its own line."""
    return "\n".join(filter(None, (string(fields, column) for column in columns)))


# ------------------------------------------------------------------ parts


def chat(system: str, question: str | None, answer: str | None) -> tuple[Message, ...]:
    """A chat of one turn; an empty system prompt is none."""
    turns = (("system", system or None), ("user", question), ("assistant", answer))
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
