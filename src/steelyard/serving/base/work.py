"""Work that would hold up everyone's streams: done in a few threads beside the event loop, for some seconds.

Meant for what is bounded by limits.py before it comes: parsing large bodies, rendering templates, tokenising.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from .errors import ApiError

THREADS = 2
MOST_JOBS = 256  # under way and waiting; each holds a body
LIMIT_S = 10.0  # of CPU: 2,048 documents of a rerank take 4
RENDER_S = 2.0  # of CPU: a chat of full length takes 0.05
LOOK_S = 0.1
Result = TypeVar("Result")


class Overtime(BaseException):
    """Raised inside a job that has had its time. No template and no library may catch it as an Exception."""


class Job:
    """One call in a thread, which can be ended there."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.lock = threading.Lock()
        self.thread: int | None = None
        self.clock = 0
        self.began_s = 0.0

    def __call__(self) -> Any:
        with self.lock:
            self.thread = threading.get_ident()
            self.clock = time.pthread_getcpuclockid(self.thread)
            self.began_s = time.clock_gettime(self.clock)
        try:
            return self.work()
        finally:
            with self.lock:
                self.thread = None
            for _ in range(2):  # an end that was sent just now arrives here, not in the pool's own code
                pass

    def used_s(self) -> float:
        """CPU seconds so far: a busy machine is not the job's fault."""
        with self.lock:
            return time.clock_gettime(self.clock) - self.began_s if self.thread is not None else 0.0

    def end(self) -> None:
        """At its next line of Python; what a library computes meanwhile goes on to its end."""
        with self.lock:
            if self.thread is not None:
                thread = ctypes.c_ulong(self.thread)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(Overtime))


class Workers:
    """A few threads. A new one of these is made by tests alone."""

    def __init__(self, threads: int = THREADS) -> None:
        self.pool = ThreadPoolExecutor(threads, "steelyard-work")
        self.jobs = 0

    async def run(
        self, work: Callable[..., Result], *args: Any, limit_s: float = LIMIT_S, what: str = "this request"
    ) -> Result:
        """What `work(*args)` gives or raises; ApiError 400 after `limit_s` of CPU, 503 if too much waits."""
        if self.jobs >= MOST_JOBS:
            raise ApiError(503, "too many requests are being read", code="overloaded", retry_after=1)
        job = Job(lambda: work(*args))
        future = self.pool.submit(job)
        self.jobs += 1
        waited = asyncio.wrap_future(future)
        waited.add_done_callback(self._done)
        try:
            while not (await asyncio.wait({waited}, timeout=LOOK_S))[0]:
                if job.used_s() > limit_s:
                    job.end()
            return waited.result()
        except Overtime:
            message = f"{what} took more than {limit_s:.0f} s of computing"
            raise ApiError(400, message, code="too_much_work") from None
        except asyncio.CancelledError:  # its client has gone
            future.cancel()
            job.end()
            raise

    def _done(self, waited: asyncio.Future[Any]) -> None:
        self.jobs -= 1
        if not waited.cancelled():
            waited.exception()  # looked at, whoever has left


WORKERS = Workers()
off_loop = WORKERS.run
