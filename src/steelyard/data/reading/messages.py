"""One message of a chat, from the words of OpenAI, ShareGPT, LLaMA-Factory and ms-swift to ours.

A message keeps everything that a chat template can render: content, thought, calls of tools, results of
tools. What no template of a text model can render is refused with its reason, never taught as something else.
Pure. Raises Misfit, whose text never quotes the record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from ..row import ROLES, Message, dumped

ROLE_WORDS = {
    "human": "user", "user": "user",
    "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "model": "assistant", "system": "system", "developer": "developer",
    "tool": "tool", "observation": "tool", "function": "tool", "tool_response": "tool",
    "function_call": "call", "tool_call": "call",
}  # fmt: skip
THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # DeepSeek and vLLM, OpenRouter, Ollama
UNTAUGHT = ("train", "loss")  # Axolotl, ms-swift: false is OpenAI's weight 0
MEDIA_PARTS = ("image_url", "image", "input_audio", "audio", "video", "file", "input_image", "tool_use")
MEDIA = ("images", "image", "videos", "video", "audios", "audio")


class Misfit(Exception):
    """The record fits no shape; the text says why, `kind` is the reason in the account."""

    def __init__(self, why: str, kind: str = "wrong_shape") -> None:
        super().__init__(why)
        self.kind = kind


def chat_of(turns: Sequence[Any]) -> tuple[Message, ...]:
    """The messages of a list of turns; calls that follow an assistant's text belong to its message."""
    out: list[Message] = []
    for turn in turns:
        message = message_of(turn)
        if is_bare_call(turn) and out and out[-1]["role"] == "assistant":
            calls = [*out[-1].get("tool_calls", []), *message["tool_calls"]]
            out[-1] = {**out[-1], "tool_calls": calls}
        else:
            out.append(message)
    return tuple(out)


def is_bare_call(turn: Mapping[str, Any]) -> bool:
    """A turn that is a call and nothing else, as ShareGPT and ms-swift write them."""
    return ROLE_WORDS.get(str(turn.get("role", turn.get("from")))) == "call"


def message_of(turn: Any) -> Message:
    """One message. Raises Misfit."""
    if not isinstance(turn, dict):
        raise Misfit("a message is no object")
    if "role" not in turn and "from" not in turn:
        raise Misfit("a message has no role")
    word = turn["role"] if "role" in turn else turn["from"]
    role = ROLE_WORDS.get(word) if isinstance(word, str) else None
    if role is None:
        raise Misfit(f"a message has a role that is none of {', '.join(ROLES)}")
    refuse_media(turn)
    given = turn.get("content", turn.get("value"))
    if role == "call":
        return {"role": "assistant", "content": "", "tool_calls": calls_of(given)}
    content = dumped(given) if role == "tool" and is_data(given) else content_text(given)
    return {"role": role, "content": content, **beside(turn, role)}


def beside(turn: Mapping[str, Any], role: str) -> dict[str, Any]:
    """What stands beside the content: calls, thought and weight of an answer; name and call of a result."""
    more: dict[str, Any] = {}
    if role == "assistant":
        if calls := turn.get("tool_calls") or turn.get("function_call"):
            more["tool_calls"] = calls_of(calls)
        if thought := next((turn[name] for name in THOUGHTS if turn.get(name)), None):
            more["reasoning_content"] = content_text(thought)
        if (weight := weight_of(turn)) is not None:
            more["weight"] = weight
    for name in ("name", "tool_call_id"):
        if isinstance(turn.get(name), str) and turn[name]:
            more[name] = turn[name]
    return more


def weight_of(turn: Mapping[str, Any]) -> int | None:
    """1 = this answer is learnt, 0 = it is only read; None where the row does not say. Raises Misfit."""
    weight = turn.get("weight")
    if weight is not None:
        if isinstance(weight, bool) or weight not in (0, 1):
            raise Misfit("the weight of a message is neither 0 nor 1")
        return int(weight)
    return 0 if any(turn.get(name) is False for name in UNTAUGHT) else None


# ------------------------------------------------------------------ content


def content_text(content: Any) -> str:
    """Text of a message; of a list of parts, the text parts joined. Raises Misfit."""
    if content is None:
        return ""
    if isinstance(content, list):
        return "".join(map(part_text, content))
    if not isinstance(content, str):
        raise Misfit("a message has content that is no text")
    return content


def part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and isinstance(part.get("text"), str) and part.get("type", "text") == "text":
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else None
    named = f" (type {kind})" if kind in MEDIA_PARTS else ""
    raise Misfit(f"a message has a part that is no text{named}", "not_text")


def refuse_media(turn: Mapping[str, Any]) -> None:
    """Pictures and sound beside the text would be lost. Raises Misfit."""
    name = next((m for m in MEDIA if isinstance(turn.get(m), list | dict) and turn[m]), None)
    if name:
        raise Misfit(f"it has {name}, and only text can be taught", "not_text")


def is_data(content: Any) -> bool:
    """A tool's result that is an object or a list of them, not a list of parts."""
    if isinstance(content, list):
        return not all(isinstance(p, dict) and "type" in p for p in content)
    return isinstance(content, dict | int | float | bool)


# ------------------------------------------------------------------ tools


def calls_of(given: Any) -> list[dict[str, Any]]:
    """Calls as OpenAI writes them, arguments as JSON text: a row can be sent as it is. Raises Misfit."""
    given = decoded(given)
    calls = given if isinstance(given, list) else [given]
    if not calls:
        raise Misfit("a message names no call where one belongs")
    return [call_of(call) for call in calls]


def call_of(given: Any) -> dict[str, Any]:
    function = given.get("function", given) if isinstance(given, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise Misfit("a call of a tool has no name")
    arguments = function.get("arguments", function.get("parameters"))
    if not isinstance(decoded({} if arguments is None else arguments), dict | str):
        raise Misfit("the arguments of a call are no object")
    text = arguments if isinstance(arguments, str) else dumped(arguments or {})
    called = {"name": function["name"], "arguments": text}
    call: dict[str, Any] = {"type": "function", "function": called}
    return {"id": given["id"], **call} if isinstance(given.get("id"), str) else call


def tools_of(given: Any) -> tuple[dict[str, Any], ...]:
    """A row's tools, from a list or from its JSON as text, each as OpenAI writes it. Raises Misfit."""
    given = decoded(given)
    if given is None or given == "" or given == []:
        return ()
    tools = given if isinstance(given, list) else [given]
    return tuple(tool_of(tool) for tool in tools)


def tool_of(given: Any) -> dict[str, Any]:
    given = decoded(given)
    function = given.get("function", given) if isinstance(given, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Misfit("a tool has no name")
    return given if "function" in given else {"type": "function", "function": given}


def decoded(given: Any) -> Any:
    """JSON text as its value; any other text as it is."""
    if not isinstance(given, str) or given.lstrip()[:1] not in ("{", "["):
        return given
    try:
        return orjson.loads(given)
    except orjson.JSONDecodeError:
        return given
