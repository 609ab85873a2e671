"""The one task that runs open jobs, the oldest first, each as a child process.

A job that is paused, or whose service ended, goes on by running the same command in the same folder again.
What comes out is loaded as an adapter where the engine takes one while it runs; else its event says how to
serve it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from ...base.log import log, written_aside
from ...base.store import Stored, StoreFull, translated
from .job import faults, last_checkpoint, result_file, thinned
from .records import CHECKPOINTS, ENDED, EVENTS, KIND, OPEN, Records, event_of

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


class Runs:
    """`api`: what is served, where a tuned adapter is loaded."""

    def __init__(self, api: Any, records: Records) -> None:
        self.api, self.records = api, records
        self._task: asyncio.Task[None] | None = None
        self._child: asyncio.subprocess.Process | None = None
        self._running: str | None = None
        self._closing = False
        self._more = False  # than the worker knows of
        self._loaded = False  # what earlier jobs tuned
        self._deciding = asyncio.Lock()  # which job runs: none that is being ended
        self._requested_ends: dict[str, str] = {}  # job -> "paused" or "cancelled", until its run has stopped

    async def resume(self) -> None:
        """Go on with what an earlier process left, if no other one does; what it tuned is served again."""
        idle = self._task is None or self._task.done()
        if idle and await asyncio.to_thread(lambda: self._left() and self.records.store.hold()):
            self.begin()

    def _left(self) -> bool:
        """Whether there is anything to run, or to load once after the start."""
        return bool(self.records.store.in_state(KIND, OPEN if self._loaded else (*OPEN, *ENDED)))

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
                    now = await asyncio.to_thread(self.records.store.get, KIND, job.id)
                    if now and now.shown["status"] in OPEN:  # it may have been cancelled since
                        self._running = job.id
                        return job.id
            if not self._more:  # else one came while the list was read
                return None

    def _open(self) -> list[Stored]:
        return self.records.store.in_state(KIND, OPEN)[::-1]

    async def _load_tuned(self) -> None:
        """What earlier jobs made is served again after a restart; rows that a kill left behind go."""
        ended = await asyncio.to_thread(self.records.store.in_state, KIND, ENDED)
        for stored in ended:
            if (self.records.folder(stored.id) / "training.jsonl").exists():
                await self.records.in_turn(self.records.without_rows, stored.id)
            if stored.shown["fine_tuned_model"] and stored.hidden.get("loaded"):
                self.api.served.offer_adapter(stored.hidden["adapter"], _adapter(stored), stored.owner)

    async def _one(self, job_id: str) -> None:
        """One job to its end, or to where it was asked to stop."""
        folder = self.records.folder(job_id)
        if (await self.records.now(job_id)).shown["status"] == "validating_files":
            fault = await asyncio.to_thread(faults, folder)
            if fault:
                return await self._fail(job_id, "invalid_training_file", *fault)
            await self.records.tell(job_id, "Files validated, moving job to queued state")
        if end := self._requested_ends.pop(job_id, None):  # while the files were read
            await self._end(job_id, end)
            return None
        await self.records.change(job_id, status="running")
        await self.records.tell(job_id, "Fine-tuning job started")
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
        command = [sys.executable, "-m", f"{__package__}.child", str(os.getpid()), *words]
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
            await self.records.tell(job_id, f"{STEP_TOLD[step]} ...")
        elif kind == "train.planned":
            fields = {"total_steps": event["steps"], "tokens": event["tokens"]}
            message = f"{event['steps']} steps planned, {event['tokens']} tokens"
            await self.records.tell(job_id, message, data=fields)
        elif kind in ("train.checkpoint", "train.resumed"):
            words = "Saved after" if kind == "train.checkpoint" else "Going on after"
            await self.records.tell(job_id, f"{words} step {step}", data={"step": step})

    def _signal(self, number: int) -> None:
        if self._child and self._child.returncode is None:
            with suppress(ProcessLookupError):
                self._child.send_signal(number)

    # ------------------------------------------------------------------ ends

    async def ended(self, stored: Stored, end: str) -> Stored:
        """Raises ApiError 503 where another process runs it."""
        self.records.store.need_hold(TAKEN)
        async with self._deciding:
            if self._running != stored.id:
                return await self._end(stored.id, end)
        self._requested_ends[stored.id] = end
        self._signal(signal.SIGTERM)
        await self._until_stopped(stored.id)
        return await self.records.now(stored.id)

    async def _until_stopped(self, job_id: str) -> None:
        end = time.monotonic() + STOP_S
        while self._running == job_id and time.monotonic() < end:
            await asyncio.sleep(0.05)
        if self._running == job_id:
            self._signal(signal.SIGKILL)
        while self._running == job_id:
            await asyncio.sleep(0.05)

    async def _succeed(self, job_id: str, outcome: dict[str, Any]) -> None:
        steps = {step["step"]: step for step in outcome["steps"]}
        checkpoint = Path(steps["train"]["artefact"])
        curve = await asyncio.to_thread(_curve, checkpoint)
        stored = await self.records.now(job_id)
        file = await asyncio.to_thread(result_file, self.records.store, stored, curve)
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
            with self.records.store.together():
                self.records.store.append(CHECKPOINTS, job_id, last_checkpoint(job_id, name, curve), 0)
                self.records.store.extend(EVENTS, job_id, [(None, orjson.dumps(event)) for event in events])
                self.records.store.put(KIND, stored)

        await self.records.in_turn(save)
        await self.records.in_turn(self.records.without_rows, job_id)
        made = steps["compress"]["hash"]
        await written_aside("tuning.ended", who=stored.owner, artefact=made, job=job_id)

    def _without_places(self, text: str) -> str:
        """Who asks by a key need not be on this machine: where its files lie is nobody's business."""
        return text.replace(f"{self.records.store.folder}/", "") if self.api.served.keys.needed else text

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
        stored = await self.records.in_turn(
            self.records.changed, job_id, event_of(f"The job was {end}"), changed
        )
        if end == "cancelled":
            stored = await self.records.in_turn(self.records.without_rows, job_id)
            await written_aside("tuning.ended", who=stored.owner, outcome="refused", job=job_id, state=end)
        return stored

    async def _fail(self, job_id: str, code: str, message: str, param: str | None) -> None:
        message = self._without_places(message)
        error = {"code": code, "message": message, "param": param}
        changed = {"status": "failed", "error": error, "finished_at": int(time.time())}
        await self.records.in_turn(self.records.changed, job_id, event_of(message, level="error"), changed)
        stored = await self.records.in_turn(self.records.without_rows, job_id)
        await written_aside("tuning.ended", who=stored.owner, outcome="failed", job=job_id, state=code)


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
