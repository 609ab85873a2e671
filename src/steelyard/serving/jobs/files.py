"""/v1/files: upload, list, get, content, delete. What a file is for is checked by who uses it.

Uploads are spooled to disk as they come, so memory does not grow with them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import Message

from ..base.errors import ApiError, json_response
from ..base.store import ObjectStore, Stored, find, may_see, new_id, owner_of, page

KIND = "files"
LIMIT_BYTES = 512 * 2**20  # OpenAI's limit for one file
PURPOSES = ("batch", "fine-tune", "user_data", "evals")
BATCH_LIFE_S = 30 * 86400  # OpenAI's: files for batches go after 30 days, others stay
LIFE_S = (3600, 30 * 86400)  # what `expires_after` may ask for


def routes(api: Any, store: ObjectStore) -> list[Route]:
    files = Files(store)
    return [
        Route("/v1/files", files.upload, methods=["POST"]),
        Route("/v1/files", files.listed, methods=["GET"]),
        Route("/v1/files/{id}", files.get, methods=["GET"]),
        Route("/v1/files/{id}", files.delete, methods=["DELETE"]),
        Route("/v1/files/{id}/content", files.content, methods=["GET"]),
    ]


class Files:
    """The routes over one store."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    async def upload(self, request: Request) -> Response:
        async with _form(request) as form:
            purpose, life_s = _purpose(form), _life_s(form)
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise ApiError(400, "the form needs a part `file` with a file name", param="file")
            owner = owner_of(request)
            name = (file.filename or "file")[:255]
            stored = await asyncio.to_thread(add, self.store, name, purpose, file.file, owner, life_s)
        return json_response(stored.shown)

    async def listed(self, request: Request) -> Response:
        files = await asyncio.to_thread(live, self.store)
        purpose = request.query_params.get("purpose")
        files = [s for s in files if purpose in (None, s.shown["purpose"])]
        return json_response(page(request, files, limit=10_000))

    async def get(self, request: Request) -> Response:
        return json_response((await self._stored(request)).shown)

    async def content(self, request: Request) -> Response:
        stored = await self._stored(request)
        path = self.store.content(stored.id)
        return FileResponse(path, media_type="application/octet-stream", filename=stored.shown["filename"])

    async def delete(self, request: Request) -> Response:
        stored = await self._stored(request)
        await asyncio.to_thread(self.store.drop, KIND, stored.id)
        return json_response({"id": stored.id, "object": "file", "deleted": True})

    async def _stored(self, request: Request) -> Stored:
        stored = await asyncio.to_thread(find, self.store, KIND, request, "file")
        if _expired(stored):
            await asyncio.to_thread(self.store.drop, KIND, stored.id)
            raise ApiError(404, f"the file {stored.id!r} has expired", param="id", code="not_found")
        return stored


def add(
    store: ObjectStore, name: str, purpose: str, source: Any, owner: str | None, life_s: int | None = None
) -> Stored:
    """A new file from an open one. Blocks while it is copied."""
    file_id, now = new_id("file-"), int(time.time())
    size = store.keep(file_id, source)
    shown = {
        "id": file_id, "object": "file", "bytes": size, "created_at": now, "filename": name,
        "purpose": purpose, "status": "processed", "status_details": None,
        "expires_at": now + life_s if life_s else None,
    }  # fmt: skip
    return store.put(KIND, Stored(id=file_id, owner=owner, shown=shown))


def named(store: ObjectStore, request: Request, file_id: str, purpose: str, param: str) -> Stored:
    """The file that a body names. Raises ApiError 400: not there, not the caller's, or for another use."""
    stored = store.get(KIND, file_id)
    if stored is None or not may_see(request, stored) or _expired(stored):
        raise ApiError(400, f"there is no file {file_id!r}", param=param, code="file_not_found")
    if stored.shown["purpose"] != purpose:
        message = f"the file {file_id} was uploaded for {stored.shown['purpose']!r}, not for {purpose!r}"
        raise ApiError(400, message, param=param, code="wrong_purpose")
    return stored


def live(store: ObjectStore) -> list[Stored]:
    """All files, newest first; expired ones go."""
    files = store.all(KIND)
    for stored in files:
        if _expired(stored):
            store.drop(KIND, stored.id)
    return [s for s in files if not _expired(s)]


def _expired(stored: Stored) -> bool:
    return bool(stored.shown["expires_at"]) and stored.shown["expires_at"] <= time.time()


# ---------------------------------------------------------------------- the form


class _form:
    """The multipart form of a request, its spooled files closed at the end. Raises ApiError 400, 413."""

    def __init__(self, request: Request) -> None:
        self.request = Request(request.scope, _limited(request.receive))

    async def __aenter__(self) -> FormData:
        if not self.request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise ApiError(400, "send the file as multipart/form-data")
        try:
            self.form = await self.request.form(max_files=1, max_fields=16)
        except HTTPException as e:
            raise ApiError(400, f"the form cannot be read: {e.detail}") from e
        return self.form

    async def __aexit__(self, *_: object) -> None:
        await self.form.close()


def _limited(receive: Callable[[], Awaitable[Message]]) -> Callable[[], Awaitable[Message]]:
    received_bytes = 0

    async def limited() -> Message:
        nonlocal received_bytes
        message = await receive()
        received_bytes += len(message.get("body", b""))
        if received_bytes > LIMIT_BYTES + 65536:  # the form's own lines
            raise ApiError(413, f"a file has at most {LIMIT_BYTES} bytes", param="file")
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
    if not (text.isascii() and text.isdigit() and LIFE_S[0] <= int(text[:9]) <= LIFE_S[1]):
        message = f"expires_after.seconds is a number from {LIFE_S[0]} to {LIFE_S[1]}"
        raise ApiError(400, message, param="expires_after")
    return int(text)
