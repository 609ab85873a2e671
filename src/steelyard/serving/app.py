"""The HTTP routes. One guard stands before all of them; only /live is open.

Not here: what a request means (bodies.py), how an answer comes about (generation.py), its JSON (shapes.py).
"""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import orjson
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import Problem
from .answer import Answer
from .api_error import ApiError, json_response
from .bodies import ChatBody, CompletionBody, Job, Message, ignored, job, parse, plain_messages
from .engine_process import EngineLost
from .generation import Prompt, Served
from .guard import Guard
from .settings import ServeSettings
from .shapes import Chat, Completion, Scored, Top, generated

BODY_LIMIT_BYTES = 32 * 2**20
COMPLETION_TOKENS = 16  # OpenAI's default for /v1/completions
DONE = b"data: [DONE]\n\n"


def app(served: Served, settings: ServeSettings, version: str) -> ASGIApp:
    """The ASGI application of one served model."""
    api = _Api(served, settings, version)
    routes = [
        Route("/live", api.live),
        Route("/health", api.health),
        Route("/metrics", api.metrics),
        Route("/version", api.version_of),
        Route("/v1/models", api.models),
        Route("/v1/models/{name:path}", api.model),
        Route("/tokenize", api.tokenize, methods=["POST"]),
        Route("/detokenize", api.detokenize, methods=["POST"]),
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
        Route("/v1/completions", api.completions, methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {
        404: lambda request, e: ApiError(404, f"there is no route {request.url.path}").response(),
        405: lambda request, e: ApiError(405, f"{request.method} is not for this route").response(),
        ApiError: lambda request, e: e.response(),
        EngineLost: lambda request, e: ApiError(503, str(e), code="engine_unavailable").response(),
        Problem: lambda request, e: ApiError(400, e.message, code=e.code).response(),
        ClientDisconnect: lambda request, e: Response(status_code=499),
        Exception: lambda request, e: ApiError(500, "an internal fault").response(),
    }
    return Guard(Starlette(routes=routes, exception_handlers=handlers), settings.api_key)


class _TokenizeBody(BaseModel):
    prompt: str | None = None
    messages: list[Message] | None = None
    add_generation_prompt: bool = True
    return_token_strs: bool = False


class _DetokenizeBody(BaseModel):
    tokens: list[int]


class _Api:
    def __init__(self, served: Served, settings: ServeSettings, version: str) -> None:
        self.served, self.settings, self.version = served, settings, version
        self.tokenizer = served.tokenizer
        self.created = int(time.time())
        self.fingerprint = settings.fingerprint
        self._serial = itertools.count(1)
        self._run = uuid.uuid4().hex[:12]

    # ------------------------------------------------------------------ about the service

    async def live(self, request: Request) -> Response:
        return json_response({"status": "live"})

    async def health(self, request: Request) -> Response:
        why = await self.served.healthy()
        return json_response({"status": why or "healthy"}, 503 if why else 200)

    async def metrics(self, request: Request) -> Response:
        return Response(self.served.measures.text(), media_type="text/plain; version=0.0.4")

    async def version_of(self, request: Request) -> Response:
        return json_response({"version": self.version, "system_fingerprint": self.fingerprint})

    async def models(self, request: Request) -> Response:
        return json_response({"object": "list", "data": [self._card()]})

    async def model(self, request: Request) -> Response:
        self._check_model(request.path_params["name"])
        return json_response(self._card())

    def _card(self) -> dict[str, Any]:
        return {
            "id": self.settings.name,
            "object": "model",
            "created": self.created,
            "owned_by": "steelyard",
            "root": self.settings.name,
            "max_model_len": self.served.max_model_len,
        }

    def _check_model(self, name: str) -> None:
        if name not in ("default", self.settings.name):
            known = self.settings.name
            raise ApiError(404, f"there is no model {name!r}; this is {known!r}", "model", "model_not_found")

    # ------------------------------------------------------------------ tokens

    async def tokenize(self, request: Request) -> Response:
        body = parse(_TokenizeBody, await _body(request))
        if (body.prompt is None) == (body.messages is None):
            raise ApiError(400, "give either prompt or messages")
        if body.messages is None:
            ids = self.tokenizer.encode(body.prompt)
        else:
            ids = self.tokenizer.chat_ids(plain_messages(body.messages), body.add_generation_prompt)
        texts = [self.tokenizer.token_of(i) for i in ids] if body.return_token_strs else None
        told = {
            "count": len(ids),
            "max_model_len": self.served.max_model_len,
            "tokens": ids,
            "token_strs": texts,
        }
        return json_response(told)

    async def detokenize(self, request: Request) -> Response:
        body = parse(_DetokenizeBody, await _body(request))
        self._check_ids(body.tokens)
        return json_response({"prompt": self.tokenizer.decode(body.tokens, skip_special=False)})

    def _check_ids(self, ids: list[int]) -> None:
        if ids and not (min(ids) >= 0 and max(ids) < self.tokenizer.vocab_size):
            raise ApiError(400, f"token ids run from 0 to {self.tokenizer.vocab_size - 1}", param="prompt")

    # ------------------------------------------------------------------ generation

    async def chat(self, request: Request) -> Response:
        body: ChatBody = parse(ChatBody, await _body(request))
        unknown = ignored(body)
        self._check_model(body.model)
        if body.top_logprobs and not body.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
        wanted = job(body, (body.top_logprobs or 0) if body.logprobs else None, self.tokenizer.eos_ids)
        ids = self.tokenizer.chat_ids(plain_messages(body.messages))
        limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        if limit == 0:
            raise ApiError(400, "max_tokens must be at least 1", param="max_tokens")
        prompts = [self.served.prompt(ids, limit, None)]
        return self._answer(_Exchange(self, Chat(self.tokenizer), wanted, prompts), unknown)

    async def completions(self, request: Request) -> Response:
        body: CompletionBody = parse(CompletionBody, await _body(request))
        unknown = ignored(body)
        self._check_model(body.model)
        if body.max_tokens == 0 and not body.echo:
            raise ApiError(400, "max_tokens 0 makes sense with echo only", param="max_tokens")
        if body.stream and body.echo:
            raise ApiError(
                400, "echo is not available in a stream", param="echo", code="unsupported_parameter"
            )
        wanted = job(body, body.logprobs, self.tokenizer.eos_ids)
        prompts = [self.served.prompt(ids, body.max_tokens, COMPLETION_TOKENS) for ids in self._prompts(body)]
        exchange = _Exchange(self, Completion(self.tokenizer), wanted, prompts, echo=bool(body.echo))
        return self._answer(exchange, unknown)

    def _prompts(self, body: CompletionBody) -> list[list[int]]:
        given: Any = body.prompt
        listed = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else given
        if not listed:
            raise ApiError(400, "the prompt is empty", param="prompt")
        found = [self.tokenizer.encode(p) if isinstance(p, str) else list(p) for p in listed]
        for ids in found:
            self._check_ids(ids)
        return found

    def _answer(self, exchange: _Exchange, unknown: list[str]) -> Response:
        if self.served.engine.state != "ready":
            raise EngineLost(f"the engine is {self.served.engine.state}")
        headers = {"x-steelyard-ignored": ", ".join(unknown)[:1000]} if unknown else {}
        kind = _Stream if exchange.job.stream else _Whole
        return kind(exchange, headers)

    def envelope(self, kind: str, prefix: str) -> dict[str, Any]:
        return {
            "id": f"{prefix}{self._run}{next(self._serial):x}",
            "object": kind,
            "created": int(time.time()),
            "model": self.settings.name,
            "system_fingerprint": self.fingerprint,
        }


class _Exchange:
    """One generating request: its answers as they come, and its JSON."""

    def __init__(
        self, api: _Api, shape: Chat | Completion, wanted: Job, prompts: list[Prompt], echo: bool = False
    ) -> None:
        self.api, self.served, self.shape = api, api.served, shape
        self.job, self.prompts, self.echo = wanted, prompts, echo

    async def whole(self) -> dict[str, Any]:
        answers = [self._blank() for _ in range(len(self.prompts) * self.job.n)]
        if any(prompt.max_tokens for prompt in self.prompts):
            async with aclosing(self.served.answers(self.job, self.prompts)) as pieces:
                async for index, answer, _ in pieces:
                    answers[index] = answer
        choices = [await self._choice(index, answer) for index, answer in enumerate(answers)]
        envelope = self.api.envelope(self.shape.object, self.shape.prefix)
        return {**envelope, "choices": choices, "usage": self._usage(answers)}

    def _blank(self) -> Answer:
        return Answer(self.served.tokenizer.stream(), finish="length")

    def _usage(self, answers: list[Answer]) -> dict[str, Any]:
        return self.served.count(sum(len(prompt.ids) for prompt in self.prompts), answers)

    async def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        prompt = self.prompts[index // self.job.n].ids
        text = (self.served.tokenizer.decode(prompt, skip_special=False) if self.echo else "") + answer.text
        scored = None if self.job.top is None else await self._scored(prompt, answer, self.job.top)
        choice = self.shape.whole(index, text, scored, answer.finish)
        if self.job.token_ids:
            choice |= {"token_ids": answer.ids, "prompt_token_ids": prompt}
        return choice

    async def _scored(self, prompt: list[int], answer: Answer, top: int) -> Scored:
        """The engine's own values for what it made; the prompt and the likeliest by one scoring pass."""
        if not (self.echo or top):
            return generated(answer)
        ids = prompt + answer.ids
        scores = await self.served.score(ids, top)
        # What the engine made keeps the engine's own value: a reader wants to know what it computed.
        logprobs: list[float | None] = [None, *scores.logprobs[: len(prompt) - 1], *answer.logprobs]
        likeliest = zip(scores.top_ids, scores.top_logprobs, strict=True)
        tops: list[Top | None] = [None, *(list(zip(*both, strict=True)) for both in likeliest)] if top else []
        start = 0 if self.echo else len(prompt)
        return Scored(ids[start:], logprobs[start:], tops[start:])

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events, one write for each engine step; errors after the start are events too."""
        envelope = self.api.envelope(self.shape.chunk_object, self.shape.prefix)
        if self.job.include_usage:
            envelope["usage"] = None
        answers: dict[int, Answer] = {}
        try:
            async with aclosing(self.served.answers(self.job, self.prompts)) as pieces:
                async for index, answer, piece in pieces:
                    first = index not in answers
                    answers[index] = answer
                    data = b""
                    if piece.text or first or self.job.top is not None:
                        scored = None if self.job.top is None else generated(piece)
                        choice = self.shape.chunk(index, piece, first, scored)
                        if self.job.token_ids:
                            choice["token_ids"] = piece.ids
                        data = _event({**envelope, "choices": [choice]})
                    if piece.finish:
                        data += _event({**envelope, "choices": [self.shape.last(index, piece.finish)]})
                    if data:
                        yield data
        except EngineLost as e:
            yield _event(ApiError(503, str(e), code="engine_unavailable").document())
            return
        usage = self._usage([answers[index] for index in sorted(answers)])
        last = _event({**envelope, "choices": [], "usage": usage}) if self.job.include_usage else b""
        yield last + DONE


class _Whole(Response):
    """The whole answer in one document; work stops when the client goes."""

    def __init__(self, exchange: _Exchange, headers: dict[str, str]) -> None:
        self.exchange, self.more = exchange, headers
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with _while_connected(receive):
            document = await self.exchange.whole()
            await json_response(document, headers=self.more)(scope, receive, send)


class _Stream(Response):
    """Server-sent events; leaving frees the slot within one step."""

    def __init__(self, exchange: _Exchange, headers: dict[str, str]) -> None:
        self.exchange, self.more = exchange, headers
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            **self.more,
        }
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        started = False
        async with _while_connected(receive), aclosing(self.exchange.chunks()) as chunks:
            async for data in chunks:
                if not started:
                    await send({"type": "http.response.start", "status": 200, "headers": raw})
                    started = True
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


@asynccontextmanager
async def _while_connected(receive: Receive) -> AsyncIterator[None]:
    """Cancel what is inside once the client has gone; then nobody is left to be told."""
    task = asyncio.current_task()
    assert task is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not gone:
            raise
        task.uncancel()
    finally:
        watcher.cancel()


def _event(content: Any) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"


async def _body(request: Request) -> bytes:
    """Raises ApiError 413 before a huge body is held in memory."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > BODY_LIMIT_BYTES:
            raise ApiError(413, f"a body has at most {BODY_LIMIT_BYTES} bytes")
    return bytes(data)
