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
from dataclasses import asdict, fields, replace
from typing import Any

import orjson

from ...errors import Lacking
from ...units import show_s
from ..engines import EngineSettings, Event, GenRequest, Scores

HANG_S = 20.0  # work in flight, no event and next to no CPU time for so long: a hang
SPIN_S = 300.0  # the same while it computes: one step of a large model may take a minute
LOAD_HANG_S, LOAD_SPIN_S = 120.0, 1800.0  # while it loads: a slow disk takes next to no CPU for a while
STOPPED_S = 60.0  # someone stopped the process and may go on soon; SIGSTOP and SIGCONT are no hang
TICK_S = 1.0
IDLE_CORES = 0.05  # of a core: below, an engine computes nothing
BACKOFF_S = (0.2, 1.0, 5.0, 15.0, 30.0)  # before each restart; back to the first after a calm minute
CALM_S = 60.0
ATTEMPTS = 3  # a request that ends the engine each time must not go on doing so
WORDS_S = 0.5  # for the last words of a process that has ended
WORDS_BYTES = 4096
READY_S = 60.0  # a request waits so long for an engine that starts again
LINE_LIMIT = 1 << 26  # a scored prompt of 8,192 tokens with 20 likeliest each is 6 MB

ENDED = "the engine process ended"
REPLIES = ("scores", "embeddings", "done")


class EngineLost(Exception):
    """The engine went away, or could not do what was asked."""


class EngineCrashed(EngineLost):
    """Its process ended while it worked on this: asking again may help.

    `fresh`: nothing had come of it yet, so it may be the cause.
    """

    fresh = False


class EngineEnding(EngineLost):
    """The service ends, and the answer with it."""


class EngineRefused(EngineLost):
    """It would not take this request."""


