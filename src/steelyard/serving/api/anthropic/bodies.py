"""Bodies of Anthropic's /v1/messages, and their blocks as the messages of a chat."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from ...base.errors import ApiError
from ...base.limits import MESSAGES, check_stops
from ...host.job import Constraint, Job
from ...turn.api import Api
from ...turn.bodies import FIRST_FAULT, OPEN, Sampling, Texts, cannot, job
from ...turn.chat import switches
from ...turn.constraints import check, schema_of
from ...turn.tools import Function, Tools, choose


class Block(BaseModel):
    """text, thinking, tool_use or tool_result; images and documents are refused."""

    model_config = OPEN
    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list[dict[str, Any]] | None = None
    is_error: bool | None = None


class InputMessage(BaseModel):
    model_config = OPEN
    role: Literal["user", "assistant", "system"]
    content: str | Annotated[list[Block], FIRST_FAULT]


class Tool(BaseModel):
    model_config = OPEN
    name: str
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class ToolChoice(BaseModel):
    model_config = OPEN
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(BaseModel):
    model_config = OPEN
    type: Literal["enabled", "disabled", "adaptive"]


class OutputFormat(BaseModel):
    model_config = OPEN
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(BaseModel):
    model_config = OPEN
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class MessagesInput(BaseModel):
    """What decides how many tokens a request reads."""

    model_config = OPEN
    model: str = "default"
    messages: list[InputMessage] = Field(min_length=1, max_length=MESSAGES)
    system: str | Annotated[list[Block], FIRST_FAULT] | None = None
    tools: list[Tool] | None = Field(None, max_length=MESSAGES)
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None


class MessagesBody(MessagesInput):
    max_tokens: int = Field(ge=1)
    stream: bool | None = None
    temperature: float | None = Field(None, ge=0, le=1)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    stop_sequences: Texts | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = Field(None, max_length=64)
    ignore_eos: bool | None = None
    seed: int | None = None
    timeout: float | None = Field(None, gt=0)


def _differs_from(*neutral: Any) -> Callable[[Any], bool]:
    return lambda value: value not in (None, False, "", [], {}, *neutral)


UNSUPPORTED: dict[str, Callable[[Any], bool]] = {
    "container": _differs_from(),
    "mcp_servers": _differs_from(),
    "speed": _differs_from("standard"),
    "inference_geo": _differs_from(),
}
HARMLESS = frozenset({"cache_control", "user_profile_id", "workspace_id", "diagnostics", "betas"})


def job_of(api: Api, body: MessagesBody, constraint: Constraint | None, asked: str) -> Job:
    """`asked`: what a router reads. Raises ApiError 400."""
    check_stops(tuple(body.stop_sequences or ()), "stop_sequences")
    same = ("model", "temperature", "top_p", "top_k", "seed", "ignore_eos", "stream")
    given = {name: getattr(body, name) for name in same}
    sampling = Sampling.model_validate({**given, "stop": body.stop_sequences})
    return job(api, sampling, None, constraint, asked)


def format_of(api: Api, body: MessagesInput) -> Constraint | None:
    """Raises ApiError 400."""
    wanted = body.output_config.format if body.output_config else None
    if wanted is None:
        return None
    return check(schema_of(wanted.schema_, "output_config.format"), api.capability, "output_config.format")


def variables_of(api: Api, body: MessagesInput) -> dict[str, Any]:
    """How much to think, as variables of the template."""
    return _switched(api, body)[0]


def without_effect(api: Api, body: MessagesInput) -> list[str]:
    """Names of what was asked and has no effect: thinking where there is no switch, tools of a server."""
    dropped = {f"tools.{tool.type}" for tool in body.tools or () if _is_servers(tool)}
    return [*_switched(api, body)[1], *sorted(filter(NAME.fullmatch, dropped))]


def _switched(api: Api, body: MessagesInput) -> tuple[dict[str, Any], list[str]]:
    """Variables of the template, and the fields that it has no variable for."""
    thinking = body.thinking.type if body.thinking else None
    template = api.tokenizer.template_text or ""
    if thinking == "enabled":
        able = "enable_thinking" in template
        return ({"enable_thinking": True} if able else {}), ([] if "think" in template else ["thinking"])
    if thinking == "disabled":
        switched = switches(api, "none")
        return switched or {}, ["thinking"] if switched is None else []
    switched = switches(api, body.output_config.effort if body.output_config else None)
    return switched or {}, ["output_config.effort"] if switched is None else []


NAME = re.compile(r"[\w.-]{1,100}", re.ASCII)  # what a header may name
# Tools that Anthropic's servers run; their names go on with a date.
SERVERS = ("web_search_", "web_fetch_", "code_execution_", "tool_search_", "mcp_toolset", "advisor_")


def _is_servers(tool: Tool) -> bool:
    return (tool.type or "").startswith(SERVERS)


def tools_of(body: MessagesInput) -> Tools:
    """Without those that run on a server: there is none here. Raises ApiError 400."""
    functions = [_function(tool) for tool in body.tools or () if not _is_servers(tool)]
    choice = body.tool_choice
    if choice is None:
        return choose(functions, "auto", None, None)
    if choice.type == "tool" and choice.name is None:
        raise ApiError(400, "tool_choice tool needs a name", param="tool_choice")
    mode = {"any": "required", "tool": "named"}.get(choice.type, choice.type)
    names = [choice.name] if choice.type == "tool" and choice.name else None
    return choose(functions, mode, names, not choice.disable_parallel_tool_use)


def _function(tool: Tool) -> Function:
    if tool.type not in (None, "custom"):
        raise cannot("tools", f"tools of type {tool.type!r} are known to Anthropic's models only")
    if tool.input_schema is None:
        raise ApiError(400, "a tool needs an input_schema", param="tools")
    return Function(
        name=tool.name, description=tool.description, parameters=tool.input_schema, strict=bool(tool.strict)
    )


def messages_of(body: MessagesInput) -> tuple[list[dict[str, Any]], str]:
    """The chat, and the beginning of the answer where the last message is the assistant's."""
    messages = [{"role": "system", "content": _text(body.system)}] if body.system else []
    for turn in body.messages:
        for message in _turn_messages(turn):
            _add(messages, message)
    last = messages[-1]
    if last["role"] == "assistant" and not last.get("tool_calls"):
        return messages[:-1], last["content"].rstrip()
    return messages, ""


