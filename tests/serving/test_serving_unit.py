"""The systemd unit of a service, and a front that dies and is started again by the words of that unit."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import httpx
import psutil
import pytest

from steelyard.cli.asking.flags import words_of
from steelyard.cli.asking.serve_flags import ServeFlags
from steelyard.cli.verbs.services import settings_of
from steelyard.serving.service import unit

STEELYARD = [sys.executable, "-m", "steelyard"]
ANALYZE = os.environ.get("STEELYARD_SYSTEMD_ANALYZE") or shutil.which("systemd-analyze")


def words(line: str) -> list[str]:
    """A command line as systemd reads it: words in quotes or bare, C escapes, %% and $$."""
    found = re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', line)
    plain = [quoted or bare for quoted, bare in found]
    return [re.sub(r"\\(.)", r"\1", word).replace("%%", "%").replace("$$", "$") for word in plain]


def read(text: str) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",))
    parser.optionxform = str
    parser.read_string(text)
    return {name: dict(parser[name]) for name in parser.sections()}


def unit_of(**flags) -> str:
    given = ServeFlags(**{"model": "demo", **flags})
    return unit.unit_of(words_of(given), settings_of(given))


def test_a_unit_is_hardened_and_waits_for_the_drain():
    service = read(unit_of(drain="90s"))["Service"]
    assert service["Type"] == "notify" and service["WatchdogSec"] == str(unit.WATCHDOG_S)
    assert (service["Restart"], service["RestartPreventExitStatus"]) == ("on-failure", "2 3")
    assert int(service["TimeoutStopSec"]) == 90 + unit.CLOSE_S
    assert service["KillMode"] == "mixed", "engines are ended by the front, not beside it"
    for name in ("NoNewPrivileges", "PrivateTmp", "RestrictSUIDSGID", "ProtectKernelModules"):
        assert service[name] == "yes", name
    assert service["ProtectSystem"] == "strict" and service["StateDirectory"] == "steelyard"
    assert service["CapabilityBoundingSet"] == "" and "PrivateDevices" in service
    assert read(unit_of(port=443))["Service"]["AmbientCapabilities"] == "CAP_NET_BIND_SERVICE"
    assert "PrivateDevices" not in read(unit_of(engine="vllm"))["Service"], "it has to find its GPU"


def test_the_command_of_a_unit_is_the_command_that_was_given(tmp_path):
    given = {
        "name": 'a "desk" at 100% of $HOME', "port": 8123, "alias": ["gpt-*", "b c"], "tune": True,
        "keys": tmp_path / "keys of all.json", "host": "0.0.0.0", "max_queue_s": 5.5,
    }  # fmt: skip
    text = unit_of(**given)
    command = words(read(text)["Service"]["ExecStart"])
    assert command[:5] == [sys.executable, "-P", "-m", "steelyard", "serve"]
    assert command[5] == "demo" and command[5:] == words_of(ServeFlags(model="demo", **given))
    assert set(pairwise(command)) >= {
        ("--alias", "gpt-*"), ("--alias", "b c"), ("--name", given["name"]), ("--max-queue-s", "5.5"),
    }  # fmt: skip
    assert f'ReadWritePaths="-{tmp_path}"' in text or f"ReadWritePaths=-{tmp_path}" in text
    assert read(text)["Service"]["StateDirectory"] == "steelyard-a-desk-at-100-of-hom"


def test_who_runs_it(monkeypatch):
    monkeypatch.setattr(unit.getpass, "getuser", lambda: "anna")
    monkeypatch.setattr(unit, "_paths", lambda words: ["/opt/steelyard/bin/python"])
    monkeypatch.setattr(unit.os, "geteuid", lambda: 1000)
    service = read(unit_of())["Service"]
    assert service["User"] == "anna" and service["ProtectHome"] == "yes"
    monkeypatch.setattr(unit.os, "geteuid", lambda: 0)
    service = read(unit_of())["Service"]
    assert (service["DynamicUser"], service["User"]) == ("yes", "steelyard")
    monkeypatch.setattr(unit, "_paths", lambda words: ["/root/venv/bin/python"])
    text = unit_of()
    service = read(text)["Service"]
    assert "DynamicUser" not in service and service["ProtectHome"] == "read-only" and "# /root/venv" in text


def run(*given: str, **more: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("STEELYARD_A")} | more
    command = [*STEELYARD, "serve", *given]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


def test_no_key_stands_in_a_unit_and_a_wrong_door_makes_none(tmp_path):
    refused = run("demo", "--unit", STEELYARD_API_KEY="sk-secret")
    assert refused.returncode == 2 and "sk-secret" not in refused.stdout + refused.stderr
    assert run("demo", "--unit", "--host", "0.0.0.0").returncode == 3
    made = run("demo", "--unit-file", str(tmp_path / "a.service"), "--json")
    assert json.loads(made.stdout)["file"] == str(tmp_path / "a.service")
    assert (tmp_path / "a.service").read_text() == json.loads(made.stdout)["unit"]


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not here: the unit is not checked by systemd")
@pytest.mark.parametrize("flags", [{}, {"drain": "30s", "name": 'a "b" 100% $c', "alias": ["x y", "gpt-*"]}])
def test_systemd_finds_no_fault_in_it(tmp_path, flags):
    file = tmp_path / "steelyard.service"
    file.write_text(unit_of(**flags))
    checked = subprocess.run([str(ANALYZE), "verify", str(file)], capture_output=True, text=True, timeout=300)
    assert checked.returncode == 0 and "steelyard.service" not in checked.stderr, checked.stderr


# ------------------------------------------------------------------ dead and started again


class Manager:
    """Plays systemd: starts the very command of a unit, hears READY=1, starts it again where it fails."""

    def __init__(self, text: str, folder: Path) -> None:
        self.command = words(read(text)["Service"]["ExecStart"])
        names = {"STATE": "state", "CACHE": "cache"}
        plain = {k: v for k, v in os.environ.items() if not k.startswith("STEELYARD_")}
        own = {f"STEELYARD_{name}": str(folder / place) for name, place in names.items()}
        self.env = plain | own | {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "60000000"}
        self.heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.heard.bind(str(folder / "notify"))
        self.heard.settimeout(500)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        self.process = subprocess.Popen(self.command, env=self.env, cwd="/")
        self.hear("READY=1")
        return self.process

    def hear(self, word: str) -> None:
        while word not in self.heard.recv(4096).decode():
            pass

    def close(self) -> None:
        self.heard.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def until(true, limit_s: float = 500.0) -> None:
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.timeout(1800)
def test_a_front_that_is_killed_and_started_again_has_lost_nothing(tiny_models, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = {"model": str(tiny_models("llama")), "form": "f32", "port": port, "max_num_seqs": 2}
    manager = Manager(unit_of(**flags), tmp_path)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300)
    rows = [
        {"custom_id": f"r{i}", "method": "POST", "url": "/v1/completions",
         "body": {"model": "default", "prompt": f"say {i}", "max_tokens": 20, "ignore_eos": True}}
        for i in range(60)
    ]  # fmt: skip
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()

    def batch() -> dict:
        return client.get(f"/v1/batches/{made['id']}").json()

    def response(response_id: str) -> dict:
        return client.get(f"/v1/responses/{response_id}").json()

    try:
        front = manager.start()
        form = {"data": {"purpose": "batch"}, "files": {"file": ("in.jsonl", data)}}
        file = client.post("/v1/files", **form).json()
        asked = {"model": "default", "input": "hi", "background": True, "max_output_tokens": 5}
        kept = client.post("/v1/responses", json=asked).json()["id"]
        until(lambda: response(kept)["status"] == "incomplete")
        text = response(kept)["output"]
        body = {"input_file_id": file["id"], "endpoint": "/v1/completions", "completion_window": "24h"}
        made = client.post("/v1/batches", json=body).json()
        until(lambda: batch()["request_counts"]["completed"] > 0)
        long = {**asked, "max_output_tokens": 400, "extra": "x"}
        making = [client.post("/v1/responses", json=long).json()["id"] for _ in range(3)]
        engines = psutil.Process(front.pid).children(recursive=True)
        assert engines
        os.kill(front.pid, signal.SIGKILL)
        front.wait()
        _, alive = psutil.wait_procs(engines, timeout=300)
        assert not alive, "an engine has outlived its front"
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
        again = manager.start()
        assert client.get(f"/v1/files/{file['id']}/content").content == data
        assert response(kept)["output"] == text
        until(lambda: batch()["status"] == "completed")
        until(lambda: all(response(one)["status"] == "incomplete" for one in making))
        assert batch()["request_counts"] == {"total": 60, "completed": 60, "failed": 0}
        answers = client.get(f"/v1/files/{batch()['output_file_id']}/content").text.splitlines()
        assert {json.loads(line)["custom_id"] for line in answers} == {row["custom_id"] for row in rows}
        assert len(answers) == 60, "none was answered twice"
        again.send_signal(signal.SIGTERM)
        assert again.wait(300) == 0, "an end in good order is no failure to systemd"
        manager.hear("STOPPING=1")
    finally:
        manager.close()
