"""After a promotion: which answers the watch counts, and how it goes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from steelyard.serving.base import transport
from steelyard.serving.base.errors import ApiError
from steelyard.serving.base.transport import Stream, event
from steelyard.serving.host.engine_process import EngineLost
from steelyard.serving.rolling.mirror import Mirror
from steelyard.serving.turn.failures import failed_by

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
LOST = ApiError(503, "the engine is gone", code="engine_unavailable")
FAILED = {"type": "response.failed", "response": {"error": {"code": "server_error", "message": "gone"}}}
BEGUN = {"type": "response.created", "response": {"error": None}}
TOO_MANY = {"type": "response.failed", "response": {"error": {"code": "rate_limit_exceeded"}}}


def stream(*events: bytes, first_s: float = 0.0) -> ASGIApp:
    """As our routes answer; an event that is none is raised."""

    async def pieces() -> AsyncGenerator[bytes, None]:
        await asyncio.sleep(first_s)
        for one in events:
            yield one

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Stream(pieces())(scope, receive, send)

    return app


def whole(status: int, wait_s: float = 0.0) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await asyncio.sleep(wait_s)
        await ApiError(status, "so it is").response()(scope, receive, send)

    return app


async def breaks_off(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise RuntimeError("gone")


async def request(app: ASGIApp, path: str = CHAT, body: bytes = b"{}", stays_s: float = 60.0) -> None:
    """From a client that leaves after `stays_s`."""
    sent = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        if (message := next(sent, None)) is None:
            await asyncio.sleep(stays_s)
        return message or {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        """It reads."""

    scope = {"type": "http", "method": "POST", "path": path, "server": ("127.0.0.1", 1), "headers": []}
    with suppress(RuntimeError):
        await app(scope, receive, send)


def counted(app: ASGIApp, path: str = CHAT, body: bytes = b"{}", stays_s: float = 60.0) -> Any:
    """What the watch hears of one request: did it fail, when did it begin, has its client left."""
    mirror, heard = Mirror(app), list[tuple[bool, float, bool]]()
    mirror.ended = lambda *one: heard.append(one)
    asyncio.run(request(mirror, path, body, stays_s))
    return heard[0] if heard else None


ONE = event({"choices": [{"index": 0, "delta": {"content": 'it says {"error": {"type": "x"}}'}}]})
REFUSED = ApiError(400, "no such thing")
BACKGROUND = b'{"background": true}'


@pytest.mark.parametrize(
    "app, path, body, failed",
    [
        (stream(ONE, b"data: [DONE]\n\n"), CHAT, b"{}", False),
        (stream(ONE, event(LOST.document())), CHAT, b"{}", True),
        (stream(ONE + event(LOST.document())), "/v1/completions", b"{}", True),
        (stream(ONE, event(LOST.anthropic(), "error")), MESSAGES, b"{}", True),
        (stream(event(BEGUN, "response.created"), event(FAILED, "response.failed")), RESPONSES, b"{}", True),
        (stream(event(BEGUN, "response.created")), RESPONSES, b"{}", False),
        (breaks_off, CHAT, b"{}", True),
        (whole(500), MESSAGES, b"{}", True),
        (whole(503), CHAT, b"{}", True),
        # what says nothing of the model
        *((whole(status), CHAT, b"{}", None) for status in (400, 401, 404, 413, 422, 429)),
        (stream(ONE, event(REFUSED.document())), CHAT, b"{}", None),
        (stream(ONE, event(ApiError(429, "too many").anthropic(), "error")), MESSAGES, b"{}", None),
        (stream(event(TOO_MANY, "response.failed")), RESPONSES, b"{}", None),
        (stream(ONE), RESPONSES, BACKGROUND, None),
        (stream(ONE), "/v1/embeddings", b"{}", None),
    ],
)
def test_which_answers_count_and_which_of_them_failed(app, path, body, failed):
    heard = counted(app, path, body)
    assert (None if heard is None else heard[0]) is failed


def test_a_comment_is_no_first_piece(monkeypatch):
    """It comes every ten seconds while nothing else does."""
    monkeypatch.setattr(transport, "PING_S", 0.02)
    failed, first_s, _ = counted(stream(ONE, first_s=0.2))
    assert not failed and first_s >= 0.2
    lost = failed_by(lambda e: event(e.document()))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def none() -> AsyncGenerator[bytes, None]:
            await asyncio.sleep(0.1)
            raise EngineLost("gone")
            yield b""

        await Stream(none(), failed=lost)(scope, receive, send)

    assert counted(app)[0], "the head was sent with a comment: its status is 200"
    failed, first_s, left = counted(stream(ONE, first_s=5.0), stays_s=0.2)
    assert not failed and left and first_s >= 0.2, "it left because nothing came"
    failed, first_s, left = counted(whole(408, wait_s=0.1))
    assert not failed and left and first_s >= 0.1, "its own deadline has passed"
