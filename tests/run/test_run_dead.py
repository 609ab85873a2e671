"""A published service that died is told from one that was stopped, and can be brought back or forgotten."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pytest

from steelyard.artefact import Watch
from steelyard.recipe import Trust
from steelyard.run import known
from steelyard.run.record.workdir import Workdir
from steelyard.serving import find
from steelyard.serving.service.state import FILE, write_state


@pytest.fixture
def place(tmp_path, monkeypatch) -> Workdir:
    """A work folder with a service that lives: this process."""
    monkeypatch.setenv("STEELYARD_STATE", str(tmp_path / "state"))
    place = Workdir(tmp_path / "desk")
    place.service.mkdir(parents=True)
    recipe = SimpleNamespace(name="desk", trust=Trust(), root=tmp_path, path=tmp_path / "desk.yaml")
    known.remember(place, "r1", recipe, Watch())
    write_state(place.service, {"url": "http://127.0.0.1:1", "pid": os.getpid(), "control": "c"})
    return place


def state() -> str:
    (run,) = known.status()
    return run["state"]


def kill(place: Workdir) -> None:
    """As a kill -9 leaves it: the file names a process that is not there any more."""
    file = place.service / FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"started_at": 1.0}))


def test_status_says_that_a_service_has_died_and_stop_forgets_it(place):
    assert state() == "serving"
    kill(place)
    assert state() == "dead" and find(place.service) is None, "nothing stands in the way of `up`"
    assert known.stop("desk")["service"] is None
    assert state() == "stopped"
    (place.service / FILE).write_text("half a fi")
    assert state() == "stopped"
