"""After a promotion: which answers the watch counts, and how it goes back."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from steelyard.serving.base import transport
from steelyard.serving.base.errors import ApiError
from steelyard.serving.base.transport import Stream, event
from steelyard.serving.host.engine_process import EngineLost
from steelyard.serving.rolling import canary
from steelyard.serving.rolling.canary import Canary, Order, read_tally
from steelyard.serving.rolling.deciding import Budget
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


# ------------------------------------------------------------------ going back

TRIED = """
import json, pathlib, sys
file = pathlib.Path("tries")
count = int(file.read_text()) + 1 if file.exists() else 1
file.write_text(str(count))
print(json.dumps({"error": {"message": "another changes the model"}}))
sys.exit(0 if count == 6 else %d)
"""


async def going_back(folder: Path, *back: str) -> Canary:
    """Of a service that has been promoted, and whose answers have all failed."""
    order = Order(
        folder=str(folder), candidate="b", control=str(folder / "nobody"), share=1.0,
        budget=Budget(requests=8), promote=("true",), back=back,
    )  # fmt: skip
    one = Canary(order, breaks_off, Mirror(breaks_off), lambda: None, lambda: True)
    one.promoted()
    while one.state == "watching":
        await request(one.mirror)
    assert one.state == "going back"
    return one


@pytest.fixture
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(canary, "AGAIN_S", 0.01)
    monkeypatch.setattr(canary, "SELDOM_S", 0.02)
    monkeypatch.chdir(tmp_path)


async def until(is_so: Any) -> None:
    async with asyncio.timeout(30):
        while not is_so():
            await asyncio.sleep(0.02)


def test_it_tries_to_go_back_until_that_is_done(quick, tmp_path):
    """Whatever stands in the way: no process, the lock of another, a command that is killed."""

    async def run() -> None:
        script = tmp_path / "back"
        one = await going_back(tmp_path, str(script))
        await until(lambda: one.hindered)
        assert "No such file" in one.document()["hindered"]
        script.write_text(f"#!{sys.executable}\n{TRIED % 5}")
        script.chmod(0o700)
        await until(lambda: one.hindered == "another changes the model")
        one.write()
        assert read_tally(tmp_path)["hindered"] == one.hindered
        await until(lambda: one.tasks[-1].done())
        assert (tmp_path / "tries").read_text() == "6" and one.hindered is None
        one.close()

    asyncio.run(run())


def test_what_does_not_pass_by_waiting_is_tried_once(quick, tmp_path):
    async def run() -> None:
        one = await going_back(tmp_path, sys.executable, "-c", TRIED % 2)
        await until(lambda: one.tasks[-1].done())
        assert one.state == "stays: another changes the model" and (tmp_path / "tries").read_text() == "1"
        one.close()

    asyncio.run(run())


def test_answers_that_are_cut_off_by_the_end_of_the_service_say_nothing(tmp_path):
    async def run() -> None:
        order = Order(
            folder=str(tmp_path), candidate="b", control="nobody", share=1.0,
            budget=Budget(requests=8), promote=("true",), back=("false",),
        )  # fmt: skip
        one = Canary(order, breaks_off, Mirror(breaks_off), lambda: None, lambda: True)
        one.promoted()
        one.rest()
        for _ in range(20):
            await request(one.mirror)
        assert one.state == "watching" and one.watch.answers == 0
        one.close()

    asyncio.run(run())


OUTLIVED = """
import asyncio, sys
from steelyard.serving.rolling.nightly import Nightly

if watcher := getattr(asyncio, "PidfdChildWatcher", None):  # the rule from Python 3.12 on
    asyncio.get_event_loop_policy().set_child_watcher(watcher())

async def main():
    nightly = Nightly("night", ["sh", "-c", "echo > begun; sleep 1; echo > ended"], lambda: 0)
    nightly.running = asyncio.create_task(nightly._refresh())
    await asyncio.sleep(0.5)

asyncio.run(main())
"""


def test_a_command_outlives_the_service_that_it_ends(tmp_path):
    subprocess.run([sys.executable, "-W", "ignore", "-c", OUTLIVED], cwd=tmp_path, check=True)
    assert (tmp_path / "begun").exists()
    asyncio.run(until((tmp_path / "ended").exists))
