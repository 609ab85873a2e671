"""The end of a real front over a fake engine: the drain, what systemd is told, who hears of it.

What a signal sets is set here, and real signals go to a process of its own. One to this process is one to the
test runner, and ends it once tests have compiled models in it: OpenVINO's CPU plugin leaves the main thread a
signal stack that it has unmapped (2026.4, two models freed in the order of their making).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
from faking import FakeEngine, tokenizer_folder

from steelyard.serving import ServeSettings, services
from steelyard.serving.base import log as log_file
from steelyard.serving.service import address, front
from steelyard.serving.service.front import Front
from steelyard.serving.service.state import FILE, died, forget_state, register, write_state

CHAT = "/v1/chat/completions"
ASKED = {"model": "default", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
STREAMED = {**ASKED, "stream": True}


@pytest.fixture
def lines(monkeypatch) -> list[dict]:
    written: list[dict] = []
    monkeypatch.setattr(log_file, "_write", [lambda line: written.append(json.loads(line))])
    return written


@pytest.fixture(autouse=True)
def as_before(monkeypatch, tmp_path):
    monkeypatch.setenv("STEELYARD_STATE", str(tmp_path / "state"))
    handlers = {sig: signal.getsignal(sig) for sig in (signal.SIGTERM, signal.SIGINT)}
    yield
    for sig, handler in handlers.items():
        signal.signal(sig, handler)


@asynccontextmanager
async def service(monkeypatch, tmp_path: Path, **settings):
    """(front, its task, a client), once it is ready."""
    folder = tokenizer_folder(tmp_path / "model")
    monkeypatch.setattr(Front, "_engine", lambda self: FakeEngine(folder))
    serving = Front(folder, ServeSettings(**settings))
    ready: asyncio.Future[dict] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serving.run(ready.set_result))
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    async with httpx.AsyncClient(base_url=ready.result()["url"], timeout=60) as client:
        try:
            yield serving, task, client
        finally:
            serving.stopping.set()
            serving.hurried.set()
            await task


def running(work):
    return asyncio.run(asyncio.wait_for(work, 240))


async def until(true):
    while not true():
        await asyncio.sleep(0.01)


async def begun(client, serving, body=STREAMED):
    """A request that the engine has and does not answer yet."""
    serving.engine.going.clear()
    before = serving.engine.asked
    task = asyncio.create_task(client.post(CHAT, json=body))
    await until(lambda: serving.engine.asked > before)
    return task


def test_at_sigterm_nothing_new_is_taken_and_what_is_under_way_finishes(monkeypatch, tmp_path, lines):
    async def run():
        async with service(monkeypatch, tmp_path, drain_s=200) as (serving, task, client):
            stream = await begun(client, serving)
            serving.stopping.set()
            await until(lambda: serving.served.drain.begun)
            async with httpx.AsyncClient(base_url=client.base_url, timeout=60) as other:  # may still connect
                ready = await other.get("/ready")
                assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
                assert "retry-after" in ready.headers and (await other.get("/live")).status_code == 200
                refused = await other.post(CHAT, json=ASKED)
                assert refused.status_code == 503 and refused.json()["error"]["code"] == "draining"
                assert int(refused.headers["retry-after"]) > 100
            assert not task.done() and not stream.done()
            serving.engine.going.set()
            answer = await stream
            assert answer.text.rstrip().endswith("data: [DONE]") and "error" not in answer.text
            await task
            with pytest.raises(httpx.ConnectError):
                await client.get("/live", headers={"connection": "close"})

    running(run())
    events = [line["event"] for line in lines]
    assert "service.draining" in events and "service.cut" not in events and events[-1] == "service.stopped"


@pytest.mark.parametrize("hurried", [False, True])
@pytest.mark.parametrize("path", [CHAT, "/v1/responses", "/v1/messages", "whole"])
def test_what_is_left_after_the_drain_ends_with_an_error(monkeypatch, tmp_path, lines, hurried, path):
    """After its time, or at the second signal."""
    body = dict(STREAMED)
    if path == "whole":
        path, body = CHAT, dict(ASKED)
    if path == "/v1/responses":
        body = {"model": "default", "input": "hi", "stream": True}

    async def run():
        drain_s = 200 if hurried else 0.05
        async with service(monkeypatch, tmp_path, drain_s=drain_s) as (serving, task, client):
            serving.engine.going.clear()
            before = serving.engine.asked
            asking = asyncio.create_task(client.post(path, json=body))
            await until(lambda: serving.engine.asked > before)
            serving.stopping.set()
            if hurried:
                await until(lambda: serving.served.drain.begun)
                serving.hurried.set()
            answer = await asking
            await task
            return answer

    answer = running(run())
    assert answer.status_code == 503 and "the service is ending" in answer.text
    assert "retry-after" in answer.headers
    (cut,) = [line for line in lines if line["event"] == "service.cut"]
    assert (cut["under_way"], cut["hurried"]) == (1, hurried)


def test_a_stream_that_has_begun_ends_with_an_error_event(monkeypatch, tmp_path, lines):
    class Halting(FakeEngine):
        async def submit(self, request, *more):
            async for event in super().submit(request, *more):
                yield event
                if request["max_tokens"] > 1:  # not the warm-up
                    self.going.clear()

    async def run():
        monkeypatch.setitem(globals(), "FakeEngine", Halting)
        async with service(monkeypatch, tmp_path, drain_s=0.05) as (serving, task, client):
            async with client.stream("POST", CHAT, json=STREAMED) as answer:
                texts = answer.aiter_text()
                first = await anext(texts)
                serving.stopping.set()
                rest = "".join([text async for text in texts])
            await task
            return answer.status_code, first, rest

    status, first, rest = running(run())
    assert status == 200 and "chunk" in first
    last = json.loads(rest.strip().removeprefix("data: "))
    assert last["error"]["code"] == "draining" and "[DONE]" not in rest


def test_an_idle_service_ends_at_once_whatever_its_drain(monkeypatch, tmp_path, lines):
    async def run():
        async with service(monkeypatch, tmp_path, drain_s=3600) as (serving, task, client):
            assert (await client.get("/ready")).status_code == 200
            serving.stopping.set()
            await task

    running(run())
    assert "service.cut" not in [line["event"] for line in lines]


def test_who_hands_over_listens_no_more_and_still_finishes(monkeypatch, tmp_path, lines):
    async def run():
        async with service(monkeypatch, tmp_path, drain_s=200) as (serving, task, client):
            stream = await begun(client, serving)
            serving._obey({"op": "hand_over"})
            serving.stopping.set()
            await until(lambda: serving.served.drain.begun)
            with pytest.raises(httpx.ConnectError):
                await httpx.AsyncClient(timeout=60).get(f"{client.base_url}/live")
            serving.engine.going.set()
            assert "[DONE]" in (await stream).text
            await task

    running(run())


def test_who_has_come_and_not_asked_yet_is_answered_before_the_service_goes(monkeypatch, tmp_path, lines):
    async def run():
        async with service(monkeypatch, tmp_path) as (serving, task, client):
            url = httpx.URL(str(client.base_url))
            reader, writer = await asyncio.open_connection(url.host, url.port)
            await until(lambda: serving.connections.unasked)
            serving._obey({"op": "hand_over"})
            serving.stopping.set()
            await until(lambda: not any(listening.is_serving() for listening in serving.servers[0].servers))
            await asyncio.sleep(0.2)  # uvicorn looks every 0.1 s whether it should exit
            writer.write(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert (await reader.read(100)).startswith(b"HTTP/1.1 200")
            writer.close()
            await task

    running(run())


def test_a_background_response_is_work_under_way(monkeypatch, tmp_path, lines):
    async def run():
        async with service(monkeypatch, tmp_path, drain_s=200) as (serving, task, client):
            serving.engine.going.clear()
            body = {"model": "default", "input": "hi", "background": True, "max_output_tokens": 5}
            made = (await client.post("/v1/responses", json=body)).json()
            serving.stopping.set()
            await until(lambda: serving.served.drain.begun)
            assert serving.served.drain.under_way == 1
            serving.engine.going.set()
            await task
        async with service(monkeypatch, tmp_path) as (_, _, client):
            return (await client.get(f"/v1/responses/{made['id']}")).json()

    kept = running(run())
    assert kept["status"] == "incomplete" and kept["output"], "5 tokens, as asked for"


# ------------------------------------------------------------------ signals, to a process of its own

FRONT = """
import asyncio, sys
from pathlib import Path
from faking import FakeEngine, tokenizer_folder
from steelyard.serving import ServeSettings, services
from steelyard.serving.service.front import Front

