"""/v1/batches: many requests from a file, answered when there is room, through the service's own routes.

A batch goes on after a restart: each answer is on disk before the next is asked for in its place, and
lines that have one are not asked again. Not here: how an answer comes about.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ..base.errors import ApiError, json_response
from ..base.guard import Caller
from ..base.store import ObjectStore, Stored, find, new_id, owner_of, page, whole_lines
from ..base.transport import body_of
from ..turn.bodies import ignored, parse
from . import files
from .inner_call import InnerAnswer, ask
from .metadata import Metadata

KIND = "batches"
OUTPUT, ERRORS = "batch_output", "batch_errors"  # logs of answers
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages")
WINDOW_S = 24 * 3600
LINES = 50_000  # OpenAI's limit
FAULTS_SHOWN = 20
TOGETHER = 8  # lines in flight while nobody else asks; each request of others takes the place of two
RETRY = (429, 503)  # no room just now, or the engine starts again: the batch has time
RETRY_S = (1.0, 30.0)
LOST_TRIES = 10  # of a line that finds no engine: it may be what ends the engine
SAVE_EVERY_S = 1.0  # the counts on disk
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


@dataclass(frozen=True, slots=True)
class Line:
    """One request of a batch."""

    custom_id: str
    body: dict[str, Any]


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
        named = files.named
        file = await asyncio.to_thread(
            named, self.store, request, body.input_file_id, "batch", "input_file_id"
        )
        self.store.need_hold(TAKEN)
        stored = _new(body, file, owner_of(request))
        await asyncio.to_thread(self.store.link, file.id, stored.id)  # the file may be deleted meanwhile
        await asyncio.to_thread(self.store.put, KIND, stored)
        self.begin(request.app)
        return json_response(stored.shown, headers=ignored(body, {}))

    async def listed(self, request: Request) -> Response:
        self.resume(request.app)
        batches = await asyncio.to_thread(self.store.all, KIND)
        return json_response(page(request, [self.live.get(s.id, s) for s in batches], cap=100))

    async def get(self, request: Request) -> Response:
        self.resume(request.app)
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
        self.live[stored.id] = stored
        return await self._in_turn(self.store.put, KIND, stored)

    def _in_turn(self, work: Callable[..., Stored], *args: Any) -> asyncio.Future[Stored]:
        return asyncio.get_running_loop().run_in_executor(self._turns, work, *args)

    # ------------------------------------------------------------------ the work

    def resume(self, app: ASGIApp) -> None:
        """Go on with what an earlier process left, if no other one does."""
        idle = self._task is None or self._task.done()
        if idle and self.store.exists() and any(_open(self.store)) and self.store.hold():
            self.begin(app)

    def begin(self, app: ASGIApp) -> None:
        self._more = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(app))

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, app: ASGIApp) -> None:
        while True:
            self._more = False
            batches = await asyncio.to_thread(lambda: list(_open(self.store)))
            if not batches:
                if self._more:  # one came while the list was read
                    continue
                return
            batch_id = self._working = batches[0].id
            self.live.setdefault(batch_id, batches[0])  # who cancelled it meanwhile has put it there
            try:
                await self._one(batch_id, app)
            except Exception as e:  # one batch must not keep the others from being worked on
                await self._fail(batch_id, f"{type(e).__name__}: the batch cannot go on")
            finally:
                self._working = None
                self.live.pop(batch_id, None)

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

    async def _fail(self, batch_id: str, why: str) -> None:
        fault = {"code": "batch_broken", "message": why, "param": None, "line": None}
        errors = {"object": "list", "data": [fault]}
        stored, ended = self.live[batch_id], {}
        with suppress(OSError):  # what was answered is given out
            ended = await asyncio.to_thread(self._files, stored)
            ended["request_counts"] = stored.shown["request_counts"] | ended["request_counts"]
        now = int(time.time())
        await self._put(stored.with_shown(status="failed", failed_at=now, errors=errors, **ended))
        self._tidy(batch_id)

    async def _validate(self, batch_id: str) -> None:
        stored = self.live[batch_id]
        path = self._input(stored)
        total, faults = await asyncio.to_thread(check, path, stored.shown["endpoint"])
        now = int(time.time())
        if self.live[batch_id].shown["status"] != "validating":
            return  # cancelled meanwhile
        if faults:
            errors = {"object": "list", "data": faults}
            await self._put(stored.with_shown(status="failed", failed_at=now, errors=errors))
        else:
            counts = {"total": total, "completed": 0, "failed": 0}
            await self._put(
                stored.with_shown(status="in_progress", in_progress_at=now, request_counts=counts)
            )

    async def _lines(self, batch_id: str, app: ASGIApp) -> None:
        """Ask all lines that have no answer yet, some at a time, until the window closes."""
        stored = self.live[batch_id]
        done, counts = await asyncio.to_thread(self._answered, batch_id)
        self._count(batch_id, **counts)
        path = self._input(stored)
        left = (line for line in lines_of(path) if line.custom_id not in done)
        tasks: set[asyncio.Task[None]] = set()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(stored.shown["expires_at"] - time.time()):
                    for line in left:
                        while len(tasks) >= self._room():
                            _, tasks = await asyncio.wait(
                                tasks, timeout=1.0, return_when=asyncio.FIRST_COMPLETED
                            )
                        tasks.add(asyncio.create_task(self._line(batch_id, line, app)))
                    await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _room(self) -> int:
        """How many lines may be in flight: fewer the more others ask, at least one so that it ends."""
        others = max(0, self.api.served.admission.inside - self._own)
        return max(1, TOGETHER - 2 * others)

    def _answered(self, batch_id: str) -> tuple[set[str], dict[str, int]]:
        """Lines with an answer, and how many of them are good and bad."""
        logs = {kind: {r["custom_id"] for r in self._log(kind, batch_id)} for kind in (OUTPUT, ERRORS)}
        counts = {"completed": len(logs[OUTPUT]), "failed": len(logs[ERRORS])}
        return logs[OUTPUT] | logs[ERRORS], counts

    def _log(self, kind: str, batch_id: str) -> Iterator[dict[str, Any]]:
        path = self.store.log(kind, batch_id)
        _cut_torn_end(path)
        yield from whole_lines(path)

    def _count(self, batch_id: str, completed: int, failed: int) -> None:
        counts = self.live[batch_id].shown["request_counts"] | {"completed": completed, "failed": failed}
        self.live[batch_id] = self.live[batch_id].with_shown(request_counts=counts)

    async def _line(self, batch_id: str, line: Line, app: ASGIApp) -> None:
        self._own += 1
        try:
            request_id = new_id("batch_req_")
            answer = await self._answer(batch_id, line, app, request_id)
        finally:
            self._own -= 1
        good = answer.status < 400
        response = {"status_code": answer.status, "request_id": request_id, "body": answer.body}
        record = {"id": request_id, "custom_id": line.custom_id, "response": response, "error": None}
        self.store.append(OUTPUT if good else ERRORS, batch_id, record)
        counts = self.live[batch_id].shown["request_counts"]
        self._count(batch_id, counts["completed"] + good, counts["failed"] + (not good))
        await self._save_now_and_then(batch_id)

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
        keys = self.api.served.keys
        if not keys.needed:
            return Caller(may_hurry=False).asking(tier="batch")
        if (key := keys.of_owner(owner or "local")) is None:
            return None
        return Caller(
            key_id=key.id, owner=key.owner, scopes=key.scopes, priority=key.priority, may_hurry=False
        ).asking(tier="batch")

    async def _save_now_and_then(self, batch_id: str) -> None:
        if time.monotonic() - self._saved_at >= SAVE_EVERY_S:
            self._saved_at = time.monotonic()
            await self._in_turn(self.store.put, KIND, self.live[batch_id])

    # ------------------------------------------------------------------ the end

    async def _finish(self, batch_id: str) -> None:
        """Answers become files; what a closed window left unasked is named in the error file."""
        stored = self.live[batch_id]
        cancelled = stored.shown["status"] == "cancelling"
        now = int(time.time())
        if not cancelled:
            stored = await self._put(stored.with_shown(status="finalizing", finalizing_at=now))
        expired = await asyncio.to_thread(self._note_unasked, stored) if not cancelled else 0
        ended = await asyncio.to_thread(self._files, stored)
        end = "cancelled" if cancelled else "expired" if expired else "completed"
        ended["request_counts"] = stored.shown["request_counts"] | ended["request_counts"]
        await self._put(stored.with_shown(status=end, **{f"{end}_at": int(time.time())}, **ended))
        self._tidy(batch_id)

    def _tidy(self, batch_id: str) -> None:
        for path in (self.store.log(OUTPUT, batch_id), self.store.log(ERRORS, batch_id)):
            path.unlink(missing_ok=True)
        self.store.content(batch_id).unlink(missing_ok=True)

    def _input(self, stored: Stored) -> Path:
        own = self.store.content(stored.id)
        return own if own.exists() else self.store.content(stored.shown["input_file_id"])

    def _note_unasked(self, stored: Stored) -> int:
        done, _ = self._answered(stored.id)
        error = {"code": "batch_expired", "message": "the batch's window closed before this request was made"}
        unasked = 0
        for line in lines_of(self._input(stored)):
            if line.custom_id not in done:
                unasked += 1
                record = {"id": new_id("batch_req_"), "custom_id": line.custom_id}
                self.store.append(ERRORS, stored.id, record | {"response": None, "error": error})
        return unasked

    def _files(self, stored: Stored) -> dict[str, Any]:
        """Ids of the output and error files, None where one would be empty; lines and tokens in them."""
        shown: dict[str, Any] = {"request_counts": {}, "usage": _usage(())}
        life_s = stored.hidden.get("output_life_s") or files.BATCH_LIFE_S
        for kind, field, count in (
            (OUTPUT, "output_file_id", "completed"),
            (ERRORS, "error_file_id", "failed"),
        ):
            path = self.store.log(kind, stored.id)
            shown[field], shown["request_counts"][count] = None, 0
            if path.exists() and path.stat().st_size:
                name = f"{stored.id}_{field.removesuffix('_file_id')}.jsonl"
                with path.open("rb") as source:
                    added = files.add(self.store, name, "batch_output", source, stored.owner, life_s)
                content = self.store.content(added.id)
                shown[field], shown["request_counts"][count] = (
                    added.id,
                    sum(1 for _ in whole_lines(content)),
                )
                if kind == OUTPUT:
                    shown["usage"] = _usage(whole_lines(content))
        return shown


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


def _open(store: ObjectStore) -> Iterator[Stored]:
    """Batches to work on: cancelled ones first, since they are done at once, then the oldest."""
    open_batches = [s for s in reversed(store.all(KIND)) if s.shown["status"] in OPEN]
    yield from sorted(open_batches, key=lambda s: s.shown["status"] != "cancelling")


# ---------------------------------------------------------------------- the input file


def check(path: Path, endpoint: str) -> tuple[int, list[dict[str, Any]]]:
    """How many requests the file holds, and what is wrong with its lines (the first faults)."""
    faults: list[dict[str, Any]] = []
    ids: set[str] = set()
    total = 0
    for number, data in enumerate(_raw_lines(path), 1):
        total += 1
        if fault := _fault(data, endpoint, ids):
            faults.append({**fault, "line": number})
        if len(faults) >= FAULTS_SHOWN or total > LINES:
            break
    if total > LINES:
        message = f"a batch has at most {LINES} requests"
        faults.append({"code": "too_many_requests", "message": message, "param": None, "line": LINES + 1})
    if not total:
        message = "the file has no requests"
        faults.append({"code": "empty_file", "message": message, "param": None, "line": None})
    return total, faults


def _fault(data: bytes, endpoint: str, ids: set[str]) -> dict[str, Any] | None:
    try:
        request = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {"code": "invalid_json_line", "message": "this line is not JSON", "param": None}
    if not isinstance(request, dict) or not isinstance(request.get("custom_id"), str):
        return {"code": "invalid_request", "message": "custom_id is missing", "param": "custom_id"}
    if request["custom_id"] in ids:
        return {"code": "duplicate_custom_id", "message": "this custom_id came before", "param": "custom_id"}
    ids.add(request["custom_id"])
    if request.get("method") != "POST":
        return {"code": "invalid_method", "message": "method is POST", "param": "method"}
    if request.get("url") != endpoint:
        return {"code": "mismatched_url", "message": f"url is the batch's: {endpoint}", "param": "url"}
    if not isinstance(request.get("body"), dict):
        return {"code": "invalid_request", "message": "body is a JSON object", "param": "body"}
    return None


def lines_of(path: Path) -> Iterator[Line]:
    """The requests of a checked file, one at a time."""
    for data in _raw_lines(path):
        request = orjson.loads(data)
        yield Line(request["custom_id"], request["body"])


def _raw_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from (line for line in file if line.strip())


def _cut_torn_end(path: Path) -> None:
    """A kill may leave half a line; what is added next must not join it."""
    with suppress(FileNotFoundError), path.open("rb+") as file:
        size = file.seek(0, io.SEEK_END)
        at = size
        while at and not _ends_line(file, at):
            at -= 1
        if at != size:
            file.truncate(at)


def _ends_line(file: Any, at: int) -> bool:
    file.seek(at - 1)
    return bool(file.read(1) == b"\n")


def _usage(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Tokens of all answers, whatever the route calls them."""
    read = completion = cached = 0
    for record in records:
        usage = (record["response"]["body"] or {}).get("usage") or {}
        read += usage.get("prompt_tokens") or usage.get("input_tokens") or 0
        completion += usage.get("completion_tokens") or usage.get("output_tokens") or 0
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
        cached += details.get("cached_tokens") or 0
    return {
        "input_tokens": read, "input_tokens_details": {"cached_tokens": cached}, "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": read + completion,
    }  # fmt: skip
