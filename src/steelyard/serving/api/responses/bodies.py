"""Bodies of /v1/responses, and their items as the messages of a chat."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from annotated_types import Len
from pydantic import BaseModel, Field

from ...base.errors import ApiError
from ...base.limits import MESSAGES, check_json_text
from ...host.job import ANY_OBJECT, Constraint, Job
from ...turn.api import Api
from ...turn.bodies import FIRST_FAULT, OPEN, Sampling, Texts, job
from ...turn.chat import switches
from ...turn.constraints import check, schema_of
from ...turn.tools import Function, Tools, choose_of, function_of

TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text", "refusal")


class ContentPart(BaseModel):
    """Text of some kind; images and files are refused."""

    model_config = OPEN
    type: str
    text: str | None = None


Parts = Annotated[list[ContentPart], FIRST_FAULT]


class InputItem(BaseModel):
    """A message, a function call, its output, reasoning, or a reference to an item of a stored response."""

    model_config = OPEN
    type: str | None = Field(
        None,
        description="message | function_call | function_call_output | custom_tool_call | "
        "custom_tool_call_output | reasoning | compaction | item_reference",
    )
    id: str | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | Parts | None = None
    summary: Parts | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | Parts | None = None
    input: str | None = None
    encrypted_content: str | None = Field(None, description="of a compaction: the summary, in plain words")


class TextFormat(BaseModel):
    model_config = OPEN
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None

    def document(self) -> dict[str, Any]:
        """As a response tells of it."""
        if self.type != "json_schema":
            return {"type": self.type}
        return {**self.model_dump(by_alias=True), "strict": self.strict is True}


class TextConfig(BaseModel):
    model_config = OPEN
    format: TextFormat | None = None


class Reasoning(BaseModel):
    model_config = OPEN
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None


Items = str | Annotated[list[InputItem], Len(0, MESSAGES), FIRST_FAULT] | None


class ResponsesInput(BaseModel):
    """What decides how many tokens a request reads."""

    model_config = OPEN
    model: str = "default"
    input: Items = None
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["auto", "disabled"] | None = None


class CompactBody(BaseModel):
    """A conversation that a summary is to stand for."""

    model_config = OPEN
    model: str
    input: Items = None
    instructions: str | None = None
    previous_response_id: str | None = None


class ResponsesBody(ResponsesInput):
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    store: bool | None = None
    background: bool | None = None
    max_output_tokens: int | None = Field(None, ge=-1, description="-1: as many as there is room for")
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = None
    stop: str | Texts | None = None
    ignore_eos: bool | None = None
    cache_salt: str | None = Field(None, min_length=1, max_length=256)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    include: list[str] | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = Field(None, max_length=64)
    priority: int | None = None
    timeout: float | None = Field(None, gt=0)


def _differs_from(*neutral: Any) -> Callable[[Any], bool]:
    return lambda value: value not in (None, False, "", [], {}, *neutral)


UNSUPPORTED: dict[str, Callable[[Any], bool]] = {
    "conversation": _differs_from(),
    "prompt": _differs_from(),
    "moderation": _differs_from(),
    "background_options": _differs_from({"completion_window": "soonest"}),
    "image": _differs_from(),
}
HARMLESS = frozenset({
    "user", "safety_identifier", "prompt_cache_key", "prompt_cache_options", "max_tool_calls",
    "access_programs",
})  # fmt: skip
SUMMARY = "What was said before, in short:\n"
LOGPROBS = "message.output_text.logprobs"
INCLUDE = (LOGPROBS, "reasoning.encrypted_content")  # nothing is encrypted: reasoning is given as it is
CUSTOM = {  # a tool that takes a text: what the model is shown in its place
    "type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"],
    "additionalProperties": False,
}  # fmt: skip


def job_of(api: Api, body: ResponsesBody, constraint: Constraint | None, asked: str) -> Job:
    """`asked`: what a router reads. Raises ApiError 400."""
    wants = LOGPROBS in (body.include or ()) or body.top_logprobs
    if wants and body.top_logprobs and not api.capability.top_logprobs:
        raise ApiError(400, "this engine has no top_logprobs here", "top_logprobs", "unsupported_parameter")
    same = (
        "model", "temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty", "seed", "stop",
        "ignore_eos", "stream", "cache_salt",
    )  # fmt: skip
    sampling = Sampling.model_validate({name: getattr(body, name) for name in same})
    return job(api, sampling, (body.top_logprobs or 0) if wants else None, constraint, asked)


def format_of(api: Api, body: ResponsesInput) -> Constraint | None:
    """Raises ApiError 400."""
    wanted = body.text.format if body.text else None
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return check(ANY_OBJECT, api.capability, "text.format")
    if wanted.schema_ is None:
        raise ApiError(400, "text.format json_schema needs a schema", "text.format")
    return check(schema_of(wanted.schema_, "text.format"), api.capability, "text.format")


def tools_of(body: ResponsesInput) -> Tools:
    """Functions and custom tools; those of a server are left out. Raises ApiError 400."""
    functions = [_function(tool) for tool in body.tools or () if tool.get("type") in ("function", "custom")]
    choice = body.tool_choice
    if isinstance(choice, dict) and choice.get("type") == "custom":
        choice = {**choice, "type": "function"}
    return choose_of(functions, choice, body.parallel_tool_calls)


def _function(tool: dict[str, Any]) -> Function:
    """A custom tool takes a text: it is shown as a function of one, with the text's grammar in words."""
    if tool["type"] == "function":
        return function_of(tool)
    format = tool.get("format") or {}
    grammar = format.get("definition") if isinstance(format, dict) else None
    words = [text for text in (tool.get("description"), grammar and f"`input` keeps to:\n{grammar}") if text]
    return function_of({**tool, "parameters": CUSTOM, "description": "\n\n".join(words) or None})