folder = tokenizer_folder(Path(sys.argv[1]))
engine = FakeEngine(folder)
Front._engine = lambda self: engine

def ready(document):
    engine.going.clear()
    print(document["url"], flush=True)

asyncio.run(Front(folder, ServeSettings(drain_s=3600)).run(ready))
"""


@pytest.fixture
def front_process(tmp_path):
    """(process, its URL): a front whose engine takes requests and answers none."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", FRONT, str(tmp_path / "model")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    with process:
        yield process, process.stdout.readline().strip()
        process.kill()


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_begins_the_drain_and_a_second_ends_it(front_process, first):
    process, url = front_process
    with httpx.stream("POST", f"{url}{CHAT}", json=STREAMED, timeout=120) as answer:
        process.send_signal(first)
        while httpx.get(f"{url}/ready", timeout=60).status_code != 503:
            time.sleep(0.01)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        text = answer.read().decode()
    assert "draining" in text and "[DONE]" not in text
    assert process.wait(120) == 0


# ------------------------------------------------------------------ what systemd is told


def test_systemd_hears_of_ready_alive_and_ending(monkeypatch, tmp_path, lines):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "60000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        heard: list[str] = []

        async def hear(word: str) -> None:
            while not any(word in message for message in heard):
                with suppress(BlockingIOError):
                    heard.append(manager.recv(4096).decode())
                await asyncio.sleep(0.005)

        async def run():
            async with service(monkeypatch, tmp_path) as (serving, task, client):
                await hear("READY=1")
                await hear("WATCHDOG=1")
                assert "NOTIFY_SOCKET" not in os.environ, "no child speaks for the front"
                assert (await client.get("/ready")).status_code == 200
                serving.stopping.set()
                await hear("STOPPING=1")
                await task

        running(run())
    assert "READY=1" in heard[0] and "STATUS=serving default" in heard[0]


