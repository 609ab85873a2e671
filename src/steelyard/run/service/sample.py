"""One question of the test set put to the live service: for the eye, so nothing hangs on the answer."""

from __future__ import annotations

import json
from typing import Any

from ...artefact import Artefact, Watch
from ...errors import Problem

ANSWER_TOKENS = 128
WAIT_S = 60.0  # a person who waits for the last line of a run waits no longer


def ask_sample(url: str, dataset: Artefact | None, key: str | None, watch: Watch) -> dict[str, str] | None:
    """A row that training never saw, and what the service says to it; None where it says nothing in time."""
    if dataset is None:
        return None
    try:
        messages = first_chat(dataset)
        return answered(url, messages, key) if messages else None
    except (OSError, Problem, ValueError, LookupError, TypeError, AttributeError) as error:
        watch.log("sample.not_answered", why=type(error).__name__)
        return None


def first_chat(dataset: Artefact) -> list[dict[str, Any]] | None:
    """The prompt of the first test row that is a chat."""
    with dataset.path("test.jsonl").open(encoding="utf-8") as lines:
        row = next((json.loads(line) for line in lines if '"messages"' in line), None)
    return [*row["messages"][:-1]] if row else None


def answered(url: str, messages: list[dict[str, Any]], key: str | None) -> dict[str, str]:
    """Streamed, so that a slow service has said something by the end of the wait."""
    import time

    from ...serving import chat

    text, end = "", time.monotonic() + WAIT_S
    pieces = chat(url, messages, api_key=key, timeout_s=WAIT_S, temperature=0, max_tokens=ANSWER_TOKENS)
    for piece in pieces:
        text += piece
        if time.monotonic() > end:
            text += " ..."
            break
    first, last = messages[0], messages[-1]
    system = {"system": first["content"]} if first["role"] == "system" else {}
    return system | {"question": last["content"], "answer": text}
