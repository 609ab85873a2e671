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
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...errors import Problem
from ..base.errors import ApiError, json_response
from ..base.store import ObjectStore, Stored, find, may_see, need_scope, new_id, owner_of, page
from ..base.transport import body_of
from ..turn.bodies import ignored, parse
from . import files
from .tuning_job import (
    JobBody,
    faults,
    last_checkpoint,
    link,
    new_job,
    recipe_of,
    refuse,
    result_file,
    thinned,
)

KIND = "jobs"
EVENTS, CHECKPOINTS = "job_events", "job_checkpoints"
OPEN = ("validating_files", "queued", "running")
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
        self._requested_ends: dict[str, str] = {}  # job -> "paused" or "cancelled", until its run has stopped

    def routes(self) -> list[Route]:
        at = "/v1/fine_tuning/jobs"
        return [
            Route(at, self.create, methods=["POST"]),
            Route(at, self.listed, methods=["GET"]),
            Route(at + "/{id}", self.get, methods=["GET"]),
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
        named = files.named
        training = await asyncio.to_thread(
            named, self.store, request, body.training_file, "fine-tune", "training_file"
        )
        if body.validation_file:
            await asyncio.to_thread(
                named, self.store, request, body.validation_file, "fine-tune", "validation_file"
            )
        base = self._base(body.model, request)
        self.store.need_hold(TAKEN)
        stored = new_job(self.api.settings.name, body, base, owner_of(request))
        await asyncio.to_thread(self._write, stored, body, training)
        self._tell(stored.id, f"Created fine-tuning job: {stored.id}")
        self.begin()
        return json_response(stored.shown, headers=ignored(body, {}))

    async def listed(self, request: Request) -> Response:
        self.resume()
        jobs = await asyncio.to_thread(self.store.all, KIND)
        return json_response(page(request, [s for s in jobs if _has(s, request)], cap=100))

    async def get(self, request: Request) -> Response:
        self.resume()
        return json_response((await self._job(request)).shown)

    async def cancel(self, request: Request) -> Response:
        return json_response((await self._stop(request, "cancelled", (*OPEN, "paused"))).shown)

    async def pause(self, request: Request) -> Response:
        return json_response((await self._stop(request, "paused", OPEN)).shown)

    async def go_on(self, request: Request) -> Response:
        stored = await self._job(request)
        if stored.shown["status"] != "paused":
            raise ApiError(409, f"the job is {stored.shown['status']}; only a paused one can be resumed")
        self.store.need_hold(TAKEN)
        stored = self._change(stored.id, status="queued")
        self._tell(stored.id, "The job was resumed")
        self.begin()
        return json_response(stored.shown)

    async def events(self, request: Request) -> Response:
        return await self._records(request, EVENTS)

    async def checkpoints(self, request: Request) -> Response:
        return await self._records(request, CHECKPOINTS)

    async def delete_model(self, request: Request) -> Response:
        """A tuned model goes; the served one stays."""
        need_scope(request, "tune")
        name = request.path_params["name"]
        for stored in await asyncio.to_thread(self.store.all, KIND):
            if stored.shown["fine_tuned_model"] == name and may_see(request, stored):
                if stored.hidden["adapter"] in self.api.served.adapters:
                    await self.api.served.drop_adapter(stored.hidden["adapter"])
                await asyncio.to_thread(self.store.put, KIND, stored.with_shown(fine_tuned_model=None))
                return json_response({"id": name, "object": "model", "deleted": True})
        raise ApiError(404, f"there is no tuned model {name!r}", "model", "model_not_found")

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
        self.store.need_hold(TAKEN)
        if self._running == stored.id:
            self._requested_ends[stored.id] = end
            self._signal(signal.SIGTERM)
            await self._until_stopped(stored.id)
            return self._now(stored.id)
        return self._end(stored.id, end)

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
        """The folder of an earlier job's result, where it is the caller's: tuning can go on from there."""
        jobs = (s for s in self.store.all(KIND) if may_see(request, s))
        return next((s.hidden["checkpoint"] for s in jobs if s.shown["fine_tuned_model"] == name), None)

    def _folder(self, job_id: str) -> Path:
        return self.store.folder / "runs" / job_id

    def _write(self, stored: Stored, body: JobBody, training: Stored) -> None:
        """The job's folder: its data as they are now, its recipe, and the job itself."""
        folder = self._folder(stored.id)
        self.store.folder_of("runs")
        folder.mkdir(mode=0o700)
        link(self.store.content(training.id), folder / "training.jsonl")
        if body.validation_file:
            link(self.store.content(body.validation_file), folder / "validation.jsonl")
        try:
            recipe = recipe_of(stored, folder)
        except Problem as e:
            raise ApiError(400, e.message, param="model", code=e.code) from e
        # JSON is YAML: people and `steelyard up` read it alike.
        (folder / "recipe.yaml").write_text(json.dumps(recipe, indent=2, ensure_ascii=False) + "\n", "utf-8")
        self.store.put(KIND, stored)

    # ------------------------------------------------------------------ the work

    def resume(self) -> None:
        """Go on with what an earlier process left, if no other one does."""
        idle = self._task is None or self._task.done()
        if idle and self.store.exists() and self.store.all(KIND) and self.store.hold():
            self.begin()

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
        await self._load_tuned()
        while not self._closing and (job_id := await self._next()):
            try:
                await self._one(job_id)
            except Exception as e:  # one job must not keep the others from running
                self._fail(job_id, "internal", f"{type(e).__name__}: the job cannot go on", None)
            finally:
                self._running = None

    async def _next(self) -> str | None:
        """Take up the next open job; None when there is none."""
        while True:
            self._more = False
            jobs = await asyncio.to_thread(self._open)
            for job in jobs:  # nothing waits from here on; it may have been cancelled since
                if self._now(job.id).shown["status"] in OPEN:
                    self._running = job.id
                    return job.id
            if not self._more:  # else one came while the list was read
                return None

    def _open(self) -> list[Stored]:
        return [s for s in reversed(self.store.all(KIND)) if s.shown["status"] in OPEN]

    async def _load_tuned(self) -> None:
        """What earlier jobs made is served again after a restart."""
        for stored in await asyncio.to_thread(self.store.all, KIND):
            if stored.shown["fine_tuned_model"] and stored.hidden.get("loaded"):
                self.api.served.offer_adapter(stored.hidden["adapter"], _adapter(stored), stored.owner)

    async def _one(self, job_id: str) -> None:
        """One job to its end, or to where it was asked to stop."""
        folder = self._folder(job_id)
        if self._now(job_id).shown["status"] == "validating_files":
            fault = await asyncio.to_thread(faults, folder)
            if fault:
                return self._fail(job_id, "invalid_training_file", *fault)
            self._tell(job_id, "Files validated, moving job to queued state")
        if end := self._requested_ends.pop(job_id, None):  # while the files were read
            self._end(job_id, end)
            return None
        self._change(job_id, status="running")
        self._tell(job_id, "Fine-tuning job started")
        code = await self._steelyard(job_id, folder)
        if end := self._requested_ends.pop(job_id, None):
            self._end(job_id, end)
        elif code == 0:
            await self._succeed(job_id, _document(folder))
        elif code != STOPPED and not self._closing:  # a run that is ended before it can say so goes on too
            error = (_document(folder) or {}).get("error") or {}
            message = error.get("message") or f"the run ended with {code}"
            code_told = error.get("code") or "run_failed"
            self._fail(job_id, code_told, message, "training_file" if code_told.startswith("data.") else None)
        return None

    async def _steelyard(self, job_id: str, folder: Path) -> int:
        """Run the recipe to its end. Returns its exit code."""
        until = "gate" if (folder / "validation.jsonl").exists() else "compress"
        words = ["up", "recipe.yaml", "--yes", "--json", "--no-keep", "--until", until, "--workdir", "run"]
        command = [sys.executable, "-m", f"{__package__}.tuning_child", str(os.getpid()), *words]
        run_log = folder / "run" / "log.jsonl"
        at = run_log.stat().st_size if run_log.exists() else 0
        with (folder / "outcome.json").open("wb") as out, (folder / "run.log").open("ab") as log:
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
                    self._translate(job_id, orjson.loads(line))

    def _translate(self, job_id: str, event: dict[str, Any]) -> None:
        kind, step = event["event"], event.get("step")
        if kind == "step.start" and step in STEP_TOLD:
            self._tell(job_id, f"{STEP_TOLD[step]} ...")
        elif kind == "train.planned":
            event_fields = {"total_steps": event["steps"], "tokens": event["tokens"]}
            self._tell(job_id, f"{event['steps']} steps planned, {event['tokens']} tokens", data=event_fields)
        elif kind in ("train.checkpoint", "train.resumed"):
            words = "Saved after" if kind == "train.checkpoint" else "Going on after"
            self._tell(job_id, f"{words} step {step}", data={"step": step})

    def _signal(self, number: int) -> None:
        if self._child and self._child.returncode is None:
            with suppress(ProcessLookupError):
                self._child.send_signal(number)

    # ------------------------------------------------------------------ ends

    async def _succeed(self, job_id: str, outcome: dict[str, Any]) -> None:
        steps = {step["step"]: step for step in outcome["steps"]}
        checkpoint = Path(steps["train"]["artefact"])
        curve = [orjson.loads(line) for line in (checkpoint / "curve.jsonl").read_bytes().splitlines()]
        stored = self._now(job_id)
        file = await asyncio.to_thread(result_file, self.store, stored, curve)
        name = f"{self.api.settings.name}:{stored.hidden['adapter']}"
        for point in thinned(curve):
            fields = {"step": point["step"], "train_loss": point["loss"], "total_steps": len(curve)}
            words = f"Step {point['step']}/{len(curve)}: training loss={point['loss']:.2f}"
            self._tell(job_id, words, kind="metrics", data=fields)
        stored = stored.with_hidden(checkpoint=str(checkpoint), compressed=steps["compress"]["artefact"])
        loaded, why = await self._try_to_load(stored)
        self._tell(job_id, why)
        self.store.append(CHECKPOINTS, job_id, last_checkpoint(job_id, name, curve))
        self.store.put(
            KIND,
            stored.with_hidden(loaded=loaded).with_shown(
                status="succeeded", fine_tuned_model=name, finished_at=int(time.time()),
                result_files=[file.id], trained_tokens=int(sum(point["tokens"] for point in curve)),
            ),
        )  # fmt: skip
        self._tell(job_id, f"New fine-tuned model created: {name}")
        self._tell(job_id, "The job has successfully completed")

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

    def _end(self, job_id: str, end: str) -> Stored:
        changed: dict[str, Any] = {"status": end}
        if end == "cancelled":
            changed["finished_at"] = int(time.time())
        self._tell(job_id, f"The job was {end}")
        return self._change(job_id, **changed)

    def _fail(self, job_id: str, code: str, message: str, param: str | None) -> None:
        error = {"code": code, "message": message, "param": param}
        self._tell(job_id, message, level="error")
        self._change(job_id, status="failed", error=error, finished_at=int(time.time()))

    def _now(self, job_id: str) -> Stored:
        stored = self.store.get(KIND, job_id)
        assert stored is not None  # jobs are never deleted
        return stored

    def _change(self, job_id: str, **changed: Any) -> Stored:
        return self.store.put(KIND, self._now(job_id).with_shown(**changed))

    def _tell(
        self, job_id: str, message: str, *, level: str = "info", kind: str = "message", data: Any = None
    ) -> None:
        event = {
            "object": "fine_tuning.job.event", "id": new_id("ftevent-"), "created_at": int(time.time()),
            "level": level, "message": message, "type": kind, "data": data or {},
        }  # fmt: skip
        self.store.append(EVENTS, job_id, event)


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