# ------------------------------------------------------------------ addresses, and who has died


def test_an_address_for_all_is_shown_as_one_that_others_can_use(monkeypatch):
    monkeypatch.setattr(address, "outward_address", lambda host: "198.51.100.7")
    for host, local in (("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("127.0.0.1", "127.0.0.1")):
        try:
            listening = front.bind(host, 0)
        except Exception:  # a machine without IPv6
            continue
        with listening:
            port = listening.getsockname()[1]
            assert address.local_url(listening) == f"http://{local}:{port}"
            outward = "127.0.0.1" if host == "127.0.0.1" else "198.51.100.7"
            assert address.url_of(listening) == f"http://{outward}:{port}"
            if host == "0.0.0.0":
                assert address.url_of(listening, True, ("desk.lan",)) == f"https://desk.lan:{port}"
            else:
                assert (address.url_of(listening, names=("desk.lan",)) == f"http://desk.lan:{port}") == (
                    host == "::"
                )


def test_the_outward_address_is_one_of_this_machine():
    found = address.outward_address("0.0.0.0")
    if found is None:
        pytest.skip("this machine has no route to others")
    with socket.socket() as listening:
        listening.bind((found, 0))


def test_who_was_killed_is_told_from_who_was_stopped(tmp_path):
    write_state(tmp_path, {"url": "http://127.0.0.1:1", "pid": os.getpid()})
    assert died(tmp_path) is None
    state = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**state, "started_at": 1.0}))
    assert died(tmp_path)["pid"] == os.getpid()
    write_state(tmp_path, {"url": "http://127.0.0.1:1", "pid": os.getpid()})
    forget_state(tmp_path)
    assert not (tmp_path / FILE).exists() and died(tmp_path) is None
    (tmp_path / FILE).write_text(json.dumps({**state, "pid": 1}))
    forget_state(tmp_path)
    assert (tmp_path / FILE).exists(), "a successor's"


# ------------------------------------------------------------------ those that give way to it


def test_who_follows_hears_when_work_begins_and_ends(monkeypatch, tmp_path):
    async def follow():
        async with service(monkeypatch, tmp_path) as (serving, _, client):
            reader, writer = await asyncio.open_unix_connection(str(serving.private / "control"))
            writer.write(b'{"op":"follow"}\n')
            assert json.loads(await reader.readline()) == {"busy": False}
            assert (await client.post(CHAT, json=ASKED)).status_code == 200
            assert [json.loads(await reader.readline())["busy"] for _ in range(2)] == [True, False]
            writer.close()  # and the service goes on
            assert (await client.post(CHAT, json=ASKED)).status_code == 200

    running(follow())


def test_a_registered_service_names_the_socket_to_follow():
    register("http://127.0.0.1:1", "demo", "/somewhere/control")
    assert [found["control"] for found in services()] == ["/somewhere/control"]
