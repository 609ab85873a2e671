"""Responses that can be asked for again, after a restart too: each key's latest ones, for 30 days.

Those being made in the background live in memory, with their events, and are written when they end; one that
the service's end broke off is made again by the next, unless somebody has followed its events. Each key sees
its own alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import orjson

from ...base.errors import ApiError
from ...base.log import log
from ...base.store import ObjectStore
from ...base.store import Stored as Document

KIND, EVENTS = "responses", "response_events"
MOST = 1000  # of a key
MOST_BYTES = 64 * 2**20  # of a key: text and events
LARGEST = 64 * 2**20  # of one, with the conversation before it: it is read whole by each that goes on from it
SPARE = 0.95  # what is above a limit goes down to this share of it
KEPT_S = 30 * 86400  # as OpenAI
UNDER_WAY = ("queued", "in_progress")
LOOK_S = 1.0  # at one that this process does not make
TRIES = 3  # to make one: what ends the service each time must not go on doing so
ENDED = "the service ended while this response was made: ask again"


@dataclass(slots=True)
class Stored:
    """One response, its input, and the whole conversation up to it."""

    document: dict[str, Any]
    owner: str
    input: list[dict[str, Any]]
    before: list[dict[str, Any]] = field(default_factory=list)  # items of earlier responses
    events: list[bytes] = field(default_factory=list)  # of a background response
    events_bytes: int = 0
    task: asyncio.Task[None] | None = None
    request: dict[str, Any] | None = None  # the body, while the response can be made again from its beginning
    tries: int = 1
    left: bool = False  # to the next service
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def id(self) -> str:
        return str(self.document["id"])

    @property
    def over(self) -> bool:
        return self.document["status"] not in UNDER_WAY

    def conversation(self) -> list[dict[str, Any]]:
        """Items up to and with its output: what a response after it goes on from."""
        return [*self.before, *self.input, *self.document["output"]]

    def tell(self, event: bytes | None) -> None:
        """Add an event, wake those who follow."""
        if event is not None:
            self.events.append(event)
            self.events_bytes += len(event)
        woken, self.changed = self.changed, asyncio.Event()
        woken.set()

    def fail(self, code: str, message: str) -> None:
        self.document |= {"status": "failed", "error": {"code": code, "message": message}}

    async def follow(self, after: int) -> AsyncGenerator[bytes, None]:
        """Events from number `after` on, those to come too."""
        at = max(after, 0)
        while True:
            ended = self.over or self.left
            changed, over = self.changed, ended and (self.task is None or self.task.done())
            while at < len(self.events):
                yield self.events[at]
                at += 1
            if over:
                return
            await changed.wait()


class ResponseStore:
    """Responses by id: on disk, and those under way in memory."""

    def __init__(
        self,
        store: ObjectStore,
        check: Callable[[str, int], None] = lambda owner, more_bytes: None,
        most: int = MOST,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        """`check` raises ApiError where a key may not store so many bytes more."""
        self.store, self.check = store, check
        self.most, self.most_bytes = most, most_bytes
        self.live: dict[str, Stored] = {}
        self._saving: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------ in

    def begin(self, stored: Stored) -> None:
        """One that is made in the background. Raises ApiError 429 where the key's others take too much."""
        own = [one for one in self.live.values() if one.owner == stored.owner]
        if sum(one.events_bytes for one in own) > self.most_bytes or len(own) >= self.most:
            message = "this key's background responses under way take all the room: wait for one to end"
            raise ApiError(429, message, code="rate_limit_exceeded", retry_after=5)
        self.live[stored.id] = stored

    async def add(self, stored: Stored) -> None:
        """Keep it on disk, the key's oldest go where there are too many. Raises ApiError 403, 413, 507."""
        await asyncio.to_thread(self._add, _document(stored), list(stored.events))

    async def followed(self, stored: Stored) -> None:
        """Somebody hears its events: made again they would be others."""
        if stored.request is not None:
            stored.request = None
            await asyncio.to_thread(self._put_under_way, stored)

    def _put_under_way(self, stored: Stored) -> None:
        """Not where it has ended, or was deleted, before this thread had its turn."""
        with self.store.together():
            if stored.id in self.live and not stored.over:
                self.store.put(KIND, _document(stored))

    def _add(self, document: Document, events: list[bytes]) -> None:
        assert document.owner is not None
        if document.size_bytes > LARGEST:
            message = f"a response has at most {LARGEST} bytes with its conversation: begin a new one"
            raise ApiError(413, message, code="response_too_large")
        self.check(document.owner, document.size_bytes)
        items = [*document.shown["output"], *document.hidden["input"]]
        with self.store.together():
            self.store.put(KIND, document)
            self.store.extend(EVENTS, document.id, enumerate(events))
            self.store.name_parts(document.id, [str(item["id"]) for item in items if item.get("id")])
        self._make_room(document.owner)

    def _make_room(self, owner: str) -> None:
        sizes = self.store.sizes(KIND, owner)
        count, size_bytes = len(sizes), sum(size for _, _, size in sizes)
        if count <= self.most and size_bytes <= self.most_bytes:
            return
        gone = []
        for object_id, status, size in sizes[:-1]:  # the newest stays, whatever its size
            if count <= self.most * SPARE and size_bytes <= self.most_bytes * SPARE:
                break
            if status not in UNDER_WAY:
                gone.append(object_id)
                count, size_bytes = count - 1, size_bytes - size
        self.store.drop(KIND, *gone)

    def end(self, stored: Stored) -> None:
        """A background response has ended: from memory to disk, then those who follow it are released."""
        if stored.left:
            self.live.pop(stored.id, None)
            return stored.tell(None)
        if not stored.over:
            stored.document["status"] = "cancelled"
        task = asyncio.create_task(self._end(stored))
        self._saving.add(task)
        task.add_done_callback(self._saving.discard)
        return None

    async def _end(self, stored: Stored) -> None:
        try:
            if stored.id in self.live:  # else deleted meanwhile
                await self.add(stored)
        except ApiError as e:  # no room: it is there for those who follow it now
            log("response.not_stored", response=stored.id, why=e.code)
        finally:
            self.live.pop(stored.id, None)
            stored.tell(None)

    async def drop(self, id: str) -> None:
        self.live.pop(id, None)
        await asyncio.to_thread(self.store.drop, KIND, id)

    async def close(self) -> None:
        """Those under way are left to the next service, or end as failed, on disk too."""
        for stored in list(self.live.values()):
            if stored.task and not stored.over:
                stored.left = stored.request is not None
                if not stored.left:
                    stored.fail("server_error", ENDED)
                stored.task.cancel()
        await asyncio.gather(*(s.task for s in self.live.values() if s.task), return_exceptions=True)
        await asyncio.sleep(0)  # each then writes itself down
        await asyncio.gather(*self._saving, return_exceptions=True)

    # ------------------------------------------------------------------ out

    async def follow(self, stored: Stored, after: int) -> AsyncGenerator[bytes, None]:
        """Events from number `after` on; of one that another process makes, or left, once it is over here."""
        while not stored.over and stored.task is None:
            await asyncio.sleep(LOOK_S)
            stored = await self.get(stored.id, stored.owner)
        async with aclosing(stored.follow(after)) as events:
            async for event in events:
                yield event

    async def get(self, id: str, owner: str, status: int = 404, param: str | None = None) -> Stored:
        """Raises ApiError: `status` 404 for a path, 400 for a field."""
        stored = self.live.get(id) or await asyncio.to_thread(self._read, id)
        if stored is None or stored.owner != owner:
            code = "previous_response_not_found" if param else "response_not_found"
            message = f"there is no response {id!r}: a key's latest {self.most} are kept, for 30 days"
            raise ApiError(status, message, param, code)
        return stored

    def _read(self, id: str) -> Stored | None:
        document = self.store.get(KIND, id)
        if document is None:
            return None
        events = list(self.store.lines(EVENTS, id)) if document.shown["background"] else []
        hidden = document.hidden
        return Stored(document.shown, document.owner or "", hidden["input"], hidden["before"], events)

    async def items(self, ids: Sequence[str], owner: str, most_bytes: int) -> list[dict[str, Any]]:
        """These items of any kept responses. Raises ApiError 400, 413 for more than a body holds."""
        return await asyncio.to_thread(self._items, ids, owner, most_bytes)

    def _items(self, ids: Sequence[str], owner: str, most_bytes: int) -> list[dict[str, Any]]:
        """Each response is read once, and of it only what is wanted is kept."""
        wanted, read = set(ids), dict[str, dict[str, dict[str, Any]]]()
        found: dict[str, tuple[dict[str, Any], int]] = {}
        left = most_bytes
        for id in ids:
            if id not in found:
                item = self._item(id, owner, wanted, read)
                found[id] = item, len(orjson.dumps(item))
            left -= found[id][1]
            if left < 0:
                message = f"the items that are referred to have more than {most_bytes} bytes together"
                raise ApiError(413, message, "input", "body_too_large")
        return [found[id][0] for id in ids]

    def _item(
        self, id: str, owner: str, wanted: Collection[str], read: dict[str, dict[str, dict[str, Any]]]
    ) -> dict[str, Any]:
        """Of the newest response that has it; `read`: those read so far. Raises ApiError 400."""
        for whole in self.store.wholes_of(id, owner):
            if whole not in read:
                read[whole] = self._items_of(whole, wanted)
            if id in read[whole]:
                return read[whole][id]
        raise ApiError(400, f"there is no item {id!r}", "input", "item_not_found")

    def _items_of(self, whole: str, wanted: Collection[str]) -> dict[str, dict[str, Any]]:
        stored = self.store.get(KIND, whole)
        items = [*stored.shown["output"], *stored.hidden["input"]] if stored else []
        return {item["id"]: item for item in reversed(items) if item.get("id") in wanted}


def _document(stored: Stored) -> Document:
    shown: dict[str, Any] = dict(stored.document)
    hidden: dict[str, Any] = {"input": stored.input, "before": list(stored.before)}
    if stored.request is not None and not stored.over:
        hidden |= {"request": stored.request, "tries": stored.tries}
    size_bytes = len(orjson.dumps([shown, hidden])) + stored.events_bytes
    return Document(
        id=stored.id, owner=stored.owner, shown=shown, hidden=hidden, size_bytes=size_bytes,
        expires_at=int(time.time()) + KEPT_S,
    )  # fmt: skip


def left_over(store: ObjectStore, live: Collection[str] = ()) -> list[Document]:
    """What an ended process was making and can be made again; what cannot ends as failed. Blocks."""
    left = []
    for document in store.in_state(KIND, UNDER_WAY):
        if document.id in live:
            continue
        if document.hidden.get("request") and document.hidden["tries"] < TRIES:
            left.append(document)
        else:
            fail_left_over(store, document, ENDED)
    return left


def fail_left_over(store: ObjectStore, document: Document, message: str) -> None:
    """Blocks."""
    error = {"code": "server_error", "message": message}
    store.put(KIND, document.with_shown(status="failed", error=error))
