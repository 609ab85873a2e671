"""How an answer travels: one document or server-sent events, given up once the client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .errors import ApiError, json_response
from .limits import BODY_BYTES


def streams(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether an answer with these is server-sent events."""
    return bytes(dict(headers).get(b"content-type", b"")).startswith(b"text/event-stream")


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


PING_S = 10.0  # proxies and clients give up on a connection of which nothing came for a minute
PING = b": ping\n\n"  # a comment: every reader of server-sent events passes over it


class Stream(Response):
    """Server-sent events; leaving frees the slot within one step.

    What fails before the first event is an ordinary error response; where the first one is long in coming,
    the head is sent, then a comment every `PING_S`; what fails afterwards is the event that `failed` gives.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        headers: dict[str, str] | None = None,
        failed: Callable[[Exception], bytes] | None = None,
    ) -> None:
        """`failed` raises what is none of its affair."""
        self.events, self.more, self.failed = events, headers or {}, failed or _raised
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            **self.more,
        }
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        start = {"type": "http.response.start", "status": 200, "headers": raw}
        async with while_connected(receive), aclosing(self.events) as events:
            data = await self._first(events, start, send)
            while data is not None:
                await send(_piece(data))
                data = await anext(events, None)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _first(self, events: AsyncGenerator[bytes, None], start: Any, send: Send) -> bytes | None:
        """The first event, None where there is none; the head is sent before it is given."""
        waited = asyncio.ensure_future(anext(events, None))
        started = False
        try:
            while not (await asyncio.wait({waited}, timeout=PING_S))[0]:
                if not started:
                    await send(start)
                    started = True
                await send(_piece(PING))
        except BaseException:
            waited.cancel()
            await asyncio.gather(waited, return_exceptions=True)  # before the generator is closed
            raise
        if not started:
            first = waited.result()
            await send(start)
            return first
        try:
            return waited.result()
        except Exception as e:
            return self.failed(e)


def _raised(e: Exception) -> bytes:
    raise e


def _piece(data: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": True}


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
