"""What local programs talk to: any path of the service, sealed on the way there, opened on the way back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import nullcontext, suppress
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import orjson
from starlette.types import Receive, Scope, Send

from ...errors import Problem
from ...trust import (
    PLAIN_CHUNK_BYTES,
    REQUEST_TYPE,
    RESPONSE_TYPE,
    WELL_KNOWN,
    Head,
    MessageReader,
    NotSealed,
    RequestSealer,
    ResponseOpener,
    data_of,
    end_of,
    head_of,
)
from ..base.access import Access
from ..base.errors import ApiError
from ..base.log import log
from ..base.transport import streams, while_connected
from ..service.sealed_door import PROBLEMS
from .upstream import STATEMENT_S, Upstream

if TYPE_CHECKING:
    import httpx

TRIES = 3  # a service that has just been started anew opens nothing of the old key
KEPT_BYTES = 8 << 20  # of a body, so that it can be sealed again
HOP = {b"host", b"connection", b"keep-alive", b"transfer-encoding", b"te", b"trailer", b"upgrade", b"expect",
       b"proxy-authorization", b"proxy-authenticate", b"proxy-connection", b"date", b"origin", b"referer",
       b"accept-encoding"}  # fmt: skip


class Cut(Exception):
    """The answer broke off after it had begun: the client's connection is closed before its end."""


class ProxyApp:
    def __init__(self, upstream: Upstream, access: Access) -> None:
        self.upstream, self.access = upstream, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            self.access.check({**scope, "method": "GET"}, dict(scope["headers"]))
            await self._forward(scope, receive, send)
        except ApiError as e:
            await e.response(scope["path"])(scope, receive, send)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ApiError 502 where nothing could be sent or nothing sealed came back."""
        head, body = head_for(scope), Body(receive)
        if not await body.begin():
            return  # the client has gone
        async with while_connected(receive) if body.whole else nullcontext():
            for _ in range(TRIES):
                if await self._try(head, body, send):
                    return
        raise ApiError(
            502, "the service opens nothing that is sealed for the key it names", code="sealed.key"
        )

    async def _try(self, head: Head, body: Body, send: Send) -> bool:
        """False where the service has another key by now, and the body can be sealed again."""
        import httpx

        try:
            appraised, client = await self.upstream.ready()
            sealer = RequestSealer(appraised.keys)
        except (Problem, NotSealed) as e:
            why = f"{e.message}: {e.why}" if isinstance(e, Problem) else str(e)
            code = e.code if isinstance(e, Problem) else "sealed.key"
            log("proxy.refused", code=code, why=why)
            raise ApiError(502, f"nothing was sent: {why}", code=code) from e
        headers = {"content-type": REQUEST_TYPE, "accept": RESPONSE_TYPE, "incremental": "?1"}
        content = sealed(sealer, head, body)
        try:
            async with client.stream("POST", WELL_KNOWN, content=content, headers=headers) as answer:
                kind = answer.headers.get("content-type", "")
                if answer.status_code == 200 and kind == RESPONSE_TYPE:
                    await opened(answer, sealer.answer(), send)
                    return True
                why = await problem_of(answer)
        except httpx.HTTPError as e:
            why = f"{type(e).__name__} {e}".strip()
            raise ApiError(502, f"the service does not answer: {why}", code="proxy.no_answer") from e
        if why == PROBLEMS + "ohttp-key" and body.whole:
            self.upstream.forget(appraised)
            return False
        raise ApiError(502, f"the service refused what was sealed: {why}", code="sealed.refused")


def head_for(scope: Scope) -> Head:
    """The request as it goes inside, with the time by which replays are told."""
    path = scope["raw_path"] or scope["path"].encode()
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    fields = [(name, value) for name, value in scope["headers"] if name not in HOP]
    date = formatdate(time.time(), usegmt=True).encode()
    return Head(method=scope["method"].encode(), path=path + query, fields=[*fields, (b"date", date)])


class Body:
    """A request's: kept while it is small, so that it can be sealed twice; a long one passes through once."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._kept = bytearray()
        self.whole = False

    async def begin(self) -> bool:
        """Reads on until it is whole or too long to be kept. False where the client has gone."""
        while not self.whole and len(self._kept) <= KEPT_BYTES:
            if (piece := await self._more()) is None:
                return False
            self._kept += piece
        return True

    async def pieces(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self._kept), PLAIN_CHUNK_BYTES):
            yield bytes(self._kept[at : at + PLAIN_CHUNK_BYTES])
        while not self.whole:
            if (piece := await self._more()) is None:
                raise ConnectionError("the client has gone")
            for at in range(0, len(piece), PLAIN_CHUNK_BYTES):
                yield piece[at : at + PLAIN_CHUNK_BYTES]

    async def _more(self) -> bytes | None:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            return None
        self.whole = not message.get("more_body", False)
        return bytes(message.get("body", b""))


async def sealed(sealer: RequestSealer, head: Head, body: Body) -> AsyncIterator[bytes]:
    """A short request leaves in one piece: its last chunk says that it is whole."""
    pending = head_of(head)
    yield sealer.beginning
    async for piece in body.pieces():
        yield sealer.chunk(pending)
        pending = data_of(piece)
    yield sealer.chunk(pending + end_of(), final=True)


# ------------------------------------------------------------------ answers


async def opened(answer: httpx.Response, opener: ResponseOpener, send: Send) -> None:
    """Each chunk goes on as soon as it is verified. Raises ApiError before the answer begins, Cut after."""
    import httpx

    going = Going(send)
    try:
        async for sealed_bytes in answer.aiter_raw():
            for piece in opener.feed(sealed_bytes):
                await going.take(piece)
        await going.take(opener.close())
        going.reader.close()
    except (NotSealed, httpx.HTTPError) as e:
        log("proxy.cut", why=str(e) or type(e).__name__)
        await going.cut(str(e) or type(e).__name__)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


class Going:
    """An answer on its way to the client."""

    def __init__(self, send: Send) -> None:
        self.reader, self._send = MessageReader(), send
        self._begun = self._events = False

    async def take(self, piece: bytes) -> None:
        content = self.reader.feed(piece)
        if self.reader.head and not self._begun:
            await self._begin(self.reader.head)
        if content:
            await self._send({"type": "http.response.body", "body": content, "more_body": True})

    async def _begin(self, head: Head) -> None:
        self._begun = True
        fields = [(name, value) for name, value in head.fields if name not in HOP]
        self._events = streams(fields)
        await self._send({"type": "http.response.start", "status": head.status, "headers": fields})

    async def cut(self, why: str) -> None:
        """Raises ApiError or Cut."""
        error = ApiError(502, f"the answer is not whole: {why}", code="sealed.cut")
        if not self._begun:
            raise error
        if self._events:
            event = b"data: " + orjson.dumps(error.document()) + b"\n\n"
            await self._send({"type": "http.response.body", "body": event, "more_body": True})
        raise Cut(why)


async def problem_of(answer: httpx.Response) -> str:
    """What the service, or somebody on the way, says in plain; nobody vouches for it."""
    data = bytearray()
    with suppress(TimeoutError):
        async with asyncio.timeout(STATEMENT_S):
            async for piece in answer.aiter_bytes():
                data += piece
                if len(data) > PLAIN_CHUNK_BYTES:
                    break
    try:
        told: Any = orjson.loads(data)
        if told["type"] == PROBLEMS + "date":
            return "its clock and this one differ by more than two minutes"
        return str(told["type"])[:200] if told["type"] == PROBLEMS + "ohttp-key" else str(told["title"])[:200]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return f"HTTP {answer.status_code}"
