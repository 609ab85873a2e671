"""The routes over stores and encoders, together: app.py takes them as one."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from starlette.routing import Route
from starlette.types import ASGIApp

from ..base.store import ObjectStore, store_folder
from ..jobs import batches, files, tuning_job
from ..jobs.batches import Batches
from ..jobs.tuning import Tuning
from .vectors import embeddings, rerank

BODIES: dict[str, type[BaseModel]] = {
    **embeddings.BODIES,
    **rerank.BODIES,
    **batches.BODIES,
    **tuning_job.BODIES,
}


class Stores:
    """What outlives a request, and the work that goes on beside requests."""

    def __init__(self, api: Any) -> None:
        self.store = ObjectStore(store_folder(api.settings.name))
        self.batches = Batches(api, self.store)
        self.tuning = Tuning(api, self.store)

    def begin(self, app: ASGIApp) -> None:
        """Take up what an earlier process left. Call it once the service is the user's, not a candidate."""
        self.batches.resume(app)
        self.tuning.resume()

    async def close(self) -> None:
        await self.batches.close()
        await self.tuning.close()


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
