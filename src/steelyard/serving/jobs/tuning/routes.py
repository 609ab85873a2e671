"""/v1/fine_tuning/jobs: each job is a recipe, and a run of it in a child process (runs.py)."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ....errors import Problem
from ...base.errors import ApiError, json_response
from ...base.log import written_aside
from ...base.store import (
    ObjectStore,
    Stored,
    find,
    may_see,
    need_scope,
    owner_of,
    page,
    translated,
    visible_to,
)
from ...base.transport import body_of
from ...turn.bodies import ignored, parse
from .. import files
from ..quota import check_bytes, check_under_way, quota_of
from .job import JobBody, link, new_job, recipe_of, refuse, remove_folder
from .records import CHECKPOINTS, EVENTS, KIND, OPEN, Records, event_of
from .runs import TAKEN, Runs

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


class Tuning:
    """The routes. `runs` is the one task that runs open jobs."""

    def __init__(self, api: Any, store: ObjectStore) -> None:
        self.api, self.store = api, store
        self.records = Records(store)
        self.runs = Runs(api, self.records)

    def routes(self) -> list[Route]:
        at = "/v1/fine_tuning/jobs"
        return [
            Route(at, self.create, methods=["POST"]),
            Route(at, self.listed, methods=["GET"]),
            Route(at + "/{id}", self.get, methods=["GET"]),
            Route(at + "/{id}", self.delete, methods=["DELETE"]),
            Route(at + "/{id}/cancel", self.cancel, methods=["POST"]),
            Route(at + "/{id}/pause", self.pause, methods=["POST"]),
            Route(at + "/{id}/resume", self.go_on, methods=["POST"]),
            Route(at + "/{id}/events", self.events, methods=["GET"]),
            Route(at + "/{id}/checkpoints", self.checkpoints, methods=["GET"]),
            Route("/v1/models/{name:path}", self.delete_model, methods=["DELETE"]),
        ]

    # ------------------------------------------------------------------ routes

    async def create(self, request: Request) -> Response:
        body: JobBody = parse(JobBody, await body_of(request))
        refuse(body)
        stored = await asyncio.to_thread(self._created, request, body)
        await written_aside("tuning.created", who=stored.owner, job=stored.id)
        self.runs.begin()
        return json_response(stored.shown, headers=ignored(body, {}))

    def _created(self, request: Request, body: JobBody) -> Stored:
        """Raises ApiError 400, 403, 404, 503, 507."""
        if self.store.sealed:
            raise ApiError(
                403, "fine-tuning is refused at `trust: guarded`: a job would lay its rows plain on the "
                "disk; tune with `steelyard up`, which seals them", code="refused_at_guarded",
            )  # fmt: skip
        owner = owner_of(request)
        training = files.named(self.store, request, body.training_file, "fine-tune", "training_file")
        if body.validation_file:
            files.named(self.store, request, body.validation_file, "fine-tune", "validation_file")
        base = self._base(body.model, request)
        self.store.need_hold(TAKEN)
        quota = quota_of(self.api, owner)
        check_under_way(self.store, quota.jobs, owner, KIND, (*OPEN, "paused"))
        check_bytes(self.store, quota, owner, training.size_bytes)
        stored = new_job(self.api.settings.name, body, base, owner)
        self._write(stored, body, training)
        return stored

    async def listed(self, request: Request) -> Response:
        jobs = await asyncio.to_thread(self.store.all, KIND, visible_to(request))
        return json_response(page(request, [s for s in jobs if _has(s, request)], cap=100))

    async def get(self, request: Request) -> Response:
        return json_response((await self._job(request)).shown)

    async def delete(self, request: Request) -> Response:
        """The job with its rows, its events, its weights and the model that came of it."""
        stored = await self._job(request)
        if stored.shown["status"] in (*OPEN, "paused"):
            stored = await self.runs.ended(stored, "cancelled")
        await self._drop_adapter(stored)
        await asyncio.to_thread(self._forget, stored.id)
        await written_aside("tuning.deleted", who=owner_of(request), job=stored.id)
        return json_response({"id": stored.id, "object": "fine_tuning.job", "deleted": True})

    def _forget(self, job_id: str) -> None:
        remove_folder(self.records.folder(job_id))
        self.store.drop(KIND, job_id)

    async def forget_rows(self, file_id: str) -> None:
        """No job learns from this file any more: those under way end."""
        for stored in await asyncio.to_thread(self.store.in_state, KIND, (*OPEN, "paused")):
            if file_id in (stored.shown["training_file"], stored.shown["validation_file"]):
                await self.records.tell(stored.id, f"The file {file_id} was deleted")
                await self.runs.ended(stored, "cancelled")

    async def cancel(self, request: Request) -> Response:
        return json_response((await self._stop(request, "cancelled", (*OPEN, "paused"))).shown)

    async def pause(self, request: Request) -> Response:
        return json_response((await self._stop(request, "paused", OPEN)).shown)

    async def go_on(self, request: Request) -> Response:
        stored = await self._job(request)
        if stored.shown["status"] != "paused":
            raise ApiError(409, f"the job is {stored.shown['status']}; only a paused one can be resumed")
        self.store.need_hold(TAKEN)
        stored = await self.records.change(stored.id, status="queued")
        await self.records.tell(stored.id, "The job was resumed")
        self.runs.begin()
        return json_response(stored.shown)

    async def events(self, request: Request) -> Response:
        return await self._records(request, EVENTS)

    async def checkpoints(self, request: Request) -> Response:
        return await self._records(request, CHECKPOINTS)

    async def delete_model(self, request: Request) -> Response:
        """A tuned model goes, its weights too; the served one stays."""
        need_scope(request, "tune")
        name = request.path_params["name"]
        for stored in await asyncio.to_thread(self.store.all, KIND, visible_to(request)):
            if stored.shown["fine_tuned_model"] == name and may_see(request, stored):
                await self._drop_adapter(stored)
                await asyncio.to_thread(self._without_model, stored)
                await written_aside("tuning.deleted", who=owner_of(request), job=stored.id, model=True)
                return json_response({"id": name, "object": "model", "deleted": True})
        raise ApiError(404, f"there is no tuned model {name!r}", "model", "model_not_found")

    async def _drop_adapter(self, stored: Stored) -> None:
        if stored.hidden["adapter"] in self.api.served.adapters:
            await self.api.served.drop_adapter(stored.hidden["adapter"])

    def _without_model(self, stored: Stored) -> None:
        remove_folder(self.records.folder(stored.id))
        hidden = {name: value for name, value in stored.hidden.items() if name in ("base", "adapter")}
        self.store.put(KIND, replace(stored.with_shown(fine_tuned_model=None), hidden=hidden, size_bytes=0))

    async def _job(self, request: Request) -> Stored:
        return await asyncio.to_thread(find, self.store, KIND, request, "fine-tuning job")

    async def _records(self, request: Request, kind: str) -> Response:
        stored = await self._job(request)
        records = await asyncio.to_thread(self.store.records, kind, stored.id)
        page_records = [
            Stored(id=record["id"], owner=stored.owner, shown=record) for record in reversed(records)
        ]
        return json_response(page(request, page_records))

    async def _stop(self, request: Request, end: str, states: tuple[str, ...]) -> Stored:
        """Have the job paused or cancelled; a run under way stops at its next safe point."""
        stored = await self._job(request)
        if stored.shown["status"] not in states:
            raise ApiError(409, f"the job is {stored.shown['status']}: it cannot be {end}")
        return await self.runs.ended(stored, end)

    # ------------------------------------------------------------------ what is tuned

    def _base(self, name: str, request: Request) -> str:
        """The model folder, package or pulled id that `name` stands for. Raises ApiError 400, 404."""
        from ....model import resolve

        if self.api.served.joined is not None:
            raise ApiError(400, "models of joined servers cannot be tuned from here", param="model")
        own = self.api.settings.name
        if name in ("default", own):
            source: str | None = getattr(self.api.settings, "source", None)
        else:
            source = self._tuned(name, request) or (name if name == "demo" else None)
            if source is None and HUB_ID.fullmatch(name):
                source = name
        if source is None:
            message = (
                f"{name!r} cannot be tuned here; give 'demo', a pulled model's id, or a tuned model's name"
            )
            raise ApiError(404, message, param="model", code="model_not_found")
        try:
            resolve(source, self.store.folder / "runs")  # where nothing bears a name: only pulled models do
        except Problem as e:  # its message names a place on this machine
            message = f"{name!r} cannot be tuned: it is not on this machine, or not whole"
            raise ApiError(400, message, param="model", code=e.code) from e
        return source

    def _tuned(self, name: str, request: Request) -> str | None:
        """The folder of an earlier job's result, of the same key: tuning can go on from there."""
        jobs = [s for s in self.store.all(KIND, visible_to(request)) if s.shown["fine_tuned_model"] == name]
        return next((str(s.hidden["checkpoint"]) for s in jobs), None)

    def _write(self, stored: Stored, body: JobBody, training: Stored) -> None:
        """The job's folder: its data as they are now, its recipe; and the job itself, or nothing of it."""
        folder = self.records.folder(stored.id)
        self.store.folder_of("runs")
        try:
            with translated():
                folder.mkdir(mode=0o700)
                link(self.store.content(training.id), folder / "training.jsonl")
                if body.validation_file:
                    link(self.store.content(body.validation_file), folder / "validation.jsonl")
                recipe = recipe_of(stored, folder)
                # JSON is YAML: people and `steelyard up` read it alike.
                text = json.dumps(recipe, indent=2, ensure_ascii=False) + "\n"
                (folder / "recipe.yaml").write_text(text, "utf-8")
            with self.store.together():
                self.store.put(KIND, stored)
                self.store.append(EVENTS, stored.id, event_of(f"Created fine-tuning job: {stored.id}"))
        except Problem as e:
            shutil.rmtree(folder, ignore_errors=True)
            raise ApiError(400, e.message, param="model", code=e.code) from e
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _has(stored: Stored, request: Request) -> bool:
    """The list's filter `metadata[k]=v`."""
    metadata = stored.shown["metadata"] or {}
    pattern = re.compile(r"metadata\[(.+)\]")
    pairs = [(m[1], v) for k, v in request.query_params.items() if (m := pattern.fullmatch(k))]
    return all(metadata.get(k) == v for k, v in pairs)