def _add(messages: list[dict[str, Any]], message: dict[str, Any]) -> None:
    """Messages of one role in a row are one turn."""
    last = messages[-1] if messages else None
    if last and last["role"] == message["role"] != "tool" and not last.get("tool_calls"):
        text = "\n".join(text for text in (last["content"], message["content"]) if text)
        messages[-1] = {**last, **message, "content": text}
    else:
        messages.append(message)


def _turn_messages(turn: InputMessage) -> list[dict[str, Any]]:
    """Results of tools come first: they answer the assistant's last turn."""
    if isinstance(turn.content, str):
        return [{"role": turn.role, "content": turn.content}]
    blocks = turn.content
    results = [_result(block) for block in blocks if block.type == "tool_result"]
    rest = [block for block in blocks if block.type != "tool_result"]
    if results and turn.role != "user":
        raise ApiError(400, "tool_result blocks stand in a user message", param="messages")
    return [*results, *([_message(turn.role, rest)] if rest or not results else [])]


def _message(role: str, blocks: list[Block]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": role, "content": _text([b for b in blocks if b.type not in _SPOKEN])}
    if role == "assistant":
        thought = "".join(block.thinking or "" for block in blocks if block.type == "thinking")
        calls = [_call(block) for block in blocks if block.type == "tool_use"]
        message |= ({"reasoning_content": thought} if thought else {}) | (
            {"tool_calls": calls} if calls else {}
        )
    elif other := next((b.type for b in blocks if b.type in _SPOKEN), None):
        raise ApiError(400, f"{other} blocks stand in an assistant message", param="messages")
    return message


_SPOKEN = ("tool_use", "thinking", "redacted_thinking")


def _text(content: str | list[Block] | None) -> str:
    if isinstance(content, list):
        if other := next((block.type for block in content if block.type != "text"), None):
            raise cannot("messages", f"content blocks of type {other!r}")
        return "\n".join(block.text or "" for block in content)
    return content or ""


def _call(block: Block) -> dict[str, Any]:
    if not (block.id and block.name):
        raise ApiError(400, "a tool_use block has id, name and input", param="messages")
    arguments = json.dumps(block.input or {}, ensure_ascii=False)
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}}


def _result(block: Block) -> dict[str, Any]:
    if not block.tool_use_id:
        raise ApiError(400, "a tool_result block has a tool_use_id", param="messages")
    content = block.content
    if isinstance(content, list):
        if any(part.get("type") != "text" or not isinstance(part.get("text"), str) for part in content):
            raise cannot("messages", "tool results other than text")
        content = "\n".join(part["text"] for part in content)
    text = f"Error: {content or ''}" if block.is_error else content or ""
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": text}
