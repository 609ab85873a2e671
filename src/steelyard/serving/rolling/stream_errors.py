"""The error that a stream of events ends with, whichever dialect tells it. Pure."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson

from ..base.errors import ANTHROPIC_KINDS, KINDS

OF_THE_REQUEST = frozenset(
    {kind for kinds in (KINDS, ANTHROPIC_KINDS) for status, kind in kinds.items() if status < 500}
    | {"invalid_request_error", "rate_limit_exceeded"}  # of all others; in a response's own words
)


def error_in(data: bytes) -> dict[str, Any] | None:
    """Of whole events: `error` in OpenAI's and in Anthropic's, `response.error` of response.failed."""
    if b'"error"' not in data:  # a model's words have their quotes escaped
        return None
    for line in data.splitlines():
        with suppress(orjson.JSONDecodeError, AttributeError):
            event = orjson.loads(line[5:]) if line.startswith(b"data:") else {}
            error = event.get("error") or (event.get("response") or {}).get("error")
            if isinstance(error, dict):
                return error
    return None


def is_of_the_request(error: dict[str, Any]) -> bool:
    """Whoever asked did something wrong, or too much: it says nothing of the model."""
    return not OF_THE_REQUEST.isdisjoint(map(str, (error.get("type"), error.get("code"))))
