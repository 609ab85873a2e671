"""Clients that connect and do not ask: their number and their time are bounded."""

from __future__ import annotations

import resource
import socket
import threading
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from watching import until

from steelyard import connections
from steelyard.connections import Connection, Connections, bounded, raise_file_limit
from steelyard.serving.base.errors import refusal

HALF = b"GET /live HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
WHOLE = b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n"
BODY = b"POST /live HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n{"


async def live(request):
    return JSONResponse({"read": len(await request.body())})


async def refused(request):
    """Before its body is read, as a guard does without a key."""
    return JSONResponse({}, 401)


@contextmanager
def served(limit):
    """`served(32)`: the address of a service with room for so many connections."""
    room = Connections(2 * limit + connections.RESERVED_FILES, refusal)
    config = bounded(
        Starlette(
            routes=[
                Route("/live", live, methods=["GET", "POST"]),
                Route("/refused", refused, methods=["POST"]),
            ]
        ),
        room,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname(), room
        finally:
            server.should_exit = True
            thread.join()


def half_sent(stack, address, count, data=HALF):
    opened = [stack.enter_context(socket.create_connection(address, timeout=30)) for _ in range(count)]
    for one in opened:
        one.sendall(data)
    return opened


def ended(connection):
    """Whether the other side has closed it, with or without a last word."""
    with suppress(ConnectionResetError):
        while connection.recv(4096):
            pass
    return True


def answered(connection):
    """One whole answer, head and body."""
    answer = b""
    while not answer.endswith(b"}"):
        answer += connection.recv(4096)
    return answer.startswith(b"HTTP/1.1 200")


def ask(address):
    return httpx.get(f"http://{address[0]}:{address[1]}/live", timeout=60)


def test_many_half_sent_heads_leave_room_for_those_who_ask():
    with served(32) as (address, room), ExitStack() as stack:
        first = half_sent(stack, address, 200)[0]
        for _ in range(5):
            assert ask(address).status_code == 200
        assert ended(first)  # the one that waited longest made room
        assert sum(room.open.values()) <= 32 and room.of_address == 16


def test_bodies_under_way_are_not_closed_for_others_and_a_full_house_says_so():
    with served(32) as (address, room), ExitStack() as stack:
        asking = half_sent(stack, address, 16, BODY)  # all that one address may have
        assert until(lambda: sum(room.open.values()) == 16 and not room.waiting)
        refused = ask(address)
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "too_many_connections"
        asking[0].sendall(b" " * 99_999)
        assert asking[0].recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(("data", "part"), [(HALF, b"head"), (BODY, b"body")])
def test_what_does_not_come_in_time_is_given_up(monkeypatch, data, part):
    monkeypatch.setattr(connections, "HEAD_S", 0.2)
    monkeypatch.setattr(connections, "BODY_S", 0.2)
    with served(32) as (address, room), ExitStack() as stack:
        (slow,) = half_sent(stack, address, 1, data)
        answer = b"".join(iter(lambda: slow.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 408") and part in answer and b"slow_request" in answer
        assert until(lambda: not room.open and not room.waiting)


def test_a_connection_of_which_nothing_came_goes_without_a_word(monkeypatch):
    """A client that asks at that moment would read a 408 as its answer."""
    monkeypatch.setattr(connections, "HEAD_S", 0.2)
    monkeypatch.setattr(connections, "KEEP_S", 0.2)
    with served(32) as (address, room), ExitStack() as stack:
        silent, asked = half_sent(stack, address, 1, b"")[0], half_sent(stack, address, 1, WHOLE)[0]
        assert silent.recv(4096) == b""
        assert answered(asked) and asked.recv(4096) == b""
        assert until(lambda: not room.open and not room.waiting)


def test_a_connection_rests_between_requests_longer_than_a_head_may_take(monkeypatch):
    monkeypatch.setattr(connections, "HEAD_S", 0.2)
    with served(32) as (address, _), ExitStack() as stack:
        (kept,) = half_sent(stack, address, 1, WHOLE)
        assert answered(kept)
        later = half_sent(stack, address, 1, HALF)[0]
        assert ended(later)  # a head's time has passed since the answer
        kept.sendall(WHOLE)
        assert answered(kept)
        kept.sendall(HALF)  # and the next head has no more than the first one
        assert b"408" in b"".join(iter(lambda: kept.recv(4096), b""))


def test_a_body_that_comes_fast_enough_is_not_late(monkeypatch):
    looked_at = []
    fast_enough = Connection._fast_enough
    monkeypatch.setattr(Connection, "_fast_enough", lambda self: looked_at.append(1) or fast_enough(self))
    monkeypatch.setattr(connections, "BODY_S", 0.1)
    monkeypatch.setattr(connections, "BODY_BYTES_PER_S", 0.0)
    with served(32) as (address, _), ExitStack() as stack:
        (steady,) = half_sent(stack, address, 1, BODY)
        assert until(lambda: len(looked_at) > 2)
        steady.sendall(b" " * 99_999)
        assert steady.recv(100).startswith(b"HTTP/1.1 200")


def test_bodies_that_come_on_after_their_answer_keep_no_place(monkeypatch):
    """Without a key, at 1000 bytes a second: a thousand such connections would fill the house for hours."""
    with served(32) as (address, room), ExitStack() as stack:
        (first, *_) = half_sent(stack, address, 16, BODY.replace(b"live", b"refused"))
        assert until(lambda: sum(map(len, room.waiting.values())) == 16)
        assert ask(address).status_code == 200 and ended(first)
        monkeypatch.setattr(connections, "SPARE_S", 0.2)
        monkeypatch.setattr(Connection, "_fast_enough", lambda self: True)
        (late,) = half_sent(stack, address, 1, BODY.replace(b"live", b"refused"))
        assert ended(late)


def test_a_wish_for_websockets_is_answered_over_http_and_not_logged(caplog):
    """uvicorn would advise its user to install something."""
    with served(32) as (address, _), ExitStack() as stack:
        upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n"
        (asking,) = half_sent(stack, address, 1, WHOLE.removesuffix(b"\r\n") + upgrade)
        assert answered(asking) and not caplog.records


def test_a_kept_connection_has_its_time_again():
    with served(32) as (address, room), httpx.Client(base_url=f"http://127.0.0.1:{address[1]}") as kept:
        assert [kept.get("/live").status_code for _ in range(3)] == [200] * 3
        assert [kept.post("/live", content=b"x" * 9).json()["read"] for _ in range(2)] == [9, 9]
        assert sum(room.open.values()) == 1


def test_the_limit_of_files_is_raised_and_leaves_some():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        raised = raise_file_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == raised > 256
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (
        Connections(128, refusal).limit == 32
        and Connections(10**6, refusal).limit == connections.MOST_CONNECTIONS
    )


def test_a_real_service_lives_beside_half_sent_heads(tiny):
    host, port = tiny.url.removeprefix("http://").split(":")
    with ExitStack() as stack:
        half_sent(stack, (host, int(port)), 300)
        assert ask((host, int(port))).status_code == 200
