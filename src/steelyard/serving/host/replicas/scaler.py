"""Carries out what `scaling` wants: a replica is loaded and warm before it gets a request, and drained before
it goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing, suppress

from ....errors import Lacking
from ....hardware import free_bytes
from ....processes import family, resident_bytes
from ..engine_process import EngineLost, EngineProcess
from .pool import Replicas
from .scaling import Scaling

TICK_S = 1.0
AGAIN_S = 60.0  # after a replica could not be loaded, or had no room
SPARE = 1.1  # of what one of them takes: so much must be free


class Scaler:
    """Replicas that come and go. `at_once`: requests under way and waiting."""

    def __init__(
        self, replicas: Replicas, scaling: Scaling, at_once: Callable[[], int], log: Callable[..., None]
    ) -> None:
        self.replicas, self.scaling, self.at_once, self.log = replicas, scaling, at_once, log
        self.not_before_s = 0.0
        self.starting: asyncio.Task[None] | None = None
        self.ending: dict[int, asyncio.Task[None]] = {}
        self.returning: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            while True:
                self.step(time.monotonic())
                await asyncio.sleep(TICK_S)
        finally:
            for task in (self.starting, *self.ending.values(), *self.returning.values()):
                if task is not None:
                    task.cancel()

    def step(self, now_s: float) -> None:
        """One look: begin what is due, and do not wait for it."""
        wanted = self.scaling.sample(now_s, self.at_once())
        if self.starting is not None and self.starting.done():
            self.starting = None
        coming = (self.starting is not None) + len(self.returning)
        have = len(self.replicas.taking) + coming
        if wanted > have:
            self._more(now_s)
        elif wanted < have and not coming:
            self._fewer()

    # ------------------------------------------------------------------ up

    def _more(self, now_s: float) -> None:
        """One that is being drained takes requests again; else another is loaded, where there is room."""
        if self.ending:
            number, task = self.ending.popitem()
            task.cancel()
            self.returning[number] = asyncio.create_task(self._keep(number))
        elif self.starting is None and now_s >= self.not_before_s:
            others = self.replicas.taking | self.returning.keys()
            number = min(set(range(len(self.replicas.engines))) - others)
            if self._has_room(now_s):
                self.log("replica.starting", replica=number, wanted=self.scaling.wanted)
                self.starting = asyncio.create_task(self._start(number))

    def _has_room(self, now_s: float) -> bool:
        """As much memory as one that runs has taken, its cache full, beside what those caches still fill."""
        up = self.replicas.up
        one = SPARE * (up[0].load.get("rss_bytes", 0.0) + up[0].settings.cache_bytes)
        needed = int(one + sum(map(_unfilled_bytes, up)))
        free = free_bytes()
        if needed > free:
            self.not_before_s = now_s + AGAIN_S
            self.log("replica.no_room", needed_bytes=needed, free_bytes=free)
        return needed <= free

    async def _start(self, number: int) -> None:
        began_s = time.monotonic()
        engine = self.replicas.renewed(number)
        try:
            await engine.start()
            await _warm(engine)
            await self.replicas.take_in(number)
            self.log("replica.ready", replica=number, seconds=time.monotonic() - began_s)
        except (Lacking, EngineLost, OSError) as e:
            self.not_before_s = time.monotonic() + AGAIN_S
            self.log("replica.failed", replica=number, why=getattr(e, "why", None) or str(e))
            await engine.close()
        except asyncio.CancelledError:
            await engine.close()
            raise

    async def _keep(self, number: int) -> None:
        """One that was being drained takes requests again; where it cannot, it ends after all."""
        try:
            await self.replicas.take_in(number)
            self.log("replica.kept", replica=number)
        except EngineLost as e:
            self.not_before_s = time.monotonic() + AGAIN_S
            self.log("replica.failed", replica=number, why=str(e))
            await self._let_go(number)
        finally:
            del self.returning[number]

    # ------------------------------------------------------------------ down

    def _fewer(self) -> None:
        """The one with least to do gets no more; it goes when it has answered what it has."""
        number = self.replicas.idlest()
        self.replicas.taking.discard(number)
        self.log("replica.draining", replica=number, active=self.replicas.engines[number].active)
        self.ending[number] = asyncio.create_task(self._end(number))

    async def _end(self, number: int) -> None:
        await self._idle(number)
        del self.ending[number]  # from here on it is not kept
        await self._let_go(number)

    async def _idle(self, number: int) -> None:
        while self.replicas.engines[number].active:
            await asyncio.sleep(TICK_S / 5)

    async def _let_go(self, number: int) -> None:
        """The number may be a newer replica's before this one has ended."""
        engine = self.replicas.engines[number]
        await self._idle(number)
        await engine.close()
        self.replicas.balance.forget(number)
        self.log("replica.ended", replica=number)


def _unfilled_bytes(engine: EngineProcess) -> float:
    """Of its cache: what its processes have not grown by since it had loaded."""
    resident = sum(map(resident_bytes, family(engine.pids)))
    grown = max(0.0, resident - engine.load.get("rss_bytes", 0.0))
    return max(0.0, engine.settings.cache_bytes - grown)


async def _warm(engine: EngineProcess) -> None:
    """The first steps compile kernels: not on a user's time. Raises EngineLost."""
    for tokens in (64, 1):
        request = {"ids": [0] * tokens, "max_tokens": 2}
        with suppress(StopAsyncIteration):
            async with aclosing(engine.submit(request)) as events:
                async for _ in events:
                    pass
