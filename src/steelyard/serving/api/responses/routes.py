"""/v1/responses: create (whole, streamed, in the background), get, follow, cancel, delete, input items."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ....asked import asked_of
from ...base.errors import ApiError, json_response
from ...base.guard import caller_of
from ...base.log import log
from ...base.store import new_id
from ...base.transport import Stream, Whole, event
from ...base.work import RENDER_S, off_loop
from ...host.answer import Piece
from ...host.engine_process import EngineEnding, EngineLost
from ...turn.api import Api
from ...turn.bodies import body_as, ignored, naming, route_headers
from ...turn.chat import ChatPrompt, Turn, TurnRequest, chat_prompt, switches, tool_headers, with_tools
from ...turn.guarded import FILTERED
from ...turn.shapes import generated, token_logprobs
from ...turn.tools import Tools
from .bodies import (
    HARMLESS,
    UNSUPPORTED,
    CompactBody,
    ResponsesBody,
    ResponsesInput,
    custom_names,
    format_of,
    job_of,
    messages_of,
    tools_of,
    with_ids,
    without_effect,
)
from .compaction import SUMMARY_TOKENS, TO_SUMMARISE, compacted, summary_of
from .output import Event, Output
from .store import Document, ResponseStore, Stored, fail_left_over
from .truncation import fitted

PATH = "/v1/responses"
BODIES: dict[str, type[BaseModel]] = {
    PATH: ResponsesBody, f"{PATH}/input_tokens": ResponsesInput, f"{PATH}/compact": CompactBody,
}  # fmt: skip
MOST_ITEMS = 100  # a page of input items
RENDERING = "rendering this conversation"
LIVING = "background responses only can be {}: this one was answered at once"


def routes(api: Api) -> list[Route]:
    responses = _Responses(api)
    return [
        Route(PATH, responses.create, methods=["POST"]),
        Route(f"{PATH}/input_tokens", responses.count, methods=["POST"]),
        Route(f"{PATH}/compact", responses.compact, methods=["POST"]),
        Route(f"{PATH}/{{id}}", responses.get, methods=["GET"]),
        Route(f"{PATH}/{{id}}", responses.delete, methods=["DELETE"]),
        Route(f"{PATH}/{{id}}/cancel", responses.cancel, methods=["POST"]),
        Route(f"{PATH}/{{id}}/input_items", responses.input_items, methods=["GET"]),
    ]


class _Responses:
    def __init__(self, api: Api) -> None:
        self.api = api

    @property
    def store(self) -> ResponseStore:
        store: ResponseStore = self.api.served.stores.responses
        return store

    async def create(self, request: Request) -> Response:
        body: ResponsesBody = await body_as(ResponsesBody, request)
        headers = ignored(body, UNSUPPORTED, HARMLESS)
        if body.background and body.store is False:
            raise ApiError(400, "a background response must be stored", param="store")
        if self.api.settings.sealed:
            body = _unstored(body)
        caller = self.api.caller(request, body.service_tier, body.priority, body.timeout)
        self.api.check_model(body.model, caller)
        items = await self._items(body, caller.owner)
        run = await off_loop(self._run, body, caller, *items, limit_s=RENDER_S, what=RENDERING)
        headers = tool_headers(headers, run.turn.request.tools)
        headers = naming(headers, without_effect(self.api, body))
        headers = route_headers(headers, run.turn.request.job)
        self.api.check_ready()
        if body.background:
            if not body.stream:  # else its events are followed from the first on
                run.stored.request = body.model_dump(mode="json", exclude_unset=True, exclude={"input"})
            return await self._in_background(run, bool(body.stream), headers)
        if body.stream:
            return Stream(run.events(), headers, run.failed)
        return Whole(run.whole, headers)

    def _run(
        self,
        body: ResponsesBody,
        caller: Any,
        before: list[dict[str, Any]],
        given: list[dict[str, Any]],
        most_tokens: int | None = None,
    ) -> _Run:
        constraint, tools = with_tools(self.api, format_of(self.api, body), tools_of(body))
        first = [{"role": "system", "content": body.instructions}] if body.instructions else []
        asked = asked_of([*first, *messages_of([*before, *given])])
        wanted = job_of(self.api, body, constraint, asked)
        if body.background:  # followers see what is made: it may not begin anew
            wanted = replace(wanted, stream=True)
        answer_tokens = max(body.max_output_tokens or 1, 1)
        chat = self._prompt(body, [*before, *given], tools, constraint is not None, answer_tokens)
        prompt = self.api.served.prompt(chat.ids, body.max_output_tokens, None, chat.asked)
        if most_tokens is not None:
            prompt = replace(prompt, max_tokens=min(prompt.max_tokens, most_tokens))
        request = TurnRequest(job=wanted, prompt=prompt, tools=tools, caller=caller, thinking=chat.thinking)
        stored = Stored(_document(self.api, body), caller.owner, given, before)
        store = None if body.store is False else self.store
        return _Run(self.api, request, stored, store, custom_names(body))

    async def _items(
        self, body: ResponsesInput, owner: str
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Items of the conversation before, and those of this request."""
        given = await off_loop(with_ids, body, self.api.new_id)
        if ids := [item["id"] for item in given if item["type"] == "item_reference"]:
            items = iter(await self.store.items(ids, owner, self.api.settings.max_body_bytes))
            given = [next(items) if item["type"] == "item_reference" else item for item in given]
        if body.previous_response_id is None:
            return [], given
        previous = await self.store.get(body.previous_response_id, owner, 400, "previous_response_id")
        if not previous.over:
            raise ApiError(400, "the previous response is not finished", param="previous_response_id")
        return previous.conversation(), given

    def _prompt(
        self,
        body: ResponsesInput,
        items: list[dict[str, Any]],
        tools: Tools,
        held: bool,
        answer_tokens: int = 1,
    ) -> ChatPrompt:
        """What the model reads. Raises ApiError 400 where there is nothing to answer."""
        messages = messages_of(items)
        if not messages and not body.instructions:
            raise ApiError(400, "give input, instructions or previous_response_id", param="input")
        first = [{"role": "system", "content": body.instructions}] if body.instructions else []
        variables = switches(self.api, body.reasoning.effort if body.reasoning else None) or {}

        def prompt_of(messages: list[dict[str, Any]]) -> ChatPrompt:
            return chat_prompt(self.api, _joined([*first, *messages]), tools, variables, held=held)

        if body.truncation != "auto" or len(messages) < 2:
            return prompt_of(messages)
        context = self.api.served.max_model_len
        return fitted(prompt_of, messages, context - answer_tokens, context)

    async def _in_background(self, run: _Run, stream: bool, headers: dict[str, str]) -> Response:
        await self._begin(run)
        if stream:
            return Stream(run.stored.follow(0), headers)
        return json_response(run.stored.document, headers=headers)

    async def _begin(self, run: _Run) -> None:
        run.stored.document["status"] = "queued"
        self.store.begin(run.stored)
        try:
            await self.store.add(run.stored)
        except BaseException:
            self.store.live.pop(run.stored.id, None)
            raise
        run.stored.task = asyncio.create_task(run.to_the_end())
        run.stored.task.add_done_callback(lambda _: self.store.end(run.stored))

    async def again(self, left: Document) -> None:
        """Make one that an ended process was making, from its beginning. Raises ApiError, EngineLost."""
        body = ResponsesBody.model_validate(left.hidden["request"])
        caller = caller_of(self.api.served.keys, left.owner)
        if caller is None:
            raise ApiError(401, "the key of this response is not valid any more", code="invalid_api_key")
        caller = caller.asking(tier=body.service_tier, priority=body.priority)
        self.api.check_model(body.model, caller)
        items = (left.hidden["before"], left.hidden["input"])
        run = await off_loop(self._run, body, caller, *items, limit_s=RENDER_S, what=RENDERING)
        run.stored.document |= {name: left.shown[name] for name in ("id", "created_at")}
        run.stored.request, run.stored.tries = left.hidden["request"], left.hidden["tries"] + 1
        await self._begin(run)

    async def count(self, request: Request) -> Response:
        self.api.check_counted_here()
        body: ResponsesInput = await body_as(ResponsesInput, request)
        headers = ignored(body, UNSUPPORTED, HARMLESS)
        self.api.check_model(body.model, self.api.caller(request))
        headers = naming(headers, without_effect(self.api, body))
        before, given = await self._items(body, self.api.caller(request).owner)
        constraint, tools = with_tools(self.api, format_of(self.api, body), tools_of(body))
        chat = await off_loop(
            self._prompt, body, [*before, *given], tools, constraint is not None,
            limit_s=RENDER_S, what=RENDERING,
        )  # fmt: skip
        answer = {"object": "response.input_tokens", "input_tokens": len(chat.ids)}
        return json_response(answer, headers=headers)

    async def compact(self, request: Request) -> Response:
        """A summary by the model in the conversation's place: one item, to begin a later input with."""
        body: CompactBody = await body_as(CompactBody, request)
        headers = ignored(body, UNSUPPORTED, HARMLESS)
        caller = self.api.caller(request)
        self.api.check_model(body.model, caller)
        asked = summary_of(body)
        before, given = await self._items(asked, caller.owner)
        if not (before or given):
            raise ApiError(400, "give input or previous_response_id", param="input")
        run = await off_loop(
            self._run, asked, caller, before, [*given, TO_SUMMARISE], SUMMARY_TOKENS,
            limit_s=RENDER_S, what=RENDERING,
        )  # fmt: skip
        self.api.check_ready()

        async def whole() -> dict[str, Any]:
            return compacted(await run.whole(), self.api.new_id)

        return Whole(whole, headers)

    # ------------------------------------------------------------------ what is stored

    async def _stored(self, request: Request) -> Stored:
        return await self.store.get(request.path_params["id"], self.api.caller(request).owner)

    async def get(self, request: Request) -> Response:
        stored = await self._stored(request)
        if not _flag(request, "stream"):
            return json_response(stored.document)
        if not stored.document["background"]:
            raise ApiError(400, LIVING.format("streamed again"), param="stream")
        after = _number(request, "starting_after", -1, 10**9, -1) + 1
        await self.store.followed(stored)
        return Stream(self.store.follow(stored, after))

    async def delete(self, request: Request) -> Response:
        stored = await self._stored(request)
        if stored.task:
            stored.task.cancel()
        await self.store.drop(stored.id)
        return json_response({"id": stored.id, "object": "response", "deleted": True})

    async def cancel(self, request: Request) -> Response:
        stored = await self._stored(request)
        if not stored.document["background"]:
            raise ApiError(400, LIVING.format("cancelled"))
        if stored.task and not stored.over:
            stored.document["status"] = "cancelled"
            stored.task.cancel()
        return json_response(stored.document)

    async def input_items(self, request: Request) -> Response:
        stored = await self._stored(request)
        items = list(stored.input) if _order(request) == "asc" else stored.input[::-1]
        after = request.query_params.get("after")
        if after is not None:
            at = next((n for n, item in enumerate(items) if item["id"] == after), None)
            if at is None:
                raise ApiError(400, f"there is no item {after!r}", param="after")
            items = items[at + 1 :]
        limit = _number(request, "limit", 1, MOST_ITEMS, 20)
        page = items[:limit]
        ends = (
            {"first_id": page[0]["id"], "last_id": page[-1]["id"]}
            if page
            else {"first_id": None, "last_id": None}
        )
        return json_response({"object": "list", "data": page, **ends, "has_more": len(items) > limit})


