"""Clients of PyPI and npm at pinned versions, each a process, where a folder for them is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))
import clients  # noqa: E402

FOLDER = os.environ.get("STEELYARD_CLIENTS")
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CALL = {"name": "get_weather", "arguments": {"city": "Paris"}}


def prompt(*turns):
    """Turns of (role, text), as the template writes them; the answer's begins."""
    return (
        "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns) + "<|im_start|>assistant\n"
    )


def test_the_engine_does_what_the_prompt_says():
    ask = ("user", f"Use get_weather {json.dumps(CALL['arguments'])}")
    assert clients.reply(prompt(("user", "Hi")), None) == clients.ANSWER
    assert json.loads(clients.reply(prompt(ask), None).split("\n")[1]) == CALL
    result = ("user", "<tool_response>\n20 degrees\n</tool_response>")
    assert clients.reply(prompt(ask, result), None) == "Done: 20 degrees"
    assert json.loads(clients.reply(prompt(("user", "Hi")), WEATHER)) == {"city": "Paris"}
    calls = {"type": "array", "items": WEATHER}
    either = {"anyOf": [calls, {"$ref": "#/$defs/$format"}], "$defs": {"$format": WEATHER}}
    assert json.loads(clients.reply(prompt(ask), either)) == [CALL]
    assert json.loads(clients.reply(prompt(("user", "Hi")), either)) == {"city": "Paris"}


@pytest.mark.skipif(FOLDER is None, reason="STEELYARD_CLIENTS names no folder for the clients")
@pytest.mark.timeout(3600)
def test_every_feature_of_every_client_works_or_is_documented():
    words = [sys.executable, str(ROOT / "bench/clients.py"), "--folder", str(FOLDER), "--install"]
    ran = subprocess.run(words, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
