"""One client in Python: each feature a function that asserts; one JSON line a feature on standard output."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
from collections.abc import Callable
from typing import Any

URL = os.environ.get("CLIENTS_URL", "")  # of the service, without /v1
ANSWER, CALLED = "Hello there.", "Done: 20 degrees"  # what the engine answers to a greeting, after a call
GREETING = "Say hello."
CALL = 'Use get_weather {"city": "Paris"}'  # the engine does what stands here
WEATHER = {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
    "additionalProperties": False,
}  # fmt: skip
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def get_weather(city: str) -> str:
    """The weather of a city."""
    assert city == "Paris", city
    return "20 degrees"


def run(*features: Callable[[], Any]) -> None:
    with asyncio.Runner() as runner:  # one loop: a client's connections belong to theirs
        for feature in features:
            _run(feature, runner)


def _run(feature: Callable[[], Any], runner: asyncio.Runner) -> None:
    try:
        if inspect.iscoroutine(made := feature()):
            runner.run(made)
        line = {"outcome": "works"}
    except Exception as e:
        status = getattr(e, "status_code", None)
        outcome = "refused" if status == 400 else "fails"
        line = {"outcome": outcome, "why": f"{type(e).__name__}: {e}"[:600]}
    print(json.dumps({"feature": feature.__name__, **line}), flush=True)
