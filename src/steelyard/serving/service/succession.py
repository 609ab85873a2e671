"""Who ends the older service once another has its place: whoever has switched, at once; else its successor.

A command that switches can be killed in between. Both services would go on then, on one port, and only the
newer one could be found.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import orjson

from ..base.log import log
from .state import STOP_S, lives

OTHERS_S = 10.0  # whoever has switched has so long
AGAIN_S, ASKED_S = 5.0, 2.0
LOOK_S = 0.1


async def until_ended(older: dict[str, Any]) -> None:
    """Returns once the older service ({"pid", "started_at", "control", "drain_s"}) has ended.

    It is told to after `OTHERS_S`. One that does not hear (it stands still; of a version that knows no such
    order) is waited for: it may be at work on a batch.
    """

    def lives_on() -> bool:
        return lives(older["pid"], older["started_at"])

    if await _within(OTHERS_S, lives_on):
        return
    while not await _told_to_end(older):
        if await _within(AGAIN_S, lives_on):
            return
    log("service.older_told_to_end", pid=older["pid"])
    if not await _within(older.get("drain_s", math.inf) + STOP_S, lives_on):
        with suppress(ProcessLookupError):
            os.kill(older["pid"], signal.SIGKILL)
        await _within(math.inf, lives_on)


async def _told_to_end(older: dict[str, Any]) -> bool:
    """Whether it has heard; to tell it twice does no harm."""
    return await _asked(older, "end") is not None


async def stands(older: dict[str, Any]) -> bool:
    """Whether it serves, and nobody has told it to end."""
    return bool((await _asked(older, "stands") or {}).get("stands"))


async def _asked(older: dict[str, Any], op: str) -> dict[str, Any] | None:
    """Its answer to one order; None where it gives none, or does not know it."""
    with suppress(OSError, ValueError, TimeoutError):
        async with asyncio.timeout(ASKED_S):
            reader, writer = await asyncio.open_unix_connection(older["control"])
            try:
                writer.write(orjson.dumps({"op": op}) + b"\n")
                answer: dict[str, Any] = orjson.loads(await reader.readline())
            finally:
                writer.close()
        return None if "error" in answer else answer
    return None


async def _within(limit_s: float, lives_on: Callable[[], bool]) -> bool:
    """Whether it has ended by then."""
    end = time.monotonic() + limit_s
    while lives_on():
        if time.monotonic() >= end:
            return False
        await asyncio.sleep(LOOK_S)
    return True
