"""`played_ray(**what goes wrong)`: this process asks played nodes (played_nodes.py) instead of Ray's."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from steelyard.cluster.nodes import WORKER, worker_words
from steelyard.cluster.through_ray import process


@pytest.fixture
def played_ray(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def use(**wrong: object) -> None:
        monkeypatch.setenv("PLAYED", json.dumps(wrong))

    monkeypatch.setattr(process, "check_ray", lambda where: None)
    monkeypatch.setattr(process, "check_reachable", lambda head, environment: None)
    monkeypatch.setattr(process, "ray_environment", lambda keys: {WORKER: json.dumps(worker_words())})
    monkeypatch.setattr(process, "trl_python", lambda: sys.executable)
    monkeypatch.setattr(process, "CHILD", Path(__file__).with_name("played_nodes.py"))
    monkeypatch.setattr(process, "NOT_INHERITED", ())
    monkeypatch.setenv("PYTHONPATH", str(Path(process.__file__).parents[3]))
    return use
