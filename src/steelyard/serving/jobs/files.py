"""/v1/files: upload, list, get, content, delete. What a file is for is checked by who uses it.

Uploads are spooled to disk as they come, so memory does not grow with them; at `trust: guarded` they are
spooled in memory, so that nothing lies plain on the disk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import IO, Any

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message

from ..base.errors import ApiError, json_response
from ..base.log import written_aside
from ..base.store import ObjectStore, Stored, find, may_see, new_id, owner_of, page, translated, visible_to
from ..turn import model_json
from .quota import Quota, check_bytes, check_files, quota_of

KIND = "files"
LIMIT_BYTES = 512 * 2**20  # OpenAI's limit for one file
SEALED_LIMIT_BYTES = 128 * 2**20  # at `guarded`: so much memory an upload may take
SPOOL_BYTES = 2**20  # of an upload in memory, before it goes to the disk
PIECE_BYTES = 2**18
PURPOSES = ("batch", "fine-tune", "user_data", "evals")
BATCH_LIFE_S = 30 * 86400  # OpenAI's: files for batches go after 30 days, others stay
LIFE_S = (3600, 30 * 86400)  # what `expires_after` may ask for


def routes(api: Any, store: ObjectStore) -> list[Route]:
    files = Files(api, store)
    return [
        Route("/v1/files", files.upload, methods=["POST"]),
        Route("/v1/files", files.listed, methods=["GET"]),
        Route("/v1/files/{id}", files.get, methods=["GET"]),
        Route("/v1/files/{id}", files.delete, methods=["DELETE"]),
        Route("/v1/files/{id}/content", files.content, methods=["GET"]),
    ]


class Files:
    """The routes over one store."""

    def __init__(self, api: Any, store: ObjectStore) -> None:
        self.api, self.store = api, store

    async def upload(self, request: Request) -> Response:
        owner = owner_of(request)
        quota = quota_of(self.api, owner)
        await asyncio.to_thread(check_files, self.store, quota, owner)
        async with _Form(request, self.store.sealed) as form:
            purpose, life_s = _purpose(form), _life_s(form)
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise ApiError(400, "the form needs a part `file` with a file name", param="file")
            name = model_json.whole(file.filename or "file")[:255]
            now = new_file(new_id("file-"), name, purpose, owner, life_s)
            stored = await asyncio.to_thread(add, self.store, now, file.file, file.size or 0, quota)
        return json_response(stored.shown)

    async def listed(self, request: Request) -> Response:
        files = await asyncio.to_thread(self.store.all, KIND, visible_to(request))
        purpose = request.query_params.get("purpose")
        files = [s for s in files if purpose in (None, s.shown["purpose"])]
        return json_response(page(request, files, limit=10_000))

    async def get(self, request: Request) -> Response:
        return json_response((await self._stored(request)).shown)

    async def content(self, request: Request) -> Response:
        stored = await self._stored(request)
        name = stored.shown["filename"]
        if not self.store.sealed:
            path = self.store.content(stored.id)
            return FileResponse(path, media_type="application/octet-stream", filename=name)
        source = await asyncio.to_thread(self.store.read, stored.id)
        headers = {"content-length": str(stored.shown["bytes"])}
        return StreamingResponse(_pieces(source), media_type="application/octet-stream", headers=headers)

    async def delete(self, request: Request) -> Response:
        """The file, and its rows wherever they are: a fine-tuning job under way that learns from it ends."""
        stored = await self._stored(request)
        await self.api.served.stores.tuning.forget_rows(stored.id)
        await asyncio.to_thread(self.store.drop, KIND, stored.id)
        await written_aside("upload.deleted", who=owner_of(request), file=stored.id, bytes=stored.size_bytes)
        return json_response({"id": stored.id, "object": "file", "deleted": True})

    async def _stored(self, request: Request) -> Stored:
        return await asyncio.to_thread(self._with_content, request)

    def _with_content(self, request: Request) -> Stored:
        """Raises ApiError 404, also for a document whose content a full disk let go alone."""
        stored = find(self.store, KIND, request, "file")
        if not self.store.content(stored.id).exists():
            self.store.drop(KIND, stored.id)
            raise ApiError(404, f"there is no file {stored.id!r}", param="id", code="not_found")
        return stored


async def _pieces(source: IO[bytes]) -> AsyncIterator[bytes]:
    try:
        while piece := await asyncio.to_thread(source.read, PIECE_BYTES):
            yield piece
    finally:
        source.close()


def new_file(file_id: str, name: str, purpose: str, owner: str | None, life_s: int | None = None) -> Stored:
    """A file's document; `add` gives it its bytes."""
    now = int(time.time())
    expires_at = now + life_s if life_s else None
    shown = {
        "id": file_id, "object": "file", "bytes": 0, "created_at": now, "filename": name, "purpose": purpose,
        "status": "processed", "status_details": None, "expires_at": expires_at,
    }  # fmt: skip
    return Stored(id=file_id, owner=owner, shown=shown, expires_at=expires_at)