class EngineProcess:
    """One engine child. `state`: "loading", "ready", "stalled" (ended or silent) or "closed"."""

    def __init__(
        self,
        settings: EngineSettings,
        log: Callable[..., None],
        output: int = subprocess.DEVNULL,
    ) -> None:
        self.settings, self.log = settings, log
        self.output = output  # where the native library's own words go, beside the last of them
        self._state = "loading"
        self.load: dict[str, float] = {}
        self.metrics: dict[str, float] = {}
        self.last_token_at = self.last_work_at = 0.0
        self.restarts = 0
        self._ids = itertools.count(1)
        self._queues: dict[int, asyncio.Queue[Event | Exception]] = {}
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._returning = 0  # questions that wait for it to start again
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()  # set, and made anew, at each change of state
        self._callbacks: dict[int, tuple[Callable[[bool], None], Callable[[int, int], None], int]] = {}
        self.why_lost = ENDED
        self._words: LastWords | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def state(self) -> str:
        return self._state

    @state.setter
    def state(self, state: str) -> None:
        self._state = state
        self._changed.set()
        self._changed = asyncio.Event()

    @property
    def stopped(self) -> bool:
        """Whether someone has stopped it by a signal."""
        return self.pid is not None and _cpu(self.pid)[1]

    def move(self, folder: str) -> None:
        """Where a restart finds the model from now on."""
        self.settings = replace(self.settings, folder=folder)

    @property
    def pids(self) -> list[int]:
        return [self.pid] if self.pid else []

    @property
    def slots(self) -> int:
        """Requests that its batch takes."""
        return self.settings.max_num_seqs

    async def until_ready(self, limit_s: float) -> bool:
        """Whether it is ready, now or within `limit_s`; False at once where it is closed."""
        with suppress(asyncio.TimeoutError):
            async with asyncio.timeout(limit_s):
                while self.state not in ("ready", "closed"):
                    await self._changed.wait()
        return self.state == "ready"

    @property
    def active(self) -> int:
        """Requests and questions that the engine has not let go: those whose reader has left too."""
        return len(self._callbacks) + len(self._calls) + self._returning

    async def start(self) -> None:
        """Raises Lacking where the engine cannot load the model."""
        try:
            reader = await self._spawn()
        except Lacking:
            self.state = "closed"
            raise
        self._tasks = [asyncio.create_task(self._watch(reader)), asyncio.create_task(self._end_hangs())]

    async def _spawn(self) -> asyncio.StreamReader:
        ours, theirs = socket.socketpair()
        fd = theirs.fileno()
        command = [
            sys.executable,
            "-m",
            f"{__package__}.engine_child",
            str(fd),
            str(os.getpid()),
        ]
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *command, pass_fds=(fd,), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, process_group=0,
            )  # fmt: skip
        assert self._process.stdout is not None
        self._words = LastWords(self._process.stdout, self.output)
        reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=LINE_LIMIT)
        self._send(asdict(self.settings))
        first = await self._first_line(reader)
        if "ready" not in first:
            self._kill()
            await self._process.wait()
            why = first["failed"]["why"]
            raise Lacking(
                "serve.engine",
                f"the engine {self.settings.engine} could not load the model",
                why=await self._words.after(ENDED) if why == ENDED else why,
                hint="see the log; is there memory enough, and is the model folder whole?",
            )
        self.load, self.state = first["ready"], "ready"
        self.log("engine.ready", pid=self.pid, **self.load)
        return reader

    async def _first_line(self, reader: asyncio.StreamReader) -> dict[str, Any]:
        """What the child says once it has loaded, that it ended before, or that it did nothing for long."""
        silent = Silence(LOAD_HANG_S, LOAD_SPIN_S)
        line = asyncio.create_task(_first_line(reader))
        try:
            while not (await asyncio.wait({line}, timeout=TICK_S))[0]:
                if limit := silent.limit_s(self.pid, 0.0):
                    why = f"the engine was loading for {limit:.0f} s and nothing came of it; it was ended"
                    return {"failed": {"why": why}}
            return line.result()
        finally:
            line.cancel()

    # ------------------------------------------------------------------ asking

    async def submit(
        self,
        request: dict[str, Any],
        ended: Callable[[bool], None] = lambda begun: None,
        generated: Callable[[int, int], None] = lambda prompt, ids: None,
    ) -> AsyncGenerator[Event, None]:
        """Events of one answer. Leaving the loop early asks the engine to let go.

        Called as the engine goes, even if the reader is slow or has left: `generated` with the prompt tokens
        read and the ids made, `ended` once the engine has let go, with whether it had begun. Raises
        EngineLost; then `ended` is not called, since who asks may ask again.
        """
        if self.state != "ready":
            raise EngineLost(f"the engine is {self.state}")
        wanted = GenRequest(request_id=next(self._ids), **request)
        queue: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self._queues[wanted.request_id] = queue
        self._callbacks[wanted.request_id] = (ended, generated, len(wanted.ids))
        self._send({"op": "add", **_shallow(wanted)})
        finished = False
        try:
            while not finished:
                event = await queue.get()
                if isinstance(event, Exception):
                    finished = True
                    self._callbacks.pop(wanted.request_id, None)
                    raise event
                finished = event.finish is not None
                yield event
        finally:
            self._queues.pop(wanted.request_id, None)
            if not finished and wanted.request_id in self._callbacks:
                self._send({"op": "cancel", "request_id": wanted.request_id})

    def _end(self, request_id: int, begun: bool = True) -> None:
        """The engine has let go; a prompt of which nothing was reported counts now, if it had begun."""
        if callbacks := self._callbacks.pop(request_id, None):
            ended, generated, prompt_tokens = callbacks
            if begun and prompt_tokens:
                generated(prompt_tokens, 0)
            ended(begun)

    def _report(self, event: Event) -> None:
        """The prompt counts with the first ids."""
        if callbacks := self._callbacks.get(event.request_id):
            ended, generated, prompt_tokens = callbacks
            generated(prompt_tokens, len(event.ids))
            self._callbacks[event.request_id] = (ended, generated, 0)

    @property
    def adapters(self) -> dict[str, str]:
        """Name -> folder, as a restarted engine would load them."""
        return self.settings.adapters

    async def score(self, ids: list[int], top: int) -> Scores:
        """Teacher-forced scores of ids[1:]. Raises EngineLost."""
        return Scores(*await self._insist("score", ids=ids, top=top))

    async def embed(self, batch: list[list[int]]) -> list[list[float]]:
        """One vector a list of ids. Raises EngineLost."""
        (vectors,) = await self._insist("embed", batch=batch)
        self.last_token_at = self.last_work_at = time.monotonic()
        return list(vectors)

    async def load_adapter(self, name: str, folder: str) -> None:
        """Load it, or again under the same name. Raises EngineLost."""
        await self._ask("load_adapter", name=name, folder=folder)
        self.settings = replace(self.settings, adapters={**self.adapters, name: folder})

    async def drop_adapter(self, name: str) -> None:
        """One that ends over it starts again without it. Raises EngineLost."""
        try:
            await self._ask("drop_adapter", name=name)
        except EngineCrashed:
            self._forget_adapter(name)
            raise
        self._forget_adapter(name)

    def _forget_adapter(self, name: str) -> None:
        others = {other: folder for other, folder in self.adapters.items() if other != name}
        self.settings = replace(self.settings, adapters=others)

    async def forget_grammars(self) -> None:
        """One that is away has none."""
        with suppress(EngineLost):
            await self._ask("forget_grammars")

    async def _insist(self, op: str, **what: Any) -> list[Any]:
        """A question that may be asked again where the engine ends over it, or starts again just now."""
        for _ in range(ATTEMPTS - 1):
            with suppress(EngineCrashed):
                return await self._ask_ready(op, **what)
        return await self._ask_ready(op, **what)

    async def _ask_ready(self, op: str, **what: Any) -> list[Any]:
        self._returning += 1
        try:
            await self.until_ready(READY_S)
        finally:
            self._returning -= 1
        return await self._ask(op, **what)

    async def _ask(self, op: str, **what: Any) -> list[Any]:
        """One question, one reply."""
        if self.state != "ready":
            raise EngineLost(f"the engine is {self.state}")
        request_id = next(self._ids)
        self._calls[request_id] = asyncio.get_running_loop().create_future()
        self._send({"op": op, "request_id": request_id, **what})
        try:
            return list(await self._calls[request_id])
        finally:
            self._calls.pop(request_id, None)

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
            if self.why_lost == ENDED and self._words:
                self.why_lost = await self._words.after(ENDED)
            self._lost()
            attempt = 0 if time.monotonic() - began > CALM_S else attempt
            while self.state != "ready":
                await asyncio.sleep(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)])
                attempt += 1
                self.restarts += 1
                self.state = "loading"
                try:
                    reader = await self._spawn()
                except Exception as e:  # whatever it is, the next try may do; this loop must not end
                    self.log("engine.restart_failed", why=e.why if isinstance(e, Lacking) else repr(e))
                    self.state = "stalled"

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Until the process ends; killed while it wrote, it leaves a torn line (ValueError).

        A message that cannot be read is the engine's end too: what it says next cannot be trusted.
        """
        try:
            while line := await reader.readline():
                self._dispatch(orjson.loads(line))
        except (ConnectionError, ValueError):
            return
        except Exception as e:
            self.why_lost = f"the engine said what cannot be read: {e!r}"

    def _dispatch(self, message: dict[str, Any]) -> None:
        self.metrics = message.get("metrics", self.metrics)
        if "events" in message:
            self.last_token_at = self.last_work_at = time.monotonic()
            for fields in message["events"]:
                event = Event(*fields)
                if queue := self._queues.get(event.request_id):
                    queue.put_nowait(event)
                self._report(event)
                if event.finish:
                    self._end(event.request_id)
        elif "worked" in message:
            self.last_work_at = time.monotonic()
        elif kind := next((name for name in REPLIES if name in message), None):
            fields = message[kind]
            request_id, *rest = fields if isinstance(fields, list) else [fields]
            if (future := self._calls.get(request_id)) and not future.done():
                future.set_result(rest)
        elif left := message.get("left"):
            self._end(left[0], begun=not left[1])
        elif failed := message.get("failed"):
            error = EngineRefused if failed["refused"] else EngineLost
            self._fail(failed["id"], error(failed["why"]))

    def _fail(self, request_id: int, why: Exception) -> None:
        if queue := self._queues.get(request_id):
            queue.put_nowait(why)
        if (future := self._calls.get(request_id)) and not future.done():
            future.set_exception(why)

    def end_all(self, why: str) -> None:
        """Whatever is under way ends with EngineEnding."""
        for request_id in [*self._queues, *self._calls]:
            self._fail(request_id, EngineEnding(why))

    def _lost(self) -> None:
        self._kill()
        self.state = "stalled"
        self.log("engine.lost", pid=self.pid, why=self.why_lost)
        self._fail_all(self._crash)
        self.why_lost = ENDED

    def _crash(self, request_id: int) -> EngineCrashed:
        crash = EngineCrashed(self.why_lost)
        crash.fresh = bool(self._callbacks.get(request_id, (None, None, 0))[2])
        return crash

    def _fail_all(self, why: Callable[[int], Exception]) -> None:
        """Nothing more comes of what is under way."""
        for request_id in [*self._queues, *self._calls]:
            self._fail(request_id, why(request_id))
        for request_id in [number for number in self._callbacks if number not in self._queues]:
            self._end(request_id)  # their readers had left

    async def _end_hangs(self) -> None:
        """kill -9 an engine that has work and makes nothing; `_watch` does the rest."""
        silent = Silence(HANG_S, SPIN_S)
        while self.state != "closed":
            before = time.monotonic()
            await asyncio.sleep(TICK_S)
            busy = bool(self._callbacks or self._calls) and self.state == "ready"
            paused = time.monotonic() - before > 3 * TICK_S  # this process itself stood still
            try:
                limit = silent.limit_s(self.pid, None if paused or not busy else self.last_work_at)
            except Exception as e:  # the system cannot say just now; this loop must not end
                self.log("engine.not_watched", why=repr(e))
                continue
            if limit is None or self.pid is None:
                continue
            self.why_lost = f"the engine made nothing for {show_s(limit)}"
            self._kill()

    def _kill(self) -> None:
        """Its whole process group: some engines have workers that outlive them."""
        if self.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    async def close(self) -> None:
        """End the child: by closing its socket, after a second by force. Who still waits for it is told."""
        self.state = "closed"
        self._fail_all(lambda request_id: EngineLost("the engine was closed"))
        if self._writer:
            self._writer.close()
        if self._process and self._process.returncode is None:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._process.wait(), 1.0)
        self._kill()
        if self._process:
            await self._process.wait()
        for task in self._tasks:
            task.cancel()


def _shallow(request: GenRequest) -> dict[str, Any]:
    """Its fields as they are: `asdict` would copy a prompt id by id."""
    return {field.name: getattr(request, field.name) for field in fields(request)}


class LastWords:
    """What a process says outside the protocol goes where it is to go, and the end of it is kept."""

    def __init__(self, stream: asyncio.StreamReader, output: int) -> None:
        self.stream, self.output, self.end = stream, output, b""
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while piece := await self.stream.read(1 << 16):
            self.end = (self.end + piece)[-WORDS_BYTES:]
            if self.output != subprocess.DEVNULL:
                with suppress(OSError):  # a full disk
                    os.write(self.output, piece)

    async def after(self, what: str) -> str:
        """`what` and the last line. Who else holds the pipe, a grandchild say, is not waited for."""
        await asyncio.wait({self.reading}, timeout=WORDS_S)
        lines = self.end.decode("utf-8", "replace").strip().splitlines()
        return f"{what}: {lines[-1].strip()[-500:]}" if lines else what


class Silence:
    """How long an engine with work in flight has made nothing, and whether that is too long."""

    def __init__(self, hang_s: float, spin_s: float) -> None:
        """`hang_s` without computing, `spin_s` with."""
        self.hang_s, self.spin_s = hang_s, spin_s
        self.since: float | None = None  # of the silence
        self.marker: float | None = None  # last_work_at when it began
        self.idle_since: float | None = None  # it has computed nothing since
        self.cpu_s = 0.0

    def limit_s(self, pid: int | None, last_work_at: float | None) -> float | None:
        """The limit that was exceeded, else None. `last_work_at` None: nothing is expected of it now."""
        now = time.monotonic()
        if pid is None or last_work_at is None or last_work_at != self.marker or self.since is None:
            self.since, self.marker, self.idle_since = now, last_work_at, None
            return None
        cpu_s, stopped = _cpu(pid)
        if cpu_s - self.cpu_s > IDLE_CORES * TICK_S or self.idle_since is None:
            self.idle_since = now
        self.cpu_s = cpu_s
        limit = STOPPED_S if stopped else self.hang_s
        if now - self.idle_since > limit:
            return limit
        return self.spin_s if now - self.since > self.spin_s and not stopped else None


def _cpu(pid: int) -> tuple[float, bool]:
    """CPU seconds of a process and its children, and whether it stands stopped by a signal."""
    import psutil

    with suppress(psutil.Error):
        process = psutil.Process(pid)
        processes = [process, *process.children(recursive=True)]
        used = sum(t.user + t.system for t in (p.cpu_times() for p in processes))
        return used, process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    return 0.0, False


async def _first_line(reader: asyncio.StreamReader) -> dict[str, Any]:
    """What the child says once it has loaded, or that it ended before."""
    with suppress(ConnectionError, ValueError):
        if line := await reader.readline():
            message: dict[str, Any] = orjson.loads(line)
            return message
    return {"failed": {"why": ENDED}}
