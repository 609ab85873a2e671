"""The engine as the front end sees it: a child process, started, asked, watched and started again."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import orjson

from ..errors import Lacking
from .engines import EngineSettings, Event, GenRequest, Scores

BACKOFF_S = (0.2, 1.0, 5.0, 15.0, 30.0)  # before each restart; back to the first after a calm minute
CALM_S = 60.0
LINE_LIMIT = 1 << 26  # a scored prompt of 8,192 tokens with 20 likeliest each is 6 MB

REPLIES = ("scores", "embeddings", "done")


class EngineLost(Exception):
    """The engine went away, or could not do what was asked."""


class EngineProcess:
    """One engine child. `state`: "loading", "ready", "stalled" (restarting) or "closed"."""

    def __init__(
        self, settings: EngineSettings, log: Callable[..., None], output: int = subprocess.DEVNULL
    ) -> None:
        self.settings, self.log = settings, log
        self.output = output  # where the native library's own words go
        self.state = "loading"
        self.load: dict[str, float] = {}
        self.metrics: dict[str, float] = {}
        self.last_token_at = 0.0
        self.restarts = 0
        self._ids = itertools.count(1)
        self._queues: dict[int, asyncio.Queue[Event | Exception]] = {}
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def active(self) -> int:
        """Requests taken and not finished."""
        return len(self._queues)

    async def start(self) -> None:
        """Raises Lacking where the engine cannot load the model."""
        reader = await self._spawn()
        self._watching = asyncio.create_task(self._watch(reader))

    async def _spawn(self) -> asyncio.StreamReader:
        ours, theirs = socket.socketpair()
        fd = theirs.fileno()
        command = [sys.executable, "-m", f"{__package__}.engine_child", str(fd), str(os.getpid())]
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *command, pass_fds=(fd,), stdin=subprocess.DEVNULL, stdout=self.output, stderr=self.output
            )
        reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=LINE_LIMIT)
        self._send(asdict(self.settings))
        first = orjson.loads(await reader.readline() or b'{"failed": {"why": "the engine process ended"}}')
        if "ready" not in first:
            self.state = "closed"
            raise Lacking(
                "serve.engine",
                f"the engine {self.settings.engine} could not load the model",
                why=first["failed"]["why"],
                hint="see the log; is there memory enough, and is the model folder whole?",
            )
        self.load, self.state = first["ready"], "ready"
        self.log("engine.ready", pid=self.pid, **self.load)
        return reader

    # ------------------------------------------------------------------ asking

    async def submit(self, request: dict[str, Any]) -> AsyncGenerator[Event, None]:
        """Events of one answer. Leaving the loop early frees the slot. Raises EngineLost."""
        if self.state != "ready":
            raise EngineLost(f"the engine is {self.state}")
        wanted = GenRequest(request_id=next(self._ids), **request)
        queue: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self._queues[wanted.request_id] = queue
        self._send({"op": "add", **asdict(wanted)})
        finished = False
        try:
            while not finished:
                event = await queue.get()
                if isinstance(event, Exception):
                    finished = True
                    raise event
                finished = event.finish is not None
                yield event
        finally:
            self._queues.pop(wanted.request_id, None)
            if not finished:
                self._send({"op": "cancel", "request_id": wanted.request_id})

    @property
    def adapters(self) -> dict[str, str]:
        """Name -> folder, as a restarted engine would load them."""
        return self.settings.adapters

    async def score(self, ids: list[int], top: int) -> Scores:
        """Teacher-forced scores of ids[1:]. Raises EngineLost."""
        return Scores(*await self._ask("score", ids=ids, top=top))

    async def embed(self, batch: list[list[int]]) -> list[list[float]]:
        """One vector a list of ids. Raises EngineLost."""
        (vectors,) = await self._ask("embed", batch=batch)
        return list(vectors)

    async def load_adapter(self, name: str, folder: str) -> None:
        """Load it, or again under the same name. Raises EngineLost."""
        await self._ask("load_adapter", name=name, folder=folder)
        self.settings = replace(self.settings, adapters={**self.adapters, name: folder})

    async def drop_adapter(self, name: str) -> None:
        await self._ask("drop_adapter", name=name)
        kept = {known: folder for known, folder in self.adapters.items() if known != name}
        self.settings = replace(self.settings, adapters=kept)

    async def _ask(self, op: str, **what: Any) -> list[Any]:
        """One question, one reply."""
        if self.state != "ready":
            raise EngineLost(f"the engine is {self.state}")
        request_id = next(self._ids)
        self._asked[request_id] = asyncio.get_running_loop().create_future()
        self._send({"op": op, "request_id": request_id, **what})
        try:
            return list(await self._asked[request_id])
        finally:
            self._asked.pop(request_id, None)

    def _send(self, message: dict[str, Any]) -> None:
        if self._writer and not self._writer.is_closing():
            self._writer.write(orjson.dumps(message) + b"\n")

    # ------------------------------------------------------------------ watching

    async def _watch(self, reader: asyncio.StreamReader) -> None:
        """Hand out what comes; when it ends, fail what waits and start the engine again."""
        attempt = 0
        while self.state != "closed":
            began = time.monotonic()
            await self._read(reader)
            if self.state == "closed":
                return
            self._lost()
            attempt = 0 if time.monotonic() - began > CALM_S else attempt
            while self.state == "stalled":
                await asyncio.sleep(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)])
                attempt += 1
                self.restarts += 1
                try:
                    reader = await self._spawn()
                except Lacking as e:
                    self.log("engine.restart_failed", why=e.why)
                    self.state = "stalled"

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while line := await reader.readline():
                self._dispatch(orjson.loads(line))

    def _dispatch(self, message: dict[str, Any]) -> None:
        if "events" in message:
            self.last_token_at = time.monotonic()
            self.metrics = message["metrics"]
            for told in message["events"]:
                if queue := self._queues.get(told[0]):
                    queue.put_nowait(Event(*told))
        elif kind := next((name for name in REPLIES if name in message), None):
            told = message[kind]
            request_id, *rest = told if isinstance(told, list) else [told]
            if (future := self._asked.get(request_id)) and not future.done():
                future.set_result(rest)
        elif "failed" in message:
            self._fail(message["failed"]["id"], EngineLost(message["failed"]["why"]))

    def _fail(self, request_id: int, why: Exception) -> None:
        if queue := self._queues.get(request_id):
            queue.put_nowait(why)
        if (future := self._asked.get(request_id)) and not future.done():
            future.set_exception(why)

    def _lost(self) -> None:
        self.state = "stalled"
        self.log("engine.lost", pid=self.pid)
        for request_id in [*self._queues, *self._asked]:
            self._fail(request_id, EngineLost("the engine process ended"))

    async def close(self) -> None:
        """End the child: by closing its socket, after a second by force."""
        self.state = "closed"
        if self._writer:
            self._writer.close()
        if self._process and self._process.returncode is None:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._process.wait(), 1.0)
            if self._process.returncode is None:
                with suppress(ProcessLookupError):
                    self._process.send_signal(signal.SIGKILL)
                await self._process.wait()
        if self._watching:
            self._watching.cancel()
