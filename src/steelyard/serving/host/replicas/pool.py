"""Several engines of one model behind one door, as if they were one: same methods, same words.

A request goes where it costs the fewest tokens (balance.py): those before it, and those of it that no prefix
cache holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import replace
from typing import Any

from ...engines import Event, Scores
from ..engine_process import EngineCrashed, EngineLost, EngineProcess
from .balance import CACHE_BLOCKS, Balance, blocks_of

ORDER = ("ready", "loading", "stalled", "closed")


class Replicas:
    """Engines of one model. Raises as EngineProcess does."""

    def __init__(
        self, engines: list[EngineProcess], cache_blocks: int = CACHE_BLOCKS, least: int | None = None
    ) -> None:
        """`cache_blocks`: of the router's, that each replica's prefix cache holds at most. `least`: so many
        run at first (None: all); scaler.py starts the others when they are needed."""
        self.engines = engines
        self.balance = Balance(len(engines), cache_blocks)
        self.taking = set(range(len(engines) if least is None else least))  # that get requests
        self._adapters_lock = asyncio.Lock()  # who comes in, and what the others have, change one at a time

    async def start(self) -> None:
        """Raises Lacking where one cannot load; one after another, so that memory peaks once."""
        for engine in self.up:
            await engine.start()

    # ------------------------------------------------------------------ coming and going

    @property
    def up(self) -> list[EngineProcess]:
        """Those that get requests, by number."""
        return [self.engines[number] for number in sorted(self.taking)]

    def renewed(self, number: int) -> EngineProcess:
        """A new process for a replica that is away, with what the others have loaded by now."""
        old, alike = self.engines[number], self.up[0].settings
        settings = replace(old.settings, adapters=dict(alike.adapters), folder=alike.folder)
        self.engines[number] = EngineProcess(settings, old.log, old.output)
        return self.engines[number]

    async def take_in(self, number: int) -> None:
        """It gets requests from now on, with the adapters that the others have by now. Raises EngineLost."""
        engine = self.engines[number]
        async with self._adapters_lock:
            for name in [name for name in engine.adapters if name not in self.adapters]:
                await engine.drop_adapter(name)
            for name, folder in self.adapters.items():
                if engine.adapters.get(name) != folder:
                    await engine.load_adapter(name, folder)
            self.taking.add(number)

    def idlest(self) -> int:
        """One that cannot answer now; else one with the fewest tokens to compute; of equal ones the last."""

        def cost(number: int) -> tuple[bool, float, int]:
            return self.engines[number].state == "ready", self.balance.replicas[number].backlog, -number

        return min(self.taking, key=cost)

    # ------------------------------------------------------------------ as one

    @property
    def settings(self) -> Any:
        return self.up[0].settings

    @property
    def state(self) -> str:
        return min((engine.state for engine in self.up), key=ORDER.index)

    @property
    def stopped(self) -> bool:
        return all(engine.stopped for engine in self.up)

    @property
    def pid(self) -> int | None:
        return self.up[0].pid

    @property
    def pids(self) -> list[int]:
        return [pid for engine in self.engines if engine.state != "closed" for pid in engine.pids]

    @property
    def load(self) -> dict[str, float]:
        """The longest seconds, the sum of the bytes."""
        loads = [engine.load for engine in self.up]
        return {
            name: (sum if name.endswith("_bytes") else max)(load.get(name, 0.0) for load in loads)
            for name in loads[0]
        }

    @property
    def metrics(self) -> dict[str, float]:
        """Their mean."""
        per_engine = [engine.metrics for engine in self.up if engine.metrics]
        return {
            name: sum(m.get(name, 0.0) for m in per_engine) / len(per_engine)
            for name in (per_engine[0] if per_engine else ())
        }

    @property
    def last_token_at(self) -> float:
        return max(engine.last_token_at for engine in self.engines)

    @property
    def restarts(self) -> int:
        return sum(engine.restarts for engine in self.engines)

    @property
    def active(self) -> int:
        return sum(engine.active for engine in self.engines)

    @property
    def slots(self) -> int:
        return sum(engine.slots for engine in self.up)

    @property
    def adapters(self) -> dict[str, str]:
        return self.up[0].adapters

    async def until_ready(self, limit_s: float) -> bool:
        """Whether one is ready, now or within the limit."""
        waits = [asyncio.create_task(engine.until_ready(limit_s)) for engine in self.up]
        try:
            for first in asyncio.as_completed(waits):
                if await first:
                    return True
            return False
        finally:
            for wait in waits:
                wait.cancel()

    # ------------------------------------------------------------------ asking

    async def submit(
        self,
        request: dict[str, Any],
        ended: Callable[[bool], None] = lambda begun: None,
        generated: Callable[[int, int], None] = lambda prompt, ids: None,
    ) -> AsyncGenerator[Event, None]:
        ids = request["ids"]
        blocks = blocks_of(ids, (request.get("adapter"), request.get("salt", "")))
        number = self._place(len(ids), blocks)
        load = self.balance.take(number, len(ids), blocks, request["max_tokens"])

        def progress(prompt_tokens: int, output_tokens: int) -> None:
            load.progress(prompt_tokens, output_tokens)
            generated(prompt_tokens, output_tokens)

        def let_go(begun: bool) -> None:
            self.balance.ended(load) if begun else load.leave()
            ended(begun)

        try:
            async with aclosing(self.engines[number].submit(request, let_go, progress)) as events:
                async for event in events:
                    yield event
        except EngineLost as e:
            load.leave()
            if isinstance(e, EngineCrashed):
                self.balance.forget(number)
            raise

    def _place(self, tokens: int, blocks: list[int]) -> int:
        ready = [number for number in sorted(self.taking) if self.engines[number].state == "ready"]
        if not ready:
            raise EngineLost(f"the engine is {self.state}")
        return self.balance.choose(ready, tokens, blocks)

    async def score(self, ids: list[int], top: int) -> Scores:
        with self._busy(len(ids), blocks_of(ids, (None, ""))) as engine:
            return await engine.score(ids, top)

    async def embed(self, batch: list[list[int]]) -> list[list[float]]:
        with self._busy(sum(map(len, batch)), []) as engine:
            return await engine.embed(batch)

    @contextmanager
    def _busy(self, tokens: int, blocks: list[int]) -> Iterator[EngineProcess]:
        """The engine for so many tokens, which are its backlog meanwhile; no cache keeps them."""
        number = self._place(tokens, blocks)
        load = self.balance.take(number, tokens, [], 0)
        try:
            yield self.engines[number]
        finally:
            load.leave()

    async def load_adapter(self, name: str, folder: str) -> None:
        """In all of them: each must be ready."""
        async with self._adapters_lock:
            work = [engine.load_adapter(name, folder) for engine in self.up]
            for error in await asyncio.gather(*work, return_exceptions=True):
                if error is not None:
                    raise error

    async def drop_adapter(self, name: str) -> None:
        async with self._adapters_lock:
            for engine in self.up:
                with suppress(EngineCrashed):  # a restarted one does not load it again
                    await engine.drop_adapter(name)

    def end_all(self, why: str) -> None:
        for engine in self.engines:
            engine.end_all(why)

    async def forget_grammars(self) -> None:
        await asyncio.gather(*(engine.forget_grammars() for engine in self.up))

    def move(self, folder: str) -> None:
        for engine in self.engines:
            engine.move(folder)

    async def close(self) -> None:
        await asyncio.gather(*(engine.close() for engine in self.engines))
