"""Models tuned by requests: all can be asked for, and as many are loaded as fit into a byte budget.

The one that has been unused longest makes room. Adapters named at the start are no concern of this.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from ..base.errors import ApiError
from ..engines import EngineSettings

MEMORY_SHARE = 0.5  # of what is free once the model is loaded
ADAPTER_CACHE = 0.25  # of the model's cache bytes, for each adapter's own on OpenVINO
BUSY_S = 5.0  # then one in use may be idle


class Loader(Protocol):
    """What an engine or several of them can do."""

    @property
    def adapters(self) -> dict[str, str]: ...
    async def load_adapter(self, name: str, folder: str) -> None: ...
    async def drop_adapter(self, name: str) -> None: ...


class AdapterCache:
    """`size_of`: bytes that an adapter of this folder takes once it is loaded."""

    def __init__(self, engine: Loader, budget_bytes: float, size_of: Callable[[str], float]) -> None:
        self.engine, self.budget_bytes, self.size_of = engine, budget_bytes, size_of
        self.folders: dict[str, str] = {}  # of all, the longest unused first
        self.in_use: Counter[str] = Counter()
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def using(self, name: str | None) -> AsyncIterator[None]:
        """Loaded meanwhile. Raises as `load` does."""
        if name is None or name not in self.folders:
            yield
            return
        self.in_use[name] += 1
        try:
            await self.load(name)
            yield
        finally:
            self.in_use[name] -= 1

    async def load(self, name: str) -> None:
        """Raises ApiError 503 where it has no room, EngineLost where the engine cannot."""
        async with self._lock:
            folder = self.folders[name] = self.folders.pop(name)
            if name not in self.engine.adapters:
                await self._make_room(self.size_of(folder))
                await self.engine.load_adapter(name, folder)

    async def drop(self, name: str) -> None:
        """It is there no more, whoever uses it."""
        async with self._lock:
            self.folders.pop(name, None)
            if name in self.engine.adapters:
                await self.engine.drop_adapter(name)

    async def _make_room(self, wanted_bytes: float) -> None:
        loaded = {n: self.size_of(f) for n, f in self.folders.items() if n in self.engine.adapters}
        spare = self.budget_bytes - wanted_bytes - sum(loaded.values())
        idle = [name for name in loaded if not self.in_use[name]]
        if spare + sum(loaded[name] for name in idle) < 0:
            message = "the memory for tuned models is taken by others in use"
            if wanted_bytes > self.budget_bytes:
                message = f"it needs {wanted_bytes:.3g} bytes, all tuned models have {self.budget_bytes:.3g}"
            raise ApiError(503, message, code="adapters_busy", retry_after=BUSY_S)
        for name in idle:
            if spare >= 0:
                return
            await self.engine.drop_adapter(name)
            spare += loaded[name]


def adapter_bytes(settings: EngineSettings, copies: int) -> Callable[[str], float]:
    """On OpenVINO an adapter is a pipeline of its own with the model's weights (decisions/057)."""
    base = 0.0
    if settings.engine == "openvino":
        weights = sum(file.stat().st_size for file in Path(settings.folder).glob("*.bin"))
        base = weights + settings.cache_bytes * ADAPTER_CACHE

    def size_of(folder: str) -> float:
        own = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
        return float(copies * (base + own))

    return size_of
