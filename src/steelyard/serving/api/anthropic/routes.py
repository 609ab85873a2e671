"""Anthropic's POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ....asked import asked_of
from ...base.errors import ApiError, json_response
from ...base.transport import Stream, Whole, event
from ...base.work import RENDER_S, off_loop
from ...host.engine_process import EngineLost
from ...host.job import Constraint
from ...turn import model_json
from ...turn.api import Api
from ...turn.bodies import body_as, ignored, naming, route_headers
from ...turn.chat import ChatPrompt, Turn, TurnRequest, chat_prompt, tool_headers, with_tools
from ...turn.failures import failed_by
from ...turn.guarded import FILTERED
from ...turn.parts import CallBegun, CallMore, Part, TextPart, Thought
from ...turn.shapes import gathered
from ...turn.tools import Tools
from .bodies import (
    HARMLESS,
    UNSUPPORTED,
    MessagesBody,
    MessagesInput,
    format_of,
    job_of,
    messages_of,
    tools_of,
    variables_of,
    without_effect,
)

PATH = "/v1/messages"
BODIES: dict[str, type[BaseModel]] = {PATH: MessagesBody, f"{PATH}/count_tokens": MessagesInput}


def routes(api: Api) -> list[Route]:
    async def create(request: Request) -> Response:
        body: MessagesBody = await body_as(MessagesBody, request)
        headers = ignored(body, UNSUPPORTED, HARMLESS)
        caller = api.caller(request, body.service_tier, None, body.timeout)
        api.check_model(body.model, caller)
        exchange = await off_loop(_Exchange, api, body, caller, limit_s=RENDER_S, what="rendering this chat")
        headers = tool_headers(headers, exchange.turn.request.tools)
        headers = naming(headers, without_effect(api, body))
        headers = route_headers(headers, exchange.turn.request.job)
        api.check_ready()
        if body.stream:
            failed = failed_by(lambda e: event(e.anthropic(), "error"))
            return Stream(exchange.events(), headers, failed)
        return Whole(exchange.whole, headers)

    async def count(request: Request) -> Response:
        api.check_counted_here()
        body: MessagesInput = await body_as(MessagesInput, request)
        headers = ignored(body, UNSUPPORTED, HARMLESS)
        api.check_model(body.model, api.caller(request))
        headers = naming(headers, without_effect(api, body))
        chat, *_ = await off_loop(_read, api, body, limit_s=RENDER_S, what="rendering this chat")
        return json_response({"input_tokens": len(chat.ids)}, headers=headers)

    return [
        Route(PATH, create, methods=["POST"]),
        Route(f"{PATH}/count_tokens", count, methods=["POST"]),
    ]


def _read(api: Api, body: MessagesInput) -> tuple[ChatPrompt, Constraint | None, Tools, str]:
    """What the model reads, what its answer is held to, what it may call, and what a router reads.

    Raises ApiError 400.
    """
    messages, begun = messages_of(body)
    constraint, tools = with_tools(api, format_of(api, body), tools_of(body))
    held = constraint is not None
    return (
        chat_prompt(api, messages, tools, variables_of(api, body), begun=begun, held=held),
        constraint,
        tools,
        asked_of(messages),
    )


class _Exchange:
    """One request: its answer, whole or as events."""

    def __init__(self, api: Api, body: MessagesBody, caller: Any) -> None:
        self.api = api
        chat, constraint, tools, asked = _read(api, body)
        room = api.served.max_model_len - len(chat.ids)
        self.cut_by_window = room < body.max_tokens  # then the answer ends where the context does
        limit = min(body.max_tokens, max(room, 1))
        request = TurnRequest(
            job=job_of(api, body, constraint, asked),
            prompt=api.served.prompt(chat.ids, limit, None, chat.asked),
            tools=tools, caller=caller, thinking=chat.thinking,
        )  # fmt: skip
        self.turn = Turn(api, request)
        self.id = api.new_id("msg_")

    async def whole(self) -> dict[str, Any]:
        parts: list[Part] = []
        answer = None
        async with aclosing(self.turn.parts()) as pieces:
            async for piece, _ in pieces:
                if self.turn.answer is not answer:  # the first, or begun anew after a crash
                    parts, answer = [], self.turn.answer
                parts += piece
        if self.turn.refused:  # a call that was cut off is none
            parts = [part for part in parts if isinstance(part, TextPart)]
        return self._message(_blocks(parts), *self._stop(), self._usage())

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Anthropic's events. What fails before the first token is raised."""
        blocks = _Blocks()
        started = False
        try:
            async with aclosing(self.turn.parts()) as pieces:
                async for parts, _ in pieces:
                    data = b"" if started else self._started()
                    started = True
                    data += b"".join(blocks.take(part) for part in parts)
                    if data:
                        yield data
        except (EngineLost, ApiError) as e:
            if not started:
                raise
            error = e if isinstance(e, ApiError) else ApiError(503, str(e))
            yield event(error.anthropic(), "error")
            return
        reason, sequence = self._stop()
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        ended = {"type": "message_delta", "delta": delta, "usage": self._usage()}
        stop = event({"type": "message_stop"}, "message_stop")
        yield blocks.end() + event(ended, "message_delta") + stop

    def _started(self) -> bytes:
        usage = {**self._input(len(self.turn.request.prompt.ids)), "output_tokens": 0}
        begun = {"type": "message_start", "message": self._message([], None, None, usage)}
        return event(begun, "message_start") + event({"type": "ping"}, "ping")

    def _message(
        self, content: list[dict[str, Any]], reason: str | None, sequence: str | None, usage: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.api.settings.name,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": usage,
        }

    def _stop(self) -> tuple[str, str | None]:
        """stop_reason and stop_sequence."""
        finish, answer = self.turn.finish, self.turn.answer
        if finish == FILTERED:
            return "refusal", None
        if finish == "length":
            return ("model_context_window_exceeded" if self.cut_by_window else "max_tokens"), None
        if finish == "tool_calls":
            return "tool_use", None
        sequence = answer.stopped_by if answer else None
        return ("stop_sequence", sequence) if sequence else ("end_turn", None)

    def _usage(self) -> dict[str, Any]:
        usage = self.turn.usage()
        return {**self._input(usage["prompt_tokens"]), "output_tokens": usage["completion_tokens"]}

    def _input(self, prompt_tokens: int) -> dict[str, Any]:
        """Anthropic counts what the cache held apart."""
        cached = self.turn.cached
        return {
            "input_tokens": prompt_tokens - cached,
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": 0,
        }


