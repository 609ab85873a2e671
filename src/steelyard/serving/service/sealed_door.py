"""Sealed requests taken apart before the guard, answers sealed behind it; plain prompts are refused.

A sealed request is one POST to /.well-known/ohttp-gateway whose body holds all of it: method, path, key and
prompt (docs/why/sealed-prompts.md). What comes out goes through the same guard, limits and queue as any
other. Open to everybody: the sealing key and the statement of /v1/attestation, which hold nothing secret.
"""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qs, unquote

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...errors import Problem, WrongUse
from ...trust import (
    KEYS_TYPE,
    PLAIN_CHUNK_BYTES,
    RESPONSE_TYPE,
    WELL_KNOWN,
    Head,
    MessageReader,
    NotSealed,
    Replayed,
    RequestOpener,
    ResponseSealer,
    SealingKey,
    ServiceStatement,
    Window,
    WrongClock,
    data_of,
    end_of,
    head_of,
)
from ..base.access import Access
from ..base.errors import ApiError, json_response
from ..base.log import log

ATTESTATION = "/v1/attestation"
PLAIN = ("/live", "/ready", "/health", "/metrics", "/version")  # no text of a user is in them
PROBLEMS = "https://iana.org/assignments/http-problem-types#"
PROBLEM_TYPE = "application/problem+json"
METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS")


class SealedDoor:
    """Around the guarded application of one address."""

    def __init__(self, inner: ASGIApp, access: Access, key: SealingKey, statement: ServiceStatement) -> None:
        self.inner, self.access, self.key, self.statement = inner, access, key, statement
        self.window = Window()
        self.quoting = asyncio.Lock()  # a quote takes the platform its time: one after another

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PLAIN:
            return await self.inner(scope, receive, send)
        try:
            self.access.check({**scope, "method": "GET"}, dict(scope["headers"]))
            answer = await self._answer(scope)
        except ApiError as e:
            answer = e.response(scope["path"])
        if answer is not None:
            return await answer(scope, receive, send)
        await Exchange(self, scope, receive, send).run()

    async def _answer(self, scope: Scope) -> Response | None:
        """None for a sealed request. Raises ApiError."""
        path, method = scope["path"], scope["method"]
        if path == WELL_KNOWN and method == "POST":
            return None
        if path == WELL_KNOWN and method == "GET":
            return Response(self.key.config.document, media_type=KEYS_TYPE)
        if path == ATTESTATION and method == "GET":
            return await self._attest(scope)
        raise ApiError(
            403,
            f"this service takes sealed requests alone: run `steelyard proxy URL` on your machine and send "
            f"{path[:100]} to it",
            code="sealed_only",
        )

    async def _attest(self, scope: Scope) -> Response:
        nonce = parse_qs(scope["query_string"].decode("latin-1")).get("nonce", [""])[0]
        try:
            async with self.quoting:
                told = await asyncio.to_thread(self.statement.answer, nonce)
        except WrongUse as e:
            raise ApiError(400, f"{e.message}: {e.hint}", param="nonce", code=e.code) from e
        except Problem as e:
            log("attestation.failed", code=e.code, why=e.why)
            raise ApiError(503, e.message, code=e.code) from e
        return json_response(told)