async def make_again(api: Api, left: list[Document]) -> None:
    """Background responses that an ended process was making; one that cannot be made ends as failed."""
    responses = _Responses(api)
    for document in left:
        try:
            await responses.again(document)
        except Exception as e:
            log("response.not_made_again", response=document.id, error=type(e).__name__)
            why = str(e) if isinstance(e, ApiError | EngineLost) else "an internal fault"
            await asyncio.to_thread(fail_left_over, responses.store.store, document, why)
        else:
            log("response.made_again", response=document.id)


def _unstored(body: ResponsesBody) -> ResponsesBody:
    """Where trust is sealed nothing is kept, whatever an API keeps by default. Raises ApiError 400."""
    if body.store or body.background:
        raise ApiError(
            400, "at `trust: sealed` no response is stored", param="store", code="refused_at_sealed"
        )
    return body.model_copy(update={"store": False})


class _Run:
    """One response in the making."""

    def __init__(
        self,
        api: Api,
        request: TurnRequest,
        stored: Stored,
        store: ResponseStore | None,
        custom: frozenset[str] = frozenset(),
    ) -> None:
        self.api, self.stored, self.store = api, stored, store
        self.turn = Turn(api, request)
        self.output = Output(api.new_id, custom)
        self.custom = custom
        self.serial = 0

    async def keep(self) -> None:
        """On disk before the client hears of its end; a background one goes there at its very end."""
        if self.store is None or self.stored.task is not None:
            return
        try:
            await self.store.add(self.stored)
        except ApiError as e:  # no room: the answer is given all the same
            log("response.not_stored", response=self.stored.id, why=e.code)
            self.stored.document["store"] = False

    async def whole(self) -> dict[str, Any]:
        async with aclosing(self._events()) as events:
            async for _ in events:
                pass
        return self.stored.document

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Typed server-sent events. What fails before the first token is raised."""
        try:
            async with aclosing(self._events()) as batches:
                async for batch in batches:
                    yield b"".join(map(self._numbered, batch))
        except (EngineLost, ApiError) as e:
            if not self.serial or self._is_left(e):
                raise
            yield self._failed(e)

    async def to_the_end(self) -> None:
        """In the background: events are kept for those who follow."""
        with self.api.served.drain.work():
            await self._told()

    async def _told(self) -> None:
        try:
            async with aclosing(self.events()) as events:
                async for data in events:
                    for one in data.split(b"\n\n")[:-1]:
                        self.stored.tell(one + b"\n\n")
        except (EngineLost, ApiError) as e:
            if self._is_left(e):
                self.stored.left = True
            else:
                self.stored.tell(self._failed(e))
        except Exception:
            self.stored.tell(self._failed(ApiError(500, "an internal fault")))
            raise

    def _is_left(self, e: Exception) -> bool:
        """Whether the next service makes it."""
        ending = isinstance(e, EngineEnding) or (isinstance(e, ApiError) and e.code == "draining")
        return ending and self.stored.request is not None

    def _numbered(self, sent: Event) -> bytes:
        self.serial += 1
        return event({**sent, "sequence_number": self.serial - 1}, sent["type"])

    def failed(self, e: Exception) -> bytes:
        """The event of what failed before there was any. Raises what is no failure of a request."""
        if not isinstance(e, EngineLost | ApiError):
            raise e
        return self._failed(e)

    def _failed(self, e: Exception) -> bytes:
        code = "rate_limit_exceeded" if isinstance(e, ApiError) and e.status == 429 else "server_error"
        self.stored.fail(code, str(e))
        return self._numbered(self._response_event("failed"))

    def _response_event(self, name: str) -> Event:
        return {"type": f"response.{name}", "response": dict(self.stored.document)}

    async def _events(self) -> AsyncGenerator[list[Event], None]:
        document = self.stored.document
        begun, answer = False, None
        logprobs: list[dict[str, Any]] = []  # of tokens whose text waits
        async with aclosing(self.turn.parts()) as pieces:
            async for parts, piece in pieces:
                events: list[Event] = []
                if self.turn.answer is not answer:  # the first, or begun anew after a crash
                    self.output, answer = Output(self.api.new_id, self.custom), self.turn.answer
                    logprobs = []
                if not begun:
                    document["status"], begun = "in_progress", True
                    events = [self._response_event("created"), self._response_event("in_progress")]
                logprobs += self._logprobs(piece)
                for part in parts:
                    events += self.output.take(part, logprobs)
                    logprobs = []
                if events:
                    yield events
        yield await self._completed()

    def _logprobs(self, piece: Piece) -> list[dict[str, Any]]:
        if self.turn.request.job.top is None:
            return []
        return token_logprobs(self.api.tokenizer, generated(piece))

    async def _completed(self) -> list[Event]:
        reason = {"length": "max_output_tokens", FILTERED: FILTERED}.get(self.turn.finish)
        cut = reason is not None
        status = "incomplete" if cut else "completed"
        events = self.output.end(status)
        self.stored.document |= {
            "status": status,
            "incomplete_details": {"reason": reason} if cut else None,
            "completed_at": None if cut else int(time.time()),
            "output": self.output.items,
            "usage": self._usage(),
        }
        await self.keep()
        return [*events, self._response_event(status)]

    def _usage(self) -> dict[str, Any]:
        usage = self.turn.usage()
        return {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": self.turn.cached, "cache_write_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": self.turn.reasoning_tokens},
            "total_tokens": usage["total_tokens"],
        }


def _top_p(api: Api, body: ResponsesBody) -> float:
    """The default's belongs to the default temperature."""
    default = api.defaults.top_p if body.temperature is None else 1.0
    return default if body.top_p is None else body.top_p