def custom_names(body: ResponsesInput) -> frozenset[str]:
    return frozenset(
        tool["name"] for tool in body.tools or () if tool.get("type") == "custom" and "name" in tool
    )


def without_effect(api: Api, body: ResponsesInput) -> list[str]:
    """Names of what was asked and has no effect: tools that a server runs, what none can include."""
    kinds = {str(tool.get("type")) for tool in body.tools or ()} - {"function", "custom"}
    others = {name for name in getattr(body, "include", None) or () if name not in INCLUDE}
    names = [*(f"tools.{kind}" for kind in sorted(kinds)), *(f"include.{name}" for name in sorted(others))]
    if body.reasoning and switches(api, body.reasoning.effort) is None:
        names.append("reasoning.effort")
    return [name for name in names if HEADER.fullmatch(name)]


HEADER = re.compile(r"[\w.\[\]-]{1,100}", re.ASCII)


def with_ids(body: ResponsesInput, new_id: Callable[[str], str]) -> list[dict[str, Any]]:
    """Input items as they are stored and listed."""
    if body.input is None:
        return []
    if isinstance(body.input, str):
        content = [{"type": "input_text", "text": body.input}]
        return [{"id": new_id("msg_"), "type": "message", "role": "user", "content": content}]
    return [_with_id(item.model_dump(exclude_none=True), new_id) for item in body.input]


def _with_id(item: dict[str, Any], new_id: Callable[[str], str]) -> dict[str, Any]:
    kind = item.get("type") or "message"
    prefix = {"message": "msg_", "function_call": "fc_", "reasoning": "rs_"}.get(kind, "item_")
    content = item.get("content")
    if kind == "message" and isinstance(content, str):
        part = "output_text" if item.get("role") == "assistant" else "input_text"
        more: dict[str, Any] = {"annotations": []} if part == "output_text" else {}
        item["content"] = [{"type": part, "text": content, **more}]
    return {"id": new_id(prefix), "status": "completed", **item, "type": kind}


def messages_of(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Stored items as a chat. Raises ApiError 400 for what has no place in one."""
    messages: list[dict[str, Any]] = []
    thought = ""
    for item in items:
        kind = item["type"]
        if kind == "reasoning":
            thought = _text(item.get("content") or item.get("summary"))
        elif kind in ("function_call", "custom_tool_call"):
            _assistant(messages, thought)["tool_calls"].append(_call(item))
            thought = ""
        elif kind in ("function_call_output", "custom_tool_call_output"):
            messages.append(_output(item))
        elif kind == "compaction":
            messages.append({"role": "system", "content": SUMMARY + (item.get("encrypted_content") or "")})
        elif kind == "message":
            message = _message(item)
            if message["role"] == "assistant" and thought:
                message["reasoning_content"], thought = thought, ""
            messages.append(message)
        else:
            raise ApiError(400, f"items of type {kind!r} are not supported", "input", "unsupported_parameter")
    return messages


def _message(item: dict[str, Any]) -> dict[str, Any]:
    role, content = item.get("role"), item.get("content")
    if role is None or content is None:
        raise ApiError(400, "a message has a role and content", param="input")
    return {"role": "system" if role == "developer" else role, "content": _text(content)}


def _text(content: str | list[dict[str, Any]] | None) -> str:
    if isinstance(content, list):
        if other := next((part["type"] for part in content if part["type"] not in TEXTS), None):
            raise ApiError(
                400, f"content of type {other!r} is not supported", "input", "unsupported_parameter"
            )
        return "\n".join(part.get("text") or part.get("refusal") or "" for part in content)
    return content or ""


def _assistant(messages: list[dict[str, Any]], thought: str) -> dict[str, Any]:
    """The assistant's message that calls belong to: the last one, or a new one."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    if thought:
        messages[-1]["reasoning_content"] = thought
    messages[-1].setdefault("tool_calls", [])
    return messages[-1]


def _call(item: dict[str, Any]) -> dict[str, Any]:
    if not (item.get("call_id") and item.get("name")):
        raise ApiError(400, f"a {item['type']} has call_id and name", param="input")
    check_json_text(item.get("arguments") or "", "input")
    arguments = item.get("arguments", "{}")
    if item["type"] == "custom_tool_call":
        arguments = json.dumps({"input": item.get("input") or ""}, ensure_ascii=False)
    function = {"name": item["name"], "arguments": arguments}
    return {"id": item["call_id"], "type": "function", "function": function}


def _output(item: dict[str, Any]) -> dict[str, Any]:
    if not item.get("call_id") or item.get("output") is None:
        raise ApiError(400, f"a {item['type']} has call_id and output", param="input")
    return {"role": "tool", "tool_call_id": item["call_id"], "content": _text(item["output"])}
