"""A service of `serve` is found by `status`, ended by `stop`, and gone from the list afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from steelyard.serving import services
from steelyard.serving.service.state import forget, register, registry

STEELYARD = [sys.executable, "-m", "steelyard"]


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    names = {"HOME": "home", "XDG_STATE_HOME": "state", "STEELYARD_CACHE": "cache"}
    kept = {k: v for k, v in os.environ.items() if not k.startswith("STEELYARD")}
    return kept | {name: str(tmp_path / folder) for name, folder in names.items()} | {"LANG": "C.UTF-8"}


def verb(home: dict[str, str], *words: str) -> Any:
    done = subprocess.run(
        [*STEELYARD, *words, "--json"], env=home, capture_output=True, text=True, timeout=120
    )
    return json.loads(done.stdout)


def test_status_lists_what_serve_started_and_stop_ends_it(home, tiny_models) -> None:
    model = tiny_models("llama")
    command = [*STEELYARD, "serve", str(model), "--port", "0", "--form", "f32", "--json"]
    serving = subprocess.Popen(command, env=home, stdout=subprocess.PIPE, text=True)
    try:
        ready = json.loads(serving.stdout.readline())
        (entry,) = verb(home, "status")["runs"]
        assert (entry["service"]["url"], entry["service"]["pid"]) == (ready["url"], serving.pid)
        assert (entry["state"], entry["name"]) == ("serving", model.name)
        stopped = verb(home, "stop", model.name)["stopped"]
        assert stopped["service"] == serving.pid and serving.wait(10) is not None
        assert verb(home, "status")["runs"] == []
    finally:
        serving.kill()
        serving.wait()


def test_an_entry_of_a_dead_process_is_removed(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("STEELYARD_STATE", str(tmp_path))
    register("http://127.0.0.1:1", "demo")
    (own,) = services()
    assert (own["pid"], own["source"]) == (os.getpid(), "demo")
    (registry() / "1.json").write_text(json.dumps(own | {"pid": 1, "started_at": 0.0}))
    (registry() / "2.json").write_text("half")
    assert services() == [own] and len(list(registry().glob("*.json"))) == 1
    forget()
    assert services() == []


def test_a_home_that_cannot_be_written_forbids_no_service(monkeypatch) -> None:
    monkeypatch.setenv("STEELYARD_STATE", "/proc/nowhere")
    register("http://127.0.0.1:1", "demo")
    forget()
    assert services() == []


def test_the_registry_holds_no_key(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("STEELYARD_STATE", str(tmp_path))
    register("http://127.0.0.1:1", "demo")
    text = next(registry().glob("*.json")).read_text()
    assert set(json.loads(text)) == {"url", "pid", "source", "control", "started_at", "drain_s"}
    forget()
