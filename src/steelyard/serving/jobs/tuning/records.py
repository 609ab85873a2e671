"""A job as it is kept: its state, its events, its folder."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...base.errors import ApiError
from ...base.store import ObjectStore, Stored, new_id
from .job import bytes_below, clear

KIND = "jobs"
EVENTS, CHECKPOINTS = "job_events", "job_checkpoints"
OPEN = ("validating_files", "queued", "running")
ENDED = ("succeeded", "failed", "cancelled")


class Records:
    """All jobs. What changes one does so in turn with the others."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self._turns = ThreadPoolExecutor(1)

    def folder(self, job_id: str) -> Path:
        return self.store.folder / "runs" / job_id

    def without_rows(self, job_id: str) -> Stored:
        """An ended job needs its rows no more: its folder holds its log and, of a good one, its weights."""
        stored = self.stored(job_id)
        folder = self.folder(job_id)
        keep = [Path(stored.hidden[name]) for name in ("checkpoint", "compressed") if name in stored.hidden]
        for path in (folder / "training.jsonl", folder / "validation.jsonl"):
            path.unlink(missing_ok=True)
        clear(folder / "run", keep)
        return self.store.put(KIND, replace(stored, size_bytes=bytes_below(folder)))

    async def now(self, job_id: str) -> Stored:
        return await self.in_turn(self.stored, job_id)

    def stored(self, job_id: str) -> Stored:
        """Raises ApiError 404 where it was deleted meanwhile."""
        stored = self.store.get(KIND, job_id)
        if stored is None:
            raise ApiError(404, f"there is no fine-tuning job {job_id!r}", param="id", code="not_found")
        return stored

    async def change(self, job_id: str, **changed: Any) -> Stored:
        return await self.in_turn(self.changed, job_id, None, changed)

    def changed(self, job_id: str, event: dict[str, Any] | None, changed: dict[str, Any]) -> Stored:
        with self.store.together():
            if event:
                self.store.append(EVENTS, job_id, event)
            return self.store.put(KIND, self.stored(job_id).with_shown(**changed))

    async def tell(self, job_id: str, message: str, data: Any = None) -> None:
        await self.in_turn(self.store.append, EVENTS, job_id, event_of(message, data=data))

    def in_turn(self, work: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(self._turns, work, *args)


def event_of(message: str, *, level: str = "info", kind: str = "message", data: Any = None) -> dict[str, Any]:
    return {
        "object": "fine_tuning.job.event", "id": new_id("ftevent-"), "created_at": int(time.time()),
        "level": level, "message": message, "type": kind, "data": data or {},
    }  # fmt: skip
