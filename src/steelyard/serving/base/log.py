"""The service's log: one JSON line an event, to standard error. No text of a user stands in it."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Any

import orjson


def log(event: str, **fields: Any) -> None:
    """One JSON line to standard error, which is the service's log file."""
    with suppress(OSError, ValueError):
        sys.stderr.buffer.write(orjson.dumps({"at": round(time.time(), 3), "event": event, **fields}) + b"\n")
        sys.stderr.buffer.flush()
