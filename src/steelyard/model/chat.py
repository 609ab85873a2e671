"""A chat in the form that its template reads: tools, calls, thoughts. Training, gate and serving share it.

A template that knows no tools gets Hermes' words in the system message, so that tools are never ignored.
Not here: the template itself (chat_template.py), which answers are taught (teaching.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import WrongUse

Message = Mapping[str, Any]

PREAMBLE = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> \
XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""

NO_PARAMETERS = {"type": "object", "properties": {}}
THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking")  # ours first; gpt-oss and LFM read the others


@dataclass(frozen=True, slots=True)
class CallForm:
    """How a template wants the calls of a message: most read objects, DeepSeek's templates read JSON text."""

    arguments_as_text: bool = False
    null_content: bool = False  # an empty text beside calls is None: R1's template drops the calls otherwise


CALL_FORMS = (
    CallForm(),
    CallForm(arguments_as_text=True),
    CallForm(null_content=True),
    CallForm(arguments_as_text=True, null_content=True),
)
PROBE_CALL = {
    "id": "call00001",  # nine characters: Mistral's templates refuse others
    "type": "function",
    "function": {"name": "probe_name", "arguments": {"probe_key": "probe_value"}},
}
PROBE_CHAT: tuple[Message, ...] = (
    {"role": "user", "content": "probe"},
    {"role": "assistant", "content": "", "tool_calls": [PROBE_CALL]},
)


def call_form(render: Callable[[Sequence[Message]], str]) -> CallForm:
    """The first form in which a template writes the name and the arguments of a call; the usual one else."""
    for form in CALL_FORMS:
        try:
            text = render([_in_form(message, form) for message in PROBE_CHAT])
        except WrongUse:
            continue
        if "probe_name" in text and "probe_key" in text and "probe_value" in text:
            return form
    return CALL_FORMS[0]


def thought_key(template: str) -> str:
    """The key under which a template reads the thought of a message."""
    keys = (key for key in THOUGHT_KEYS if re.search(rf"\.{key}\b|['\"]{key}['\"]", template))
    return next(keys, THOUGHT_KEYS[0])


def has_tools(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None) -> bool:
    """Does the chat define, call or answer a tool?"""
    return bool(tools) or any(m["role"] == "tool" or m.get("tool_calls") for m in messages)


def definition(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as the model is shown it: name, description, parameters, and nothing else."""
    function = tool.get("function", tool)
    about = {"description": function["description"]} if function.get("description") else {}
    body = {"name": function["name"], **about, "parameters": function.get("parameters") or NO_PARAMETERS}
    return {"type": "function", "function": body}


def readable(message: Message, form: CallForm, key: str) -> dict[str, Any]:
    """One message as a template with tools and thoughts reads it."""
    return _in_form(plain_message(message, key), form)


def plain_message(message: Message, key: str = THOUGHT_KEYS[0]) -> dict[str, Any]:
    """`developer` is `system`; a thought stands under `key`; an empty one, and no weight, stand nowhere."""
    out = {name: value for name, value in message.items() if name not in (*THOUGHT_KEYS, "weight")}
    if out["role"] == "developer":
        out["role"] = "system"
    thought = next((message[k] for k in THOUGHT_KEYS if message.get(k)), None)
    if isinstance(thought, str) and thought.strip():
        out[key] = thought
    if not out.get("tool_calls"):
        out.pop("tool_calls", None)  # templates ask whether the key is there
    return out


def _in_form(message: Message, form: CallForm) -> dict[str, Any]:
    if not message.get("tool_calls"):
        return dict(message)
    content = message.get("content") or (None if form.null_content else "")
    calls = [_call_in_form(call, form) for call in message["tool_calls"]]
    return {**message, "content": content, "tool_calls": calls}


def _call_in_form(call: Mapping[str, Any], form: CallForm) -> dict[str, Any]:
    function = dict(call.get("function", call))
    arguments = loaded(function.get("arguments"))
    as_text = form.arguments_as_text and not isinstance(arguments, str)
    function["arguments"] = json.dumps(arguments, ensure_ascii=False) if as_text else arguments
    about = {name: value for name, value in call.items() if name == "id"}
    return {**about, "type": "function", "function": function}


def loaded(arguments: Any) -> Any:
    """Arguments as an object; those that are no JSON (a model wrote them) stay as they are."""
    try:
        return json.loads(arguments or "{}") if isinstance(arguments, str | None) else arguments
    except (ValueError, RecursionError):
        return arguments


def in_words(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """The same chat for a template without tools: definitions, calls and results as text."""
    out: list[dict[str, Any]] = []
    if tools:
        system = messages[0] if messages and messages[0]["role"] == "system" else None
        begun = f"{system['content']}\n\n" if system else ""
        listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        out.append({"role": "system", "content": begun + PREAMBLE.format(tools=listed)})
        messages = messages[1:] if system else messages
    after_result = False
    for message in messages:
        if message["role"] == "tool" and after_result:
            out[-1]["content"] += "\n" + _result_in_words(message)
        elif message["role"] == "tool":
            out.append({"role": "user", "content": _result_in_words(message)})
        else:
            out.append(_message_in_words(message))
        after_result = message["role"] == "tool"
    return out


def _result_in_words(message: Message) -> str:
    return f"<tool_response>\n{message.get('content') or ''}\n</tool_response>"


def _message_in_words(message: Message) -> dict[str, Any]:
    if not message.get("tool_calls"):
        return dict(message)
    calls = "\n".join(_call_in_words(call) for call in message["tool_calls"])
    content = message.get("content")
    rest = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**rest, "content": f"{content}\n{calls}" if content else calls}


def _call_in_words(call: Mapping[str, Any]) -> str:
    function = call.get("function", call)
    body = {"name": function.get("name"), "arguments": loaded(function.get("arguments"))}
    return f"<tool_call>\n{json.dumps(body, ensure_ascii=False)}\n</tool_call>"