class Exchange:
    """One sealed request and its sealed answer."""

    def __init__(self, door: SealedDoor, scope: Scope, receive: Receive, send: Send) -> None:
        self.door, self.scope, self.receive_sealed, self.send_sealed = door, scope, receive, send
        self.opener, self.reader = RequestOpener(door.key), MessageReader()
        self.content = bytearray()  # of the request, not yet received by the application
        self.whole = self.handed_over = self.broken = False
        self.sealer: ResponseSealer | None = None  # once the answer has begun

    async def run(self) -> None:
        try:
            head = await self._head()
        except (NotSealed, Replayed, WrongClock) as e:
            return await self._refuse(e)
        except ClientDisconnect:
            return
        await self.door.inner(self._scope(head), self._receive, self._send)

    # -------------------------------------------------------------- the request

    async def _head(self) -> Head:
        """Raises NotSealed, Replayed, WrongClock, ClientDisconnect."""
        while self.reader.head is None:
            if self.whole:
                raise NotSealed("the request has no head")
            await self._more()
        head = self.reader.head
        if head.method not in METHODS or not head.path.startswith(b"/"):
            raise NotSealed("the request is for no path here")
        self.door.window.take(self.opener.enc, dict(head.fields).get(b"date"))
        return head

    async def _more(self) -> None:
        """Takes what has come; each piece is verified before any of it counts."""
        message = await self.receive_sealed()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        for piece in self.opener.feed(message.get("body", b"")):
            self.content += self.reader.feed(piece)
        if not message.get("more_body", False):
            self.content += self.reader.feed(self.opener.close())
            self.reader.close()
            self.whole = True

    async def _receive(self) -> Message:
        """As the application receives it; where it is damaged or cut off, its client has gone."""
        if self.broken:
            return {"type": "http.disconnect"}
        if self.handed_over:
            return await self.receive_sealed()
        try:
            while not self.content and not self.whole:
                await self._more()
        except (NotSealed, ClientDisconnect) as e:
            self.broken = True
            if isinstance(e, NotSealed):
                log("sealed.broken", why=str(e))
            return {"type": "http.disconnect"}
        body = bytes(self.content)
        self.content.clear()
        if self.whole:
            self.handed_over = True  # what comes now is the client's going
        return {"type": "http.request", "body": body, "more_body": not self.whole}

    def _scope(self, head: Head) -> Scope:
        """What the application sees: the request inside, by the connection and under the name outside."""
        path, _, query = head.path.partition(b"?")
        host = [(name, value) for name, value in self.scope["headers"] if name == b"host"]
        inside = [(name, value) for name, value in head.fields if name not in (b"host", b"transfer-encoding")]
        return {
            **self.scope,
            "method": head.method.decode("ascii"),
            "path": unquote(path.decode("latin-1")),
            "raw_path": path,
            "query_string": query,
            "headers": [*host, *inside],
            "state": {},
        }

    # -------------------------------------------------------------- the answer

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            return await self._begin(message)
        if message["type"] != "http.response.body" or self.sealer is None:
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        pieces = (body[at : at + PLAIN_CHUNK_BYTES] for at in range(0, len(body), PLAIN_CHUNK_BYTES))
        sealed = b"".join(self.sealer.chunk(data_of(piece)) for piece in pieces)
        if not more:
            sealed += self.sealer.chunk(end_of(), final=True)
        await self.send_sealed({"type": "http.response.body", "body": sealed, "more_body": more})

    async def _begin(self, message: Message) -> None:
        self.sealer = self.opener.answer()
        headers = [(b"content-type", RESPONSE_TYPE.encode()), (b"cache-control", b"no-store")]
        await self.send_sealed({"type": "http.response.start", "status": 200, "headers": headers})
        head = Head(status=message["status"], fields=tuple(message.get("headers", ())))
        sealed = self.sealer.beginning + self.sealer.chunk(head_of(head))
        await self.send_sealed({"type": "http.response.body", "body": sealed, "more_body": True})

    async def _refuse(self, error: Exception) -> None:
        """In plain, without a detail that would help to guess (RFC 9458, section 5.3)."""
        status, kind, title = 400, PROBLEMS + "ohttp-key", "the request is not sealed for this key"
        if isinstance(error, WrongClock):
            kind, title = PROBLEMS + "date", "the request's time is too far from the service's"
        elif isinstance(error, Replayed):
            status, kind, title = 409, "urn:steelyard:sealed:replayed", "this request came before"
        log("sealed.refused", why=title)
        body = orjson.dumps({"type": kind, "title": title, "status": status})
        await Response(body, status, media_type=PROBLEM_TYPE)(
            self.scope, self.receive_sealed, self.send_sealed
        )
