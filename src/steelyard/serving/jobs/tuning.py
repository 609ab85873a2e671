"""/v1/fine_tuning/jobs: each job is a recipe, and a run of it in a child process.

A job that is paused, or whose service ended, goes on by running the same command in the same folder again.
Jobs run one after another. What comes out is loaded as an adapter where the engine takes one while it
runs; else its event says how to serve it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...errors import Problem
from ..base.errors import ApiError, json_response
from ..base.log import log, written_aside
from ..base.store import (
    ObjectStore,
    Stored,
    StoreFull,
    find,
    may_see,
    need_scope,
    new_id,
    owner_of,
    page,
    translated,
    visible_to,
)
from ..base.transport import body_of
from ..turn.bodies import ignored, parse
from . import files
from .quota import check_bytes, check_under_way, quota_of
from .tuning_job import (
    JobBody,
    bytes_below,
    clear,
    faults,
    last_checkpoint,
    link,
    new_job,
    recipe_of,
    refuse,
    remove_folder,
    result_file,
    thinned,
)

KIND = "jobs"
EVENTS, CHECKPOINTS = "job_events", "job_checkpoints"
OPEN = ("validating_files", "queued", "running")
ENDED = ("succeeded", "failed", "cancelled")
PARK_S = 30.0  # until a full disk is tried again: a run takes some seconds to find out
TAKEN = "another service of this name runs its jobs"
STOPPED = 6  # exit code of a run that was interrupted and can go on
LOOK_EVERY_S = 0.5
STOP_S = 8.0  # a run stops at its next safe point, within 5 s
STEP_TOLD = {
    "clean": "Preparing the data",
    "train": "Training",
    "compress": "Making it ready to serve",
    "gate": "Judging it",
}
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


class Tuning:
    """The routes, and the one task that runs open jobs, the oldest first."""

    def __init__(self, api: Any, store: ObjectStore) -> None:
        self.api, self.store = api, store
        self._task: asyncio.Task[None] | None = None
        self._child: asyncio.subprocess.Process | None = None
        self._running: str | None = None
        self._closing = False
        self._more = False  # than the worker knows of
        self._loaded = False  # what earlier jobs tuned
        self._turns = ThreadPoolExecutor(1)  # changes of a job one after another
        self._deciding = asyncio.Lock()  # which job runs: none that is being ended
        self._requested_ends: dict[str, str] = {}  # job -> "paused" or "cancelled", until its run has stopped

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
        self.begin()
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
            stored = await self._ended(stored, "cancelled")
        await self._drop_adapter(stored)
        await asyncio.to_thread(self._forget, stored.id)
        await written_aside("tuning.deleted", who=owner_of(request), job=stored.id)
        return json_response({"id": stored.id, "object": "fine_tuning.job", "deleted": True})

    def _forget(self, job_id: str) -> None:
        remove_folder(self._folder(job_id))
        self.store.drop(KIND, job_id)

    async def forget_rows(self, file_id: str) -> None:
        """No job learns from this file any more: those under way end."""
        for stored in await asyncio.to_thread(self.store.in_state, KIND, (*OPEN, "paused")):
            if file_id in (stored.shown["training_file"], stored.shown["validation_file"]):
                await self._tell(stored.id, f"The file {file_id} was deleted")
                await self._ended(stored, "cancelled")

    async def cancel(self, request: Request) -> Response:
        return json_response((await self._stop(request, "cancelled", (*OPEN, "paused"))).shown)

    async def pause(self, request: Request) -> Response:
        return json_response((await self._stop(request, "paused", OPEN)).shown)

    async def go_on(self, request: Request) -> Response:
        stored = await self._job(request)
        if stored.shown["status"] != "paused":
            raise ApiError(409, f"the job is {stored.shown['status']}; only a paused one can be resumed")
        self.store.need_hold(TAKEN)
        stored = await self._change(stored.id, status="queued")
        await self._tell(stored.id, "The job was resumed")
        self.begin()
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
        remove_folder(self._folder(stored.id))
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
        return await self._ended(stored, end)

    async def _ended(self, stored: Stored, end: str) -> Stored:
        """Raises ApiError 503 where another process runs it."""
        self.store.need_hold(TAKEN)
        async with self._deciding:
            if self._running != stored.id:
                return await self._end(stored.id, end)
        self._requested_ends[stored.id] = end
        self._signal(signal.SIGTERM)
        await self._until_stopped(stored.id)
        return await self._now(stored.id)

    async def _until_stopped(self, job_id: str) -> None:
        end = time.monotonic() + STOP_S
        while self._running == job_id and time.monotonic() < end:
            await asyncio.sleep(0.05)
        if self._running == job_id:
            self._signal(signal.SIGKILL)
        while self._running == job_id:
            await asyncio.sleep(0.05)

    # ------------------------------------------------------------------ what is tuned

    def _base(self, name: str, request: Request) -> str:
        """The model folder, package or pulled id that `name` stands for. Raises ApiError 400, 404."""
        from ...model import resolve

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

    def _folder(self, job_id: str) -> Path:
        return self.store.folder / "runs" / job_id

    def _write(self, stored: Stored, body: JobBody, training: Stored) -> None:
        """The job's folder: its data as they are now, its recipe; and the job itself, or nothing of it."""
        folder = self._folder(stored.id)
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

    # ------------------------------------------------------------------ the work

    async def resume(self) -> None:
        """Go on with what an earlier process left, if no other one does; what it tuned is served again."""
        idle = self._task is None or self._task.done()
        if idle and await asyncio.to_thread(lambda: self._left() and self.store.hold()):
            self.begin()

    def _left(self) -> bool:
        """Whether there is anything to run, or to load once after the start."""
        return bool(self.store.in_state(KIND, OPEN if self._loaded else (*OPEN, *ENDED)))

    def begin(self) -> None:
        self._more = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop the run under way; it goes on with the next service."""
        self._closing = True
        self._signal(signal.SIGTERM)
        if self._task:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._idle()), 2.5)
            self._signal(signal.SIGKILL)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _idle(self) -> None:
        while self._child is not None:
            await asyncio.sleep(0.05)

    async def _run(self) -> None:
        if not self._loaded:
            self._loaded = True
            await self._load_tuned()
        while not self._closing and (job_id := await self._next()):
            try:
                await self._one(job_id)
            except StoreFull as e:  # it stays open: tried again when the disk may have room
                log("job.parked", job=job_id, why=str(e))
                self._signal(signal.SIGKILL)
                await asyncio.sleep(PARK_S)
            except Exception as e:  # one job must not keep the others from running
                log("job.failed", job=job_id, error=type(e).__name__)
                with suppress(StoreFull):
                    await self._fail(job_id, "internal", f"{type(e).__name__}: the job cannot go on", None)
            finally:
                self._running = None

    async def _next(self) -> str | None:
        """Take up the next open job; None when there is none."""
        while True:
            self._more = False
            jobs = await asyncio.to_thread(self._open)
            for job in jobs:
                async with self._deciding:
                    now = await asyncio.to_thread(self.store.get, KIND, job.id)
                    if now and now.shown["status"] in OPEN:  # it may have been cancelled since
                        self._running = job.id
                        return job.id
            if not self._more:  # else one came while the list was read
                return None

    def _open(self) -> list[Stored]:
        return self.store.in_state(KIND, OPEN)[::-1]

    async def _load_tuned(self) -> None:
        """What earlier jobs made is served again after a restart; rows that a kill left behind go."""
        ended = await asyncio.to_thread(self.store.in_state, KIND, ENDED)
        for stored in ended:
            if (self._folder(stored.id) / "training.jsonl").exists():
                await self._in_turn(self._without_rows, stored.id)
            if stored.shown["fine_tuned_model"] and stored.hidden.get("loaded"):
                self.api.served.offer_adapter(stored.hidden["adapter"], _adapter(stored), stored.owner)

    async def _one(self, job_id: str) -> None:
        """One job to its end, or to where it was asked to stop."""
        folder = self._folder(job_id)
        if (await self._now(job_id)).shown["status"] == "validating_files":
            fault = await asyncio.to_thread(faults, folder)
            if fault:
                return await self._fail(job_id, "invalid_training_file", *fault)
            await self._tell(job_id, "Files validated, moving job to queued state")
        if end := self._requested_ends.pop(job_id, None):  # while the files were read
            await self._end(job_id, end)
            return None
        await self._change(job_id, status="running")
        await self._tell(job_id, "Fine-tuning job started")
        code = await self._steelyard(job_id, folder)
        if end := self._requested_ends.pop(job_id, None):
            await self._end(job_id, end)
        elif code == 0:
            await self._succeed(job_id, await asyncio.to_thread(_document, folder))
        elif code != STOPPED and not self._closing:  # a run that is ended before it can say so goes on too
            error = (await asyncio.to_thread(_document, folder)).get("error") or {}
            message = error.get("message") or f"the run ended with {code}"
            code_told = error.get("code") or "run_failed"
            if code_told == "disk.full":
                raise StoreFull(message)
            param = "training_file" if code_told.startswith("data.") else None
            await self._fail(job_id, code_told, message, param)
        return None

    async def _steelyard(self, job_id: str, folder: Path) -> int:
        """Run the recipe to its end. Returns its exit code."""
        until = "gate" if (folder / "validation.jsonl").exists() else "compress"
        words = ["up", "recipe.yaml", "--yes", "--json", "--no-keep", "--until", until, "--workdir", "run"]
        command = [sys.executable, "-m", f"{__package__}.tuning_child", str(os.getpid()), *words]
        run_log = folder / "run" / "log.jsonl"
        at = run_log.stat().st_size if run_log.exists() else 0
        with (
            translated(),
            (folder / "outcome.json").open("wb") as out,
            (folder / "run.log").open("ab") as log,
        ):
            self._child = await asyncio.create_subprocess_exec(
                *command, cwd=folder, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=log,
                start_new_session=True, env=_environment(),
            )  # fmt: skip
        ended = asyncio.Event()
        follower = asyncio.create_task(self._follow(job_id, run_log, at, ended))
        try:
            return await self._child.wait()
        finally:
            self._signal(signal.SIGKILL)  # where we are cancelled, nothing goes on without us
            ended.set()
            await asyncio.gather(follower, return_exceptions=True)
            self._child = None

    async def _follow(self, job_id: str, path: Path, at: int, ended: asyncio.Event) -> None:
        """What the run's own log holds from byte `at` becomes the job's events, its last words too."""
        last = False
        while not last:
            with suppress(asyncio.TimeoutError):
                last = await asyncio.wait_for(ended.wait(), LOOK_EVERY_S)
            with suppress(OSError), path.open("rb") as file:
                file.seek(at)
                data = file.read()
                whole = data[: data.rfind(b"\n") + 1]
                at += len(whole)
                for line in whole.splitlines():
                    with suppress(StoreFull, orjson.JSONDecodeError):  # an event less; the run goes on
                        await self._translate(job_id, orjson.loads(line))

    async def _translate(self, job_id: str, event: dict[str, Any]) -> None:
        kind, step = event["event"], event.get("step")
        if kind == "step.start" and step in STEP_TOLD:
            await self._tell(job_id, f"{STEP_TOLD[step]} ...")
        elif kind == "train.planned":
            fields = {"total_steps": event["steps"], "tokens": event["tokens"]}
            message = f"{event['steps']} steps planned, {event['tokens']} tokens"
            await self._tell(job_id, message, data=fields)
        elif kind in ("train.checkpoint", "train.resumed"):
            words = "Saved after" if kind == "train.checkpoint" else "Going on after"
            await self._tell(job_id, f"{words} step {step}", data={"step": step})

    def _signal(self, number: int) -> None:
        if self._child and self._child.returncode is None:
            with suppress(ProcessLookupError):
                self._child.send_signal(number)

    # ------------------------------------------------------------------ ends

    async def _succeed(self, job_id: str, outcome: dict[str, Any]) -> None:
        steps = {step["step"]: step for step in outcome["steps"]}
        checkpoint = Path(steps["train"]["artefact"])
        curve = await asyncio.to_thread(_curve, checkpoint)
        stored = await self._now(job_id)
        file = await asyncio.to_thread(result_file, self.store, stored, curve)
        name = f"{self.api.settings.name}:{stored.hidden['adapter']}"
        events = [_metrics(point, len(curve)) for point in thinned(curve)]
        stored = stored.with_hidden(checkpoint=str(checkpoint), compressed=steps["compress"]["artefact"])
        loaded, why = await self._try_to_load(stored)
        why = self._without_places(why)
        events += [event_of(why), event_of(f"New fine-tuned model created: {name}")]
        events.append(event_of("The job has successfully completed"))
        stored = stored.with_hidden(loaded=loaded).with_shown(
            status="succeeded", fine_tuned_model=name, finished_at=int(time.time()), result_files=[file.id],
            trained_tokens=int(sum(point["tokens"] for point in curve)),
        )  # fmt: skip

        def save() -> None:
            with self.store.together():
                self.store.append(CHECKPOINTS, job_id, last_checkpoint(job_id, name, curve), 0)
                self.store.extend(EVENTS, job_id, [(None, orjson.dumps(event)) for event in events])
                self.store.put(KIND, stored)

        await self._in_turn(save)
        await self._in_turn(self._without_rows, job_id)
        made = steps["compress"]["hash"]
        await written_aside("tuning.ended", who=stored.owner, artefact=made, job=job_id)

    def _without_places(self, text: str) -> str:
        """Who asks by a key need not be on this machine: where its files lie is nobody's business."""
        return text.replace(f"{self.store.folder}/", "") if self.api.served.keys.needed else text

    async def _try_to_load(self, stored: Stored) -> tuple[bool, str]:
        """Whether requests can name it now, and what to tell."""
        how = f"serve it with: steelyard serve {stored.hidden['checkpoint']}"
        served = self.api.served
        if served.capability.lora != "hot":
            return False, f"This engine loads no adapters while it runs; {how}"
        if stored.hidden["base"] != getattr(self.api.settings, "source", None):
            return False, f"Its base is not the model served here; {how}"
        try:
            await self._load(stored)
        except Exception as e:  # the engine says in its own words why it refuses
            return False, f"The engine did not load it ({e}); {how}"
        return True, "Loaded: requests can name it"

    async def _load(self, stored: Stored) -> None:
        await self.api.served.load_adapter(stored.hidden["adapter"], _adapter(stored), stored.owner)

    async def _end(self, job_id: str, end: str) -> Stored:
        changed: dict[str, Any] = {"status": end}
        if end == "cancelled":
            changed["finished_at"] = int(time.time())
        stored = await self._in_turn(self._changed, job_id, event_of(f"The job was {end}"), changed)
        if end == "cancelled":
            stored = await self._in_turn(self._without_rows, job_id)
            await written_aside("tuning.ended", who=stored.owner, outcome="refused", job=job_id, state=end)
        return stored

    async def _fail(self, job_id: str, code: str, message: str, param: str | None) -> None:
        message = self._without_places(message)
        error = {"code": code, "message": message, "param": param}
        changed = {"status": "failed", "error": error, "finished_at": int(time.time())}
        await self._in_turn(self._changed, job_id, event_of(message, level="error"), changed)
        stored = await self._in_turn(self._without_rows, job_id)
        await written_aside("tuning.ended", who=stored.owner, outcome="failed", job=job_id, state=code)

    def _without_rows(self, job_id: str) -> Stored:
        """An ended job needs its rows no more: its folder holds its log and, of a good one, its weights."""
        stored = self._stored(job_id)
        folder = self._folder(job_id)
        keep = [Path(stored.hidden[name]) for name in ("checkpoint", "compressed") if name in stored.hidden]
        for path in (folder / "training.jsonl", folder / "validation.jsonl"):
            path.unlink(missing_ok=True)
        clear(folder / "run", keep)
        return self.store.put(KIND, replace(stored, size_bytes=bytes_below(folder)))

    async def _now(self, job_id: str) -> Stored:
        return await self._in_turn(self._stored, job_id)

    def _stored(self, job_id: str) -> Stored:
        """Raises ApiError 404 where it was deleted meanwhile."""
        stored = self.store.get(KIND, job_id)
        if stored is None:
            raise ApiError(404, f"there is no fine-tuning job {job_id!r}", param="id", code="not_found")
        return stored

    async def _change(self, job_id: str, **changed: Any) -> Stored:
        return await self._in_turn(self._changed, job_id, None, changed)

    def _changed(self, job_id: str, event: dict[str, Any] | None, changed: dict[str, Any]) -> Stored:
        with self.store.together():
            if event:
                self.store.append(EVENTS, job_id, event)
            return self.store.put(KIND, self._stored(job_id).with_shown(**changed))

    async def _tell(self, job_id: str, message: str, data: Any = None) -> None:
        await self._in_turn(self.store.append, EVENTS, job_id, event_of(message, data=data))

    def _in_turn(self, work: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(self._turns, work, *args)


def event_of(message: str, *, level: str = "info", kind: str = "message", data: Any = None) -> dict[str, Any]:
    return {
        "object": "fine_tuning.job.event", "id": new_id("ftevent-"), "created_at": int(time.time()),
        "level": level, "message": message, "type": kind, "data": data or {},
    }  # fmt: skip


def _metrics(point: dict[str, Any], steps: int) -> dict[str, Any]:
    fields = {"step": point["step"], "train_loss": point["loss"], "total_steps": steps}
    words = f"Step {point['step']}/{steps}: training loss={point['loss']:.2f}"
    return event_of(words, kind="metrics", data=fields)


def _curve(checkpoint: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (checkpoint / "curve.jsonl").read_bytes().splitlines()]


def _adapter(stored: Stored) -> str:
    """The PEFT folder of a job's result."""
    return str(Path(stored.hidden["checkpoint"]) / "adapter")


def _document(folder: Path) -> dict[str, Any]:
    """What `steelyard up --json` said."""
    with suppress(OSError, orjson.JSONDecodeError):
        document = orjson.loads((folder / "outcome.json").read_bytes())
        return document if isinstance(document, dict) else {}
    return {}


def _environment() -> dict[str, str]:
    """The run needs no key of the service's."""
    return {name: value for name, value in os.environ.items() if name != "STEELYARD_API_KEY"}


def _has(stored: Stored, request: Request) -> bool:
    """The list's filter `metadata[k]=v`."""
    metadata = stored.shown["metadata"] or {}
    pattern = re.compile(r"metadata\[(.+)\]")
    pairs = [(m[1], v) for k, v in request.query_params.items() if (m := pattern.fullmatch(k))]
    return all(metadata.get(k) == v for k, v in pairs)
