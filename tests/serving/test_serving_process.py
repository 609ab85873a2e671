"""The processes of a service: keys, publishing, crashes, signals. Nothing may be left behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import httpx
import psutil
import pytest
from watching import free_port, read_metrics, until

from steelyard.errors import Lacking, Refused
from steelyard.serving import ServeSettings, find, prepare, promote, start

ASK = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3, "ignore_eos": True}
KEY = "a-secret-key"


def gone(pids):
    return not any(lives(pid) for pid in pids)


def lives(pid):
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def test_the_key_guards_every_route_but_live_and_is_logged_nowhere(tiny_ir, tmp_path):
    log = tmp_path / "log"
    service = start(tiny_ir, ServeSettings(api_key=KEY), log=log)
    try:
        for path in ("/health", "/metrics", "/v1/models", "/version", "/openapi.json", "/nowhere", "//live"):
            assert httpx.get(service.url + path).status_code == 401
            assert httpx.get(service.url + path, headers={"authorization": "Bearer wrong"}).status_code == 401
        assert httpx.post(f"{service.url}/v1/chat/completions", json=ASK).status_code == 401
        assert httpx.get(f"{service.url}/live").status_code == 200
        for headers in ({"authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}):
            url = f"{service.url}/v1/chat/completions"
            assert httpx.post(url, json=ASK, headers=headers).status_code == 200
        assert service.healthy(KEY) and not service.healthy()
        arguments = " ".join(" ".join(psutil.Process(pid).cmdline()) for pid in service.pids())
        assert KEY not in arguments + repr(service)
    finally:
        service.stop()
    assert log.stat().st_size and KEY not in log.read_text() and "hello" not in log.read_text()


def test_an_open_address_needs_a_key(tiny_ir, tiny):
    with pytest.raises(Refused, match=r"0\.0\.0\.0"):
        start(tiny_ir, ServeSettings(host="0.0.0.0"))
    with pytest.raises(Refused):
        promote(tiny, "0.0.0.0", 0)


def test_a_taken_port_is_said(tiny):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Lacking, match=str(port)) as e:
            promote(tiny, "127.0.0.1", port)
    assert e.value.code == "serve.port_taken" and e.value.hint
    assert tiny.healthy()


def test_a_model_that_cannot_load_is_said(tiny_ir, tmp_path):
    for file in tiny_ir.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "openvino_model.xml").write_text("<net>")
    with pytest.raises(Lacking, match="could not load"):
        start(tmp_path, ServeSettings())


STARTER = """
import sys, time
from pathlib import Path
from steelyard.serving import ServeSettings, promote, start
service = start(Path(sys.argv[1]), ServeSettings())
if sys.argv[2] == "publish":
    service = promote(service, "127.0.0.1", int(sys.argv[3]), Path(sys.argv[4]))
print(*service.pids(), flush=True)
time.sleep(60)
"""


def starter(*arguments):
    command = [sys.executable, "-c", STARTER, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return process, [int(pid) for pid in process.stdout.readline().split()]


def test_a_candidate_dies_with_its_starter(tiny_ir):
    process, pids = starter(tiny_ir, "keep")
    assert len(pids) == 2
    process.kill()
    process.wait()
    assert until(lambda: gone(pids))


def test_a_published_service_lives_on_and_is_found_and_stopped(tiny_ir, tmp_path):
    port = free_port()
    process, pids = starter(tiny_ir, "publish", port, tmp_path)
    process.kill()
    process.wait()
    process.stdout.close()
    found = find(tmp_path)
    assert found.url == f"http://127.0.0.1:{port}" and found.healthy()
    assert os.getpgid(found.pid) == found.pid
    assert [os.readlink(f"/proc/{found.pid}/fd/{fd}") for fd in (0, 1, 2)] == ["/dev/null"] * 3
    os.kill(found.pid, signal.SIGTERM)
    assert until(lambda: gone(pids), 15)
    assert find(tmp_path) is None


def test_sigterm_while_answering_ends_all_soon(tiny_ir):
    service = start(tiny_ir, ServeSettings())
    pids = service.pids()
    body = {**ASK, "max_tokens": 400, "stream": True}
    with httpx.stream("POST", f"{service.url}/v1/chat/completions", json=body, timeout=60) as response:
        next(response.iter_lines())
        began = time.monotonic()
        service.stop()
        assert time.monotonic() - began < 15
    assert until(lambda: gone(pids), 15) and not service.alive()


def test_kill_9_of_the_front_end_leaves_nothing_behind(tiny_ir):
    service = start(tiny_ir, ServeSettings())
    pids = service.pids()
    os.kill(service.pid, signal.SIGKILL)
    assert until(lambda: gone(pids))
    service.stop()


def test_a_model_opened_in_memory_outlives_its_starter(tiny_ir):
    from steelyard.artefact import private_folder

    opened = private_folder()
    for file in tiny_ir.iterdir():
        (opened / file.name).write_bytes(file.read_bytes())
    service = start(opened, ServeSettings())
    try:
        promote(service, "127.0.0.1", 0)
        for file in opened.iterdir():
            file.unlink()
        os.kill(service.engine_pid, signal.SIGKILL)
        assert until(lambda: read_metrics(service)["steelyard:engine_restarts"] >= 1)
        assert until(service.healthy)
        kept = list(opened.parent.glob(f"steelyard-open-{service.pid}-*"))
        assert len(kept) == 1
    finally:
        service.stop()
    assert not kept[0].exists()


def test_a_dead_engine_is_told_and_started_again(tiny_ir, tmp_path):
    folder = shutil.copytree(tiny_ir, tmp_path / "ir")
    service = start(folder, ServeSettings())
    try:
        folder.rename(tmp_path / "away")  # it cannot start again as yet
        os.kill(service.engine_pid, signal.SIGKILL)
        assert until(lambda: httpx.get(f"{service.url}/health").status_code == 503, 15)
        assert httpx.get(f"{service.url}/live").status_code == 200
        (tmp_path / "away").rename(folder)
        assert until(service.healthy)
        assert httpx.post(f"{service.url}/v1/chat/completions", json=ASK, timeout=30).status_code == 200
        assert len(service.pids()) == 2
    finally:
        service.stop()


def test_a_pause_is_no_hang(tiny_ir):
    service = start(tiny_ir, ServeSettings())
    try:
        for pid in service.pids():
            os.kill(pid, signal.SIGSTOP)
        time.sleep(1)
        for pid in service.pids():
            os.kill(pid, signal.SIGCONT)
        assert service.healthy()
        assert httpx.post(f"{service.url}/v1/chat/completions", json=ASK, timeout=30).status_code == 200
    finally:
        service.stop()


def test_a_model_is_exported_once(tiny_models, tmp_path, monkeypatch):
    monkeypatch.setenv("STEELYARD_CACHE", str(tmp_path / "cache"))
    folder = tiny_models("qwen2")
    first, second = prepare(str(folder)), prepare(str(folder))
    assert first == second and len(list((tmp_path / "cache" / "served").iterdir())) == 1
    assert prepare(str(first.folder)).folder == first.folder
    assert prepare(str(folder), form="int8").folder != first.folder


def test_streams_do_not_wait_for_acknowledgements():
    """asyncio sets TCP_NODELAY on accepted connections where the listening socket names its protocol."""
    import socket

    from steelyard.serving.service.front import bind

    with bind("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP
