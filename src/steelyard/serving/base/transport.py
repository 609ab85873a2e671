"""How an answer travels: one document or server-sent events, given up once the client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .errors import ApiError, json_response
from .limits import BODY_BYTES


class Whole(Response):
    """The whole answer in one document; work stops when the client goes."""

    def __init__(
        self, document: Callable[[], Awaitable[dict[str, Any]]], headers: dict[str, str] | None = None
    ) -> None:
        self.document, self.more = document, headers or {}
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with while_connected(receive):
            document = await self.document()
            await json_response(document, headers=self.more)(scope, receive, send)


class Stream(Response):
    """Server-sent events; leaving frees the slot within one step.

    What fails before the first event is an ordinary error response.
    """

    def __init__(self, events: AsyncGenerator[bytes, None], headers: dict[str, str] | None = None) -> None:
        self.events, self.more = events, headers or {}
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            **self.more,
        }
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        start = {"type": "http.response.start", "status": 200, "headers": raw}
        started = False
        async with while_connected(receive), aclosing(self.events) as events:
            async for data in events:
                if not started:
                    await send(start)
                    started = True
                await send({"type": "http.response.body", "body": data, "more_body": True})
            if not started:
                await send(start)
            await send({"type": "http.response.body", "body": b"", "more_body": False})


@asynccontextmanager
async def while_connected(receive: Receive) -> AsyncIterator[None]:
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


def event(content: Any, name: str | None = None) -> bytes:
    """One server-sent event; OpenAI's chats have no names."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + orjson.dumps(content) + b"\n\n"


async def body_of(request: Request) -> bytes:
    """Raises ApiError 413 before a huge body is held in memory; how huge, the application's state says."""
    limit_bytes = getattr(request.app.state, "max_body_bytes", BODY_BYTES)
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:12]) > limit_bytes:
        raise _too_large(limit_bytes)
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit_bytes:
            raise _too_large(limit_bytes)
    return bytes(data)


def _too_large(limit_bytes: int) -> ApiError:
    return ApiError(413, f"a body has at most {limit_bytes} bytes", code="body_too_large")
