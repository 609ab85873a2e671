"""The routes over stores and encoders, together: app.py takes them as one."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from pydantic import BaseModel
from starlette.routing import Route
from starlette.types import ASGIApp

from ..base.log import log
from ..base.store import ObjectStore, store_folder
from ..host.settings import sealing_keys
from ..jobs import batches, files, tuning
from ..jobs.batches import Batches
from ..jobs.old_layout import read_old_layout
from ..jobs.quota import check_bytes, quota_of
from .responses.routes import make_again
from .responses.store import Document, ResponseStore, left_over
from .vectors import embeddings, rerank

LOOK_S = 5.0  # for work that another process has left
SWEEP_S = 3600.0  # of what has expired; nobody sees it before

BODIES: dict[str, type[BaseModel]] = {
    **embeddings.BODIES,
    **rerank.BODIES,
    **batches.BODIES,
    **tuning.BODIES,
}


class Stores:
    """What outlives a request, and the work that goes on beside requests."""

    def __init__(self, api: Any) -> None:
        self.api, settings = api, api.settings
        keys = sealing_keys(settings)
        self.store = ObjectStore(store_folder(settings.name, sealed=keys is not None), keys)
        self.batches = Batches(api, self.store)
        self.tuning = tuning.Tuning(api, self.store)
        self.responses = ResponseStore(self.store, self._check_bytes)
        self._task: asyncio.Task[None] | None = None

    def _check_bytes(self, owner: str, more_bytes: int) -> None:
        check_bytes(self.store, quota_of(self.api, owner), owner, more_bytes)

    def begin(self, app: ASGIApp) -> None:
        """Take up what an earlier process left, and go on looking. Call it once the service is the user's,
        not a candidate."""
        self._task = self._task or asyncio.create_task(self._look(app))

    async def _look(self, app: ASGIApp) -> None:
        """Work that another process has left, now or later; what has expired goes."""
        swept_at, read_in = -SWEEP_S, False
        while True:
            try:
                if not read_in and (left := await asyncio.to_thread(self._read_in)) is not None:
                    read_in = True
                    await make_again(self.api, left)
                if time.monotonic() - swept_at >= SWEEP_S:
                    swept_at = time.monotonic()
                    await asyncio.to_thread(self._sweep)
                await self.batches.resume(app)
                await self.tuning.runs.resume()
            except Exception as e:  # a full disk, a store that cannot be read: tried again
                log("store.failed", error=type(e).__name__, why=str(e))
            await asyncio.sleep(LOOK_S)

    def _read_in(self) -> list[Document] | None:
        """What an older layout or an ended process left: responses to make again. None while another process
        works here."""
        if not self.store.exists():
            return []
        if not self.store.hold():
            return None
        read_old_layout(self.store)
        return left_over(self.store, self.responses.live)

    def _sweep(self) -> None:
        self.store.sweep()
        self.store.drop_strays()

    async def close(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.responses.close()
        await self.batches.close()
        await self.tuning.runs.close()
        await asyncio.to_thread(self.store.close)


def routes(api: Any) -> list[Route]:
    """Routes of files, batches, tuning jobs, embeddings and reranking; `served.stores` is what they share."""
    stores = api.served.stores = Stores(api)
    return [
        *files.routes(api, stores.store),
        *stores.batches.routes(),
        *stores.tuning.routes(),
        *embeddings.routes(api),
        *rerank.routes(api),
    ]