def add(
    store: ObjectStore, file: Stored, source: IO[bytes], size_bytes: int, quota: Quota | None = None
) -> Stored:
    """Keep an open file's bytes, then its document. Blocks. Raises ApiError 403 (quota), StoreFull."""
    if quota:
        check_bytes(store, quota, file.owner, size_bytes)
    stored = sized(file, size_bytes)
    store.keep(file.id, source, size_bytes)
    try:
        with store.together():
            if quota:  # others may have come meanwhile
                check_files(store, quota, file.owner)
                check_bytes(store, quota, file.owner, size_bytes)
            return store.put(KIND, stored)
    except BaseException:
        store.content(file.id).unlink(missing_ok=True)
        raise


def sized(file: Stored, size_bytes: int) -> Stored:
    return replace(file.with_shown(bytes=size_bytes), size_bytes=size_bytes)


def named(store: ObjectStore, request: Request, file_id: str, purpose: str, param: str) -> Stored:
    """The file that a body names. Raises ApiError 400: not there, not the caller's, or for another use."""
    stored = store.get(KIND, file_id)
    if stored is None or not may_see(request, stored) or not store.content(file_id).exists():
        raise ApiError(400, f"there is no file {file_id!r}", param=param, code="file_not_found")
    if stored.shown["purpose"] != purpose:
        message = f"the file {file_id} was uploaded for {stored.shown['purpose']!r}, not for {purpose!r}"
        raise ApiError(400, message, param=param, code="wrong_purpose")
    return stored


# ---------------------------------------------------------------------- the form


class _Form:
    """The multipart form of a request, its spooled files closed at the end. Raises ApiError 400, 413, 507."""

    def __init__(self, request: Request, sealed: bool) -> None:
        limit_bytes = SEALED_LIMIT_BYTES if sealed else LIMIT_BYTES
        self.request = Request(request.scope, _limited(request.receive, limit_bytes))
        self.spool_bytes = 0 if sealed else SPOOL_BYTES  # 0: never to the disk

    async def __aenter__(self) -> FormData:
        headers = self.request.headers
        if not headers.get("content-type", "").startswith("multipart/form-data"):
            raise ApiError(400, "send the file as multipart/form-data")
        parser = MultiPartParser(headers, self.request.stream(), max_files=1, max_fields=16)
        parser.spool_max_size = self.spool_bytes
        try:
            with translated():
                self.form = await parser.parse()
        except MultiPartException as e:
            raise ApiError(400, f"the form cannot be read: {e.message}") from e
        except UnicodeError as e:  # by the charset that its head names
            raise ApiError(400, "the form is not in the charset that it names") from e
        return self.form

    async def __aexit__(self, *_: object) -> None:
        await self.form.close()


def _limited(receive: Callable[[], Awaitable[Message]], limit_bytes: int) -> Callable[[], Awaitable[Message]]:
    received_bytes = 0

    async def limited() -> Message:
        nonlocal received_bytes
        message = await receive()
        received_bytes += len(message.get("body", b""))
        if received_bytes > limit_bytes + 65536:  # the form's own lines
            raise ApiError(413, f"a file has at most {limit_bytes} bytes", param="file")
        return message

    return limited


def _purpose(form: FormData) -> str:
    purpose = form.get("purpose")
    if purpose not in PURPOSES:
        raise ApiError(400, f"purpose is one of {', '.join(PURPOSES)}", param="purpose")
    return str(purpose)


def _life_s(form: FormData) -> int | None:
    seconds, anchor = form.get("expires_after[seconds]"), form.get("expires_after[anchor]")
    if seconds is None and anchor is None:
        return BATCH_LIFE_S if form.get("purpose") == "batch" else None
    if anchor != "created_at":
        raise ApiError(400, "expires_after.anchor is created_at", param="expires_after")
    text = str(seconds)
    if not (text.isascii() and text.isdigit() and len(text) < 10 and LIFE_S[0] <= int(text) <= LIFE_S[1]):
        message = f"expires_after.seconds is a number from {LIFE_S[0]} to {LIFE_S[1]}"
        raise ApiError(400, message, param="expires_after")
    return int(text)