def _blocks(parts: list[Part]) -> list[dict[str, Any]]:
    text, thought, calls = gathered(parts)
    blocks: list[dict[str, Any]] = []
    if thought:
        blocks.append({"type": "thinking", "thinking": thought, "signature": ""})
    if text:
        blocks.append({"type": "text", "text": text})
    for id, name, arguments in calls:
        blocks.append({"type": "tool_use", "id": id, "name": name, "input": _object(arguments)})
    return blocks


def _object(arguments: str) -> dict[str, Any]:
    """What was cut off, or is no object, has no input."""
    try:
        value = model_json.read(arguments)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


class _Blocks:
    """Content blocks of a stream: at most the last one is open."""

    def __init__(self) -> None:
        self.index, self.open = -1, ""

    def take(self, part: Part) -> bytes:
        if isinstance(part, CallBegun):
            block = {"type": "tool_use", "id": part.id, "name": part.name, "input": {}}
            return self._begin("tool_use", block)
        if isinstance(part, CallMore):
            return self._delta({"type": "input_json_delta", "partial_json": part.text})
        if isinstance(part, Thought):
            begun = self._enter("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            return begun + self._delta({"type": "thinking_delta", "thinking": part.text})
        assert isinstance(part, TextPart)
        begun = self._enter("text", {"type": "text", "text": ""})
        return begun + self._delta({"type": "text_delta", "text": part.text})

    def _enter(self, kind: str, block: dict[str, Any]) -> bytes:
        return b"" if self.open == kind else self._begin(kind, block)

    def _begin(self, kind: str, block: dict[str, Any]) -> bytes:
        closed = self.end()
        self.index, self.open = self.index + 1, kind
        begun = {"type": "content_block_start", "index": self.index, "content_block": block}
        return closed + event(begun, "content_block_start")

    def _delta(self, delta: dict[str, Any]) -> bytes:
        fields = {"type": "content_block_delta", "index": self.index, "delta": delta}
        return event(fields, "content_block_delta")

    def end(self) -> bytes:
        if not self.open:
            return b""
        self.open = ""
        return event({"type": "content_block_stop", "index": self.index}, "content_block_stop")
