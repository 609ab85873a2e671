"""A receipt for each answer whose request asks for one by `x-steelyard-receipt: yes` (trust/receipts.py).

It signs the bytes as they pass here, behind the guard: whatever a route makes of a request, errors too. A
whole answer has it in a header; a stream, whose head is long gone by then, in a last comment. Both name its
id at once: GET /v1/receipts/ID gives it again, to the same key, while this process lives and 10,000 newer
ones have not come. Not for lines of batches, embeddings and ranking, nor a kept response that is read again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...artefact import adopt
from ...trust import RECEIPT_HEADER as HEADER
from ...trust import RECEIPT_ID_HEADER as ID_HEADER
from ...trust import Counted, Facts, as_comment, as_header, receipt, signing_key
from ..base.errors import ApiError
from ..base.guard import Caller
from ..base.transport import streams
from ..host.generation import Served
from ..turn.api import Api

ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
WANTED = (b"yes", b"true", b"1")
KEPT = 10_000  # of 900 bytes each


class Kept:
    """The last receipts, each for the owner of the key that asked."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, tuple[str, bytes]] = OrderedDict()

    def add(self, receipt_id: str, owner: str, line: bytes) -> None:
        self._lines[receipt_id] = (owner, line)
        if len(self._lines) > KEPT:
            self._lines.popitem(last=False)

    def get(self, receipt_id: str, caller: Caller) -> bytes:
        """Raises ApiError 404, for another key's too."""
        owner, line = self._lines.get(receipt_id, ("", b""))
        if not line or (owner != caller.owner and "admin" not in caller.scopes):
            raise ApiError(404, f"there is no receipt {receipt_id!r}", param="id", code="not_found")
        return line


def routes(api: Api) -> list[Route]:
    api.receipts = Kept()

    async def one(request: Request) -> Response:
        line = api.receipts.get(request.path_params["id"], api.caller(request))
        return Response(line, media_type="application/json")

    return [Route("/v1/receipts/{id}", one)]


class Receipts:
    """Around the routes. Raises Problem where this installation's key cannot be read or made."""

    def __init__(self, inner: ASGIApp, api: Api) -> None:
        self.inner, self.api, self.key = inner, api, signing_key()
        self._hashes: dict[str, str] = {}  # of adapters, by folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _wants_one(scope):
            return await self.inner(scope, receive, send)
        exchange = _Exchange(self, scope, receive, send)
        await self.inner(scope, exchange.receive, exchange.send)

    async def adapters(self, caller: Caller) -> dict[str, str]:
        """Hashes of those that answered, by name."""
        return {name: await self._hash_of(name) for name in sorted(caller.adapters)}

    async def _hash_of(self, name: str) -> str:
        served: Served = self.api.served
        folder = served.tuned.folders.get(name) or served.engine.adapters.get(name) or ""
        if folder not in self._hashes:
            self._hashes[folder] = await asyncio.to_thread(lambda: adopt(Path(folder)).hash) if folder else ""
        return self._hashes[folder]


def _wants_one(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in ROUTES:
        return False
    return dict(scope["headers"]).get(HEADER.encode(), b"").strip().lower() in WANTED


class _Exchange:
    """One request and its answer, as they pass."""

    def __init__(self, receipts: Receipts, scope: Scope, receive: Receive, send: Send) -> None:
        self.receipts, self.scope, self._receive, self._send = receipts, scope, receive, send
        self.id = f"rcpt-{secrets.token_hex(16)}"
        self.request, self.answer = Counted(), Counted()
        self.start: Message | None = None  # held back until the receipt can stand in it
        self.pieces: list[bytes] = []
        self.status, self.streamed = 0, False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.request.add(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            return await self._begin(message)
        if message["type"] != "http.response.body":
            return await self._send(message)
        body = message.get("body", b"")
        self.answer.add(body)
        if message.get("more_body", False):
            if self.streamed:
                return await self._send(message)
            self.pieces.append(body)
            return None
        return await self._end(body)

    async def _begin(self, message: Message) -> None:
        self.status = message["status"]
        self.streamed = streams(message.get("headers", ()))
        message["headers"] = [*message.get("headers", ()), (ID_HEADER.encode(), self.id.encode())]
        if self.streamed:
            await self._send(message)
        else:
            self.start = message

    async def _end(self, body: bytes) -> None:
        line = await self._signed()
        if self.start is not None:
            self.start["headers"].append((HEADER.encode(), as_header(line).encode()))
            await self._send(self.start)
            body = b"".join([*self.pieces, body])
        else:
            body += as_comment(line)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _signed(self) -> bytes:
        caller: Caller = self.scope.get("state", {}).get("caller") or Caller()
        api = self.receipts.api
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        facts = Facts(
            id=self.id, at=at, path=self.scope["path"], status=self.status, model=api.fingerprint,
            adapters=await self.receipts.adapters(caller), gate=api.served.gate,
        )  # fmt: skip
        line = receipt(self.receipts.key, facts, self.request, self.answer)
        api.receipts.add(self.id, caller.owner, line)
        return line


def around(inner: ASGIApp, api: Any) -> ASGIApp:
    """With receipts, where the service is told to give them."""
    return Receipts(inner, api) if api.settings.receipts else inner