def _document(api: Api, body: ResponsesBody) -> dict[str, Any]:
    """The response before anything is made."""
    format = body.text.format.document() if body.text and body.text.format else {"type": "text"}
    extra = body.model_extra or {}
    return {
        "id": new_id("resp_"),  # ids sort by their birth: the oldest goes first
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "in_progress",
        "background": bool(body.background),
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_tool_calls": _of_kind(int, extra.get("max_tool_calls")),
        "frequency_penalty": body.frequency_penalty or 0.0,
        "presence_penalty": body.presence_penalty or 0.0,
        "prompt_cache_key": _of_kind(str, extra.get("prompt_cache_key")),
        "safety_identifier": _of_kind(str, extra.get("safety_identifier")),
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "model": api.settings.name,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
        "service_tier": body.service_tier or "default",
        "store": body.store is not False,
        "temperature": api.defaults.temperature if body.temperature is None else body.temperature,
        "text": {"format": format},
        "tool_choice": body.tool_choice or "auto",
        "tools": [
            {"description": None, "strict": None, "parameters": None, **tool} for tool in body.tools or []
        ],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": _top_p(api, body),
        "truncation": body.truncation or "disabled",
        "usage": None,
        "system_fingerprint": api.fingerprint,
    }


def _of_kind(kind: type, value: Any) -> Any:
    """A field that is only given back: null where it is of another kind."""
    return value if isinstance(value, kind) else None


def _joined(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """System messages at the beginning as one: most templates take one."""
    count = next((n for n, m in enumerate(messages) if m["role"] != "system"), len(messages))
    if count < 2:
        return messages
    text = "\n\n".join(m["content"] for m in messages[:count])
    return [{"role": "system", "content": text}, *messages[count:]]


def _flag(request: Request, name: str) -> bool:
    given = request.query_params.get(name, "false").lower()
    if given not in ("true", "false"):
        raise ApiError(400, f"{name} is true or false", param=name)
    return given == "true"


def _number(request: Request, name: str, least: int, most: int, default: int) -> int:
    given = request.query_params.get(name)
    if given is None:
        return default
    if (
        not (given.isascii() and given.removeprefix("-").isdigit() and len(given) < 12)
        or not least <= int(given) <= most
    ):
        raise ApiError(400, f"{name} is a number from {least} to {most}", param=name)
    return int(given)


def _order(request: Request) -> str:
    given = request.query_params.get("order", "desc")
    if given not in ("asc", "desc"):
        raise ApiError(400, "order is asc or desc", param="order")
    return given
