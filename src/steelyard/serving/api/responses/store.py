"""Responses that can be asked for again: in memory, the latest ones, gone with the process.

Nothing of a chat is written to disk. Each key sees its own alone.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from ...base.errors import ApiError

MOST = 1000  # responses kept; of 8 kB each that is 8 MB
MOST_BYTES = 64 * 2**20  # of text in them


@dataclass(slots=True)
class Stored:
    """One response, its input, and the whole conversation up to it."""

    document: dict[str, Any]
    owner: str
    input: list[dict[str, Any]]
    before: list[dict[str, Any]] = field(default_factory=list)  # items of earlier responses
    size_bytes: int = 0
    events: list[bytes] = field(default_factory=list)  # of a background response
    task: asyncio.Task[None] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def over(self) -> bool:
        return self.document["status"] not in ("queued", "in_progress")

    def conversation(self) -> list[dict[str, Any]]:
        """Items up to and with its output: what a response after it goes on from."""
        return [*self.before, *self.input, *self.document["output"]]

    def tell(self, event: bytes | None) -> None:
        """Add an event, wake those who follow."""
        if event is not None:
            self.events.append(event)
        woken, self.changed = self.changed, asyncio.Event()
        woken.set()

    async def follow(self, after: int) -> AsyncGenerator[bytes, None]:
        """Events from number `after` on, those to come too."""
        at = max(after, 0)
        while True:
            changed, over = self.changed, self.over and (self.task is None or self.task.done())
            while at < len(self.events):
                yield self.events[at]
                at += 1
            if over:
                return
            await changed.wait()


class ResponseStore:
    """The latest responses by id."""

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self.most, self.most_bytes = most, most_bytes
        self._kept: OrderedDict[str, Stored] = OrderedDict()
        self._bytes = 0

    def add(self, stored: Stored, size_bytes: int) -> None:
        self.drop(stored.document["id"])
        stored.size_bytes = size_bytes
        self._kept[stored.document["id"]] = stored
        self._bytes += size_bytes
        while len(self._kept) > self.most or self._bytes > self.most_bytes:
            oldest = next((key for key, one in self._kept.items() if one.over), None)
            if oldest is None:
                return
            self.drop(oldest)

    def drop(self, id: str) -> None:
        if stored := self._kept.pop(id, None):
            self._bytes -= stored.size_bytes

    def get(self, id: str, owner: str, status: int = 404, param: str | None = None) -> Stored:
        """Raises ApiError: `status` 404 for a path, 400 for a field."""
        stored = self._kept.get(id)
        if stored is None or stored.owner != owner:
            code = "previous_response_not_found" if param else "response_not_found"
            raise ApiError(
                status, f"there is no response {id!r}: the latest {self.most} are kept", param, code
            )
        return stored

    def item(self, id: str, owner: str) -> dict[str, Any]:
        """An item of any kept response. Raises ApiError 400."""
        for stored in reversed(self._kept.values()):
            if stored.owner == owner:
                for item in (*stored.document["output"], *stored.input):
                    if item.get("id") == id:
                        return item
        raise ApiError(400, f"there is no item {id!r}", "input", "item_not_found")
