"""/v1/batches: many requests from a file, answered when there is room, through the service's own routes.

A batch goes on after a restart: each answer is on disk before the next is asked for in its place, and
lines that have one are not asked again. What goes wrong with a line is that line's error; a full disk holds
the batch up until there is room. Not here: how an answer comes about, the files (batch_input, batch_output).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ..base.errors import ApiError, json_response
from ..base.guard import Caller, caller_of
from ..base.log import log
from ..base.store import ObjectStore, Stored, StoreFull, find, new_id, one_line, owner_of, page, visible_to
from ..base.transport import body_of
from ..turn.bodies import ignored, parse
from . import files
from .batch_input import Line, check, lines_of
from .batch_output import ERRORS, OUTPUT, end
from .inner_call import InnerAnswer, ask
from .metadata import Metadata
from .quota import check_under_way, quota_of

KIND = "batches"
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages")
WINDOW_S = 24 * 3600
TOGETHER = 8  # lines in flight while nobody else asks; each request of others takes the place of two
RETRY = (429, 503)  # no room just now, or the engine starts again: the batch has time
RETRY_S = (1.0, 30.0)
LOST_TRIES = 10  # of a line that finds no engine: it may be what ends the engine
SAVE_EVERY_S = 1.0  # the counts on disk
PARK_S = (0.5, 5.0)  # until a full disk is tried again
TAKEN = "another service of this name works on its batches"
OPEN = ("validating", "in_progress", "finalizing", "cancelling")


class ExpiresAfter(BaseModel):
    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=30 * 86400)


class BatchBody(BaseModel):
    model_config = ConfigDict(extra="allow")
    input_file_id: str
    endpoint: str
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


BODIES: dict[str, type[BaseModel]] = {"/v1/batches": BatchBody}


class Batches:
    """The routes, and the one task that works through open batches, the oldest first."""

    def __init__(self, api: Any, store: ObjectStore) -> None:
        self.api, self.store = api, store
        self.live: dict[str, Stored] = {}  # under work or just changed: newer than what is on disk
        self._turns = ThreadPoolExecutor(1)  # documents one after another: no old one lands over a newer
        self._task: asyncio.Task[None] | None = None
        self._work: asyncio.Task[None] | None = None
        self._working: str | None = None
        self._more = False  # than the worker knows of
        self._own = 0  # lines in flight
        self._given_up: set[str] = set()  # could neither go on nor fail
        self._saved_at = 0.0

    def routes(self) -> list[Route]:
        return [
            Route("/v1/batches", self.create, methods=["POST"]),
            Route("/v1/batches", self.listed, methods=["GET"]),
            Route("/v1/batches/{id}", self.get, methods=["GET"]),
            Route("/v1/batches/{id}/cancel", self.cancel, methods=["POST"]),
        ]

    # ------------------------------------------------------------------ routes

    async def create(self, request: Request) -> Response:
        body: BatchBody = parse(BatchBody, await body_of(request))
        if body.endpoint not in ENDPOINTS:
            raise ApiError(400, f"endpoint is one of {', '.join(ENDPOINTS)}", param="endpoint")
        stored = await asyncio.to_thread(self._created, request, body)
        self.begin(request.app)
        return json_response(stored.shown, headers=ignored(body, {}))

    def _created(self, request: Request, body: BatchBody) -> Stored:
        owner = owner_of(request)
        file = files.named(self.store, request, body.input_file_id, "batch", "input_file_id")
        self.store.need_hold(TAKEN)
        check_under_way(self.store, quota_of(self.api, owner).batches, owner, KIND, OPEN)
        stored = _new(body, file, owner)
        self.store.link(file.id, stored.id)  # the file may be deleted meanwhile
        try:
            return self.store.put(KIND, stored)
        except BaseException:
            self.store.content(stored.id).unlink(missing_ok=True)
            raise

    async def listed(self, request: Request) -> Response:
        batches = await asyncio.to_thread(self.store.all, KIND, visible_to(request))
        return json_response(page(request, [self.live.get(s.id, s) for s in batches], cap=100))

    async def get(self, request: Request) -> Response:
        return json_response((await self._batch(request)).shown)

    async def cancel(self, request: Request) -> Response:
        stored = await self._batch(request)  # from here to _put nothing waits: nobody else changes it
        if stored.shown["status"] not in OPEN[:2]:
            message = f"the batch is {stored.shown['status']}; only a batch under way can be cancelled"
            raise ApiError(409, message, code="batch_not_cancellable")
        self.store.need_hold(TAKEN)
        stored = await self._put(stored.with_shown(status="cancelling", cancelling_at=int(time.time())))
        if self._working == stored.id and self._work:
            self._work.cancel()
        self.begin(request.app)
        return json_response(stored.shown)

    async def _batch(self, request: Request) -> Stored:
        stored = await self._in_turn(find, self.store, KIND, request, "batch")
        return self.live.get(stored.id, stored)

    async def _put(self, stored: Stored) -> Stored:
        """In memory and on disk; where the disk refuses, in neither. Raises StoreFull."""
        before, self.live[stored.id] = self.live.get(stored.id), stored
        try:
            return await self._in_turn(self.store.put, KIND, stored)
        except StoreFull:
            if before is not None and self.live.get(stored.id) is stored:
                self.live[stored.id] = before
            raise

    def _in_turn(self, work: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(self._turns, work, *args)

    # ------------------------------------------------------------------ the work

    async def resume(self, app: ASGIApp) -> None:
        """Go on with what an earlier process left, if no other one does."""
        idle = self._task is None or self._task.done()
        if idle and await asyncio.to_thread(lambda: bool(self._open()) and self.store.hold()):
            self.begin(app)

    def begin(self, app: ASGIApp) -> None:
        self._more = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(app))

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _open(self) -> list[Stored]:
        """Batches to work on: cancelled ones first, since they are done at once, then the oldest."""
        left = [s for s in reversed(self.store.in_state(KIND, OPEN)) if s.id not in self._given_up]
        return sorted(left, key=lambda s: s.shown["status"] != "cancelling")

    async def _run(self, app: ASGIApp) -> None:
        while True:
            self._more = False
            try:
                batches = await asyncio.to_thread(self._open)
            except StoreFull as e:
                log("batch.parked", why=str(e))
                await asyncio.sleep(PARK_S[1])
                continue
            if not batches:
                if self._more:  # one came while the list was read
                    continue
                return
            await self._work_on(batches[0], app)

    async def _work_on(self, stored: Stored, app: ASGIApp) -> None:
        """One batch to its end; where the disk is full, not so far."""
        batch_id = self._working = stored.id
        self.live.setdefault(batch_id, stored)  # who cancelled it meanwhile has put it there
        try:
            try:
                await self._one(batch_id, app)
            except StoreFull:
                raise
            except Exception as e:  # one batch must not keep the others from being worked on
                await self._fail(batch_id, e)
            self.live.pop(batch_id, None)
        except StoreFull as e:
            self._park(batch_id, e)
            await asyncio.sleep(PARK_S[1])
        finally:
            self._working = None

    async def _one(self, batch_id: str, app: ASGIApp) -> None:
        """One batch to its end, whatever that is."""
        if self.live[batch_id].shown["status"] == "validating":
            await self._validate(batch_id)
        if self.live[batch_id].shown["status"] == "in_progress":
            self._work = asyncio.create_task(self._lines(batch_id, app))
            try:
                await self._work
            except asyncio.CancelledError:
                if self.live[batch_id].shown["status"] != "cancelling":
                    self._work.cancel()
                    raise  # the service ends; the batch goes on with the next one
        if self.live[batch_id].shown["status"] != "failed":
            await self._finish(batch_id)

    async def _fail(self, batch_id: str, error: Exception) -> None:
        """What was answered is given out. One that cannot even fail is left until the next start."""
        log("batch.failed", batch=batch_id, error=type(error).__name__)
        why = f"{type(error).__name__}: the batch cannot go on"
        errors = {"object": "list", "data": [_fault("batch_broken", why)]}
        stored = self.live[batch_id]
        try:
            await self._in_turn(lambda: end(self.store, KIND, stored, "failed", errors=errors))
        except StoreFull:
            raise
        except Exception as e:
            log("batch.given_up", batch=batch_id, error=type(e).__name__)
            self._given_up.add(batch_id)

    async def _validate(self, batch_id: str) -> None:
        """Broken lines are answered at once: each by its fault."""
        stored = self.live[batch_id]
        checked = await asyncio.to_thread(
            lambda: check(self.store.read(self._input(stored)), stored.shown["endpoint"])
        )
        if self.live[batch_id].shown["status"] != "validating":
            return  # cancelled meanwhile
        if checked.refused:
            errors = {"object": "list", "data": checked.refused}
            self.live[batch_id] = await self._in_turn(
                lambda: end(self.store, KIND, stored, "failed", errors=errors)
            )
            return
        notes = [(f.n, _record(new_id("batch_req_"), f.custom_id, None, f.shown())) for f in checked.faults]
        await self._in_turn(self.store.extend, ERRORS, batch_id, notes)
        stored = self.live[batch_id]  # from here to _put nothing waits
        if stored.shown["status"] != "validating":
            return
        counts = {"total": checked.total, "completed": 0, "failed": len(notes)}
        now = int(time.time())
        await self._put(stored.with_shown(status="in_progress", in_progress_at=now, request_counts=counts))

    async def _lines(self, batch_id: str, app: ASGIApp) -> None:
        """Ask all lines that have no answer yet, some at a time, until the window closes."""
        stored = self.live[batch_id]
        done = await asyncio.to_thread(self._answered, stored.id)
        self._count(batch_id, *(len(numbers) for numbers in done))
        left = self._left(stored, done)
        tasks: set[asyncio.Task[None]] = set()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(stored.shown["expires_at"] - time.time()):
                    while line := await asyncio.to_thread(next, left, None):
                        while len(tasks) >= self._room():
                            tasks = await _some_ended(tasks)
                        tasks.add(asyncio.create_task(self._line(batch_id, line, app)))
                    while tasks:
                        tasks = await _some_ended(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _left(self, stored: Stored, done: tuple[set[int], set[int]]) -> Iterator[Line]:
        """Lines without an answer."""
        return lines_of(self.store.read(self._input(stored)), done[0] | done[1])

    def _room(self) -> int:
        """How many lines may be in flight: fewer the more others ask, at least one so that it ends."""
        others = max(0, self.api.served.admission.inside - self._own)
        return max(1, TOGETHER - 2 * others)

    def _answered(self, batch_id: str) -> tuple[set[int], set[int]]:
        """Numbers of the lines with a good answer, and with a bad one."""
        return self.store.numbers(OUTPUT, batch_id), self.store.numbers(ERRORS, batch_id)

    def _count(self, batch_id: str, completed: int, failed: int) -> None:
        counts = self.live[batch_id].shown["request_counts"] | {"completed": completed, "failed": failed}
        self.live[batch_id] = self.live[batch_id].with_shown(request_counts=counts)

    async def _line(self, batch_id: str, line: Line, app: ASGIApp) -> None:
        """One line to its answer on disk. Whatever goes wrong with it is its answer."""
        request_id = new_id("batch_req_")
        self._own += 1
        try:
            answer = await self._answer(batch_id, line, app, request_id)
            good = answer.status < 400
            data = _record(request_id, line.custom_id, answer)
        except Exception as e:
            log("batch.line_failed", batch=batch_id, line=line.n, error=type(e).__name__)
            why = f"an internal fault ({type(e).__name__}) while this line was answered"
            good, data = (
                False,
                _record(request_id, line.custom_id, _refused(ApiError(500, why, code="internal_error"))),
            )
        finally:
            self._own -= 1
        await self._save_line(batch_id, OUTPUT if good else ERRORS, line.n, data)
        counts = self.live[batch_id].shown["request_counts"]
        self._count(batch_id, counts["completed"] + good, counts["failed"] + (not good))
        await self._save_now_and_then(batch_id, len(data))

    async def _save_line(self, batch_id: str, kind: str, n: int, data: bytes) -> None:
        """Tried until the disk has room: what was answered is not asked for again."""
        wait_s = PARK_S[0]
        while True:
            try:
                await self._in_turn(self.store.extend, kind, batch_id, [(n, data)])
                return self._unpark(batch_id)
            except StoreFull as e:
                self._park(batch_id, e)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, PARK_S[1])

    def _park(self, batch_id: str, why: StoreFull) -> None:
        """Shown until the disk has room; it cannot be written, of all things."""
        stored = self.live[batch_id]
        if not _parked(stored):
            log("batch.parked", batch=batch_id, why=str(why))
            message = f"the batch waits: {why.message}; it goes on by itself"
            errors = {"object": "list", "data": [_fault("disk_full", message)]}
            self.live[batch_id] = stored.with_shown(errors=errors)

    def _unpark(self, batch_id: str) -> None:
        if _parked(self.live[batch_id]):
            log("batch.goes_on", batch=batch_id)
            self.live[batch_id] = self.live[batch_id].with_shown(errors=None)

    async def _answer(self, batch_id: str, line: Line, app: ASGIApp, request_id: str) -> InnerAnswer:
        """The answer of one line, asked again while there is no room."""
        stored, wait_s, lost = self.live[batch_id], RETRY_S[0], 0
        if line.body.get("stream"):
            return _refused(ApiError(400, "a batch does not stream", param="stream"))
        while True:
            if (caller := self._caller(stored.owner)) is None:
                if self.api.served.keys.fault is not None:  # nobody has taken the key back
                    await asyncio.sleep(RETRY_S[0])
                    continue
                return _refused(
                    ApiError(401, "the batch's key is not valid any more", code="invalid_api_key")
                )
            answer = await ask(app, stored.shown["endpoint"], line.body, caller, request_id)
            lost += answer.status == 503
            if answer.status not in RETRY or lost == LOST_TRIES or _is_spent(answer):
                return answer
            await asyncio.sleep(max(wait_s, float(answer.headers.get("retry-after", 0))))
            wait_s = min(wait_s * 2, RETRY_S[1])

    def _caller(self, owner: str | None) -> Caller | None:
        """Who asks, as its key says now; None where the key was taken back."""
        caller = caller_of(self.api.served.keys, owner)
        return caller and caller.asking(tier="batch")

    async def _save_now_and_then(self, batch_id: str, more_bytes: int) -> None:
        stored = self.live[batch_id]
        self.live[batch_id] = replace(stored, size_bytes=stored.size_bytes + more_bytes)
        if time.monotonic() - self._saved_at >= SAVE_EVERY_S:
            self._saved_at = time.monotonic()
            with suppress(StoreFull):  # counts only: the answers are on disk
                await self._in_turn(self.store.put, KIND, self.live[batch_id])

    # ------------------------------------------------------------------ the end

    async def _finish(self, batch_id: str) -> None:
        """Answers become files; what a closed window left unasked is named in the error file."""
        self._unpark(batch_id)
        stored = self.live[batch_id]
        cancelled = stored.shown["status"] == "cancelling"
        if not cancelled and stored.shown["status"] != "finalizing":
            now = int(time.time())
            stored = await self._put(stored.with_shown(status="finalizing", finalizing_at=now))
        expired = not cancelled and await self._in_turn(self._note_unasked, stored)
        status = "cancelled" if cancelled else "expired" if expired else "completed"
        self.live[batch_id] = await self._in_turn(end, self.store, KIND, stored, status)

    def _input(self, stored: Stored) -> str:
        """Under whose id its input lies."""
        own = self.store.content(stored.id).exists()
        return stored.id if own else str(stored.shown["input_file_id"])

    def _note_unasked(self, stored: Stored) -> bool:
        """Whether any line was left."""
        error = {"code": "batch_expired", "message": "the batch's window closed before this request was made"}
        notes = [
            (line.n, _record(new_id("batch_req_"), line.custom_id, None, error))
            for line in self._left(stored, self._answered(stored.id))
        ]
        if notes:
            with self.store.together():
                self.store.extend(ERRORS, stored.id, notes)
                self.store.put(KIND, stored.with_hidden(expired=True))  # a kill may come before the end
        return bool(notes or stored.hidden.get("expired"))


async def _some_ended(tasks: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Those still under way, once one has ended or a second has passed. Raises what one raised."""
    ended, left = await asyncio.wait(tasks, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
    for task in ended:
        task.result()
    return left


def _fault(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message, "param": None, "line": None}


def _parked(stored: Stored) -> bool:
    errors = stored.shown["errors"]
    return bool(errors) and errors["data"][0]["code"] == "disk_full"


def _record(
    request_id: str, custom_id: str | None, answer: InnerAnswer | None, error: dict[str, Any] | None = None
) -> bytes:
    """A line of the output or error file."""
    response = answer and {"status_code": answer.status, "request_id": request_id, "body": answer.body}
    record = {"id": request_id, "custom_id": custom_id, "response": response, "error": error}
    return one_line(orjson.dumps(record))


def _refused(error: ApiError) -> InnerAnswer:
    return InnerAnswer(error.status, {}, error.document())


def _is_spent(answer: InnerAnswer) -> bool:
    """A budget that no wait of a batch fills again."""
    return answer.status == 429 and (answer.body.get("error") or {}).get("code") == "insufficient_quota"


def _new(body: BatchBody, file: Stored, owner: str | None) -> Stored:
    batch_id, now = new_id("batch_"), int(time.time())
    ends = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
    shown = {
        "id": batch_id, "object": "batch", "endpoint": body.endpoint, "errors": None, "model": None,
        "input_file_id": file.id, "completion_window": body.completion_window, "status": "validating",
        "output_file_id": None, "error_file_id": None, "created_at": now, "expires_at": now + WINDOW_S,
        **{f"{end}_at": None for end in ends}, "metadata": body.metadata, "usage": None,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
    }  # fmt: skip
    life = body.output_expires_after.seconds if body.output_expires_after else None
    return Stored(id=batch_id, owner=owner, shown=shown, hidden={"output_life_s": life})
