"""One request to the service from inside it: the same routes, without a socket and behind the guard."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.types import ASGIApp, Message

from ..base.guard import Caller


@dataclass(frozen=True, slots=True)
class InnerAnswer:
    """Status, headers in lower case, and the JSON body."""

    status: int
    headers: dict[str, str]
    body: Any


async def ask(
    app: ASGIApp, path: str, document: dict[str, Any], caller: Caller, request_id: str
) -> InnerAnswer:
    """POST `document` as `caller`. The answer must be a JSON document, not a stream."""
    data = orjson.dumps(document)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    scope: dict[str, Any] = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"",
        "headers": [*headers, (b"x-request-id", request_id.encode())], "client": None,
        "server": ("inside", None), "state": {"caller": caller},
    }  # fmt: skip
    head = {"status": 500, "headers": {}}
    answer = bytearray()
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:
            await asyncio.Event().wait()  # the asker stays; giving up is a cancelled task
        given = True
        return {"type": "http.request", "body": data, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            head["status"] = message["status"]
            head["headers"] = {
                k.decode("latin-1").lower(): v.decode("latin-1") for k, v in message["headers"]
            }
        else:
            answer.extend(message.get("body", b""))

    await app(scope, receive, send)
    return InnerAnswer(head["status"], head["headers"], orjson.loads(answer) if answer else None)  # type: ignore[arg-type]
