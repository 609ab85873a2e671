"""Carries out what `scaling` wants: a replica is loaded and warm before it gets a request, and drained before
it goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing, suppress

from ....errors import Lacking
from ....hardware import free_bytes
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

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            while True:
                self.step(time.monotonic())
                await asyncio.sleep(TICK_S)
        finally:
            for task in (self.starting, *self.ending.values()):
                if task is not None:
                    task.cancel()

    def step(self, now_s: float) -> None:
        """One look: begin what is due, and do not wait for it."""
        wanted = self.scaling.sample(now_s, self.at_once())
        if self.starting is not None and self.starting.done():
            self.starting = None
        have = len(self.replicas.taking) + (self.starting is not None)
        if wanted > have:
            self._more(now_s)
        elif wanted < have and self.starting is None:
            self._fewer()

    # ------------------------------------------------------------------ up

    def _more(self, now_s: float) -> None:
        """One that is being drained takes requests again; else another is loaded, where there is room."""
        if self.ending:
            number, task = self.ending.popitem()
            task.cancel()
            self.replicas.taking.add(number)
            self.log("replica.kept", replica=number)
        elif self.starting is None and now_s >= self.not_before_s:
            number = min(set(range(len(self.replicas.engines))) - self.replicas.taking)
            if self._has_room(now_s):
                self.log("replica.starting", replica=number, wanted=self.scaling.wanted)
                self.starting = asyncio.create_task(self._start(number))

    def _has_room(self, now_s: float) -> bool:
        """As much memory as one that runs has taken, its cache full."""
        one = self.replicas.up[0]
        needed = int(SPARE * (one.load.get("rss_bytes", 0.0) + one.settings.cache_bytes))
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

    # ------------------------------------------------------------------ down

    def _fewer(self) -> None:
        """The one with least to do gets no more; it goes when it has answered what it has."""
        number = self.replicas.idlest()
        self.replicas.taking.discard(number)
        self.log("replica.draining", replica=number, active=self.replicas.engines[number].active)
        self.ending[number] = asyncio.create_task(self._end(number))

    async def _end(self, number: int) -> None:
        engine = self.replicas.engines[number]
        while engine.active:
            await asyncio.sleep(TICK_S / 5)
        del self.ending[number]  # from here on it is not kept
        await engine.close()
        self.replicas.balance.forget(number)
        self.log("replica.ended", replica=number)


async def _warm(engine: EngineProcess) -> None:
    """The first steps compile kernels: not on a user's time. Raises EngineLost."""
    for tokens in (64, 1):
        request = {"ids": [0] * tokens, "max_tokens": 2}
        with suppress(StopAsyncIteration):
            async with aclosing(engine.submit(request)) as events:
                async for _ in events:
                    pass
