"""vLLM or SGLang behind the engine protocol: its own server as a child, asked over HTTP in token ids.

The guard, keys, queue, dialects and tokenizer stay steelyard's; the server listens for this process alone.
NVIDIA, AMD, Gaudi and Intel GPUs are reached by the same words and are untested.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from types import ModuleType
from typing import Any

import httpx
import orjson

from ....lines import each_line_soon
from ..protocol import EngineSettings, Event, GenRequest, Scores
from . import sglang, vllm
from .interpreter import interpreter
from .process import ServerProcess
from .settings import launch_for

WORDS: dict[str, ModuleType] = {"vllm": vllm, "sglang": sglang}
STEP_S = 0.01  # a step waits so long for an event
LOOK_S = 0.25  # between two looks at a server that loads
METRICS_S = 5.0
DATA = b"data: "


class LaunchedEngine:
    """One server of an engine; requests are tasks of an event loop in a thread of its own."""

    def __init__(self, settings: EngineSettings) -> None:
        self.name = settings.engine
        self.settings = settings
        self.words = WORDS[settings.engine]
        self.server = ServerProcess(launch_for(settings), interpreter(settings.engine, settings.python))
        self.adapters = set(settings.adapters)
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.tasks: dict[int, Future[None]] = {}
        self.usage = 0.0
        self.hits = 0
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.client = _client(self.server)
        self._until_ready()
        self.server.exit_with_it()
        asyncio.run_coroutine_threadsafe(self._look(), self.loop)

    def _until_ready(self) -> None:
        """Raises RuntimeError where the server ends; how long it may load is the keeper's business."""
        while not self._call(self._healthy()):
            if self.server.ended:
                why = self.server.why()
                self.server.close()
                raise RuntimeError(why)
            time.sleep(LOOK_S)

    async def _healthy(self) -> bool:
        with suppress(httpx.HTTPError):
            return bool((await self.client.get(self.words.HEALTH)).status_code == 200)
        return False

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    # ------------------------------------------------------------------ answers

    def add(self, request: GenRequest) -> None:
        if request.adapter is not None and request.adapter not in self.adapters:
            raise ValueError(f"no adapter {request.adapter!r} is loaded")
        task = asyncio.run_coroutine_threadsafe(self._answer(request), self.loop)
        self.tasks[request.request_id] = task

    async def _answer(self, request: GenRequest) -> None:
        """Its events, the last one with a `finish`, unless it is cancelled."""
        finished = False
        try:
            async for event in self._streamed(request):
                finished = event.finish is not None
                self.events.put(event)
        except Exception:  # whatever it is, the request must not stay for ever
            await asyncio.sleep(LOOK_S)  # where the server has ended, so does this process
        if not finished:
            self.events.put(Event(request.request_id, [], finish="error"))

    async def _streamed(self, request: GenRequest) -> Any:
        held: Event | None = None  # the end, until the server has said what its cache held
        async with self.client.stream("POST", self.words.GENERATE, json=self.words.body(request)) as response:
            if response.status_code != 200:
                await response.aread()
                yield _refused(request, _message(response), response.status_code)
                return
            async for line in each_line_soon(response.aiter_bytes()):
                if not line.startswith(DATA) or line[len(DATA) :].strip() == b"[DONE]":
                    continue
                chunk = orjson.loads(line[len(DATA) :])
                if "error" in chunk:
                    yield _refused(request, str(chunk["error"].get("message")), chunk["error"].get("code"))
                    return
                event = self.words.event_of(request, chunk)
                if event is None:
                    continue
                if held is not None:
                    held.cached = event.cached
                elif event.finish:
                    held = event
                else:
                    yield event
        if held is not None:
            yield held

    def cancel(self, request_id: int) -> bool:
        """Leaving the stream is how both servers learn of it."""
        if task := self.tasks.get(request_id):
            task.cancel()
        return False  # neither says how far it was

    def holds(self, request_id: int) -> bool:
        """Until the connection is closed."""
        task = self.tasks.get(request_id)
        if task is None or not task.done():
            return task is not None
        del self.tasks[request_id]
        return False

    def busy(self) -> bool:
        return bool(self.tasks) or not self.events.empty()

    def step(self) -> list[Event]:
        """What has come; waits a moment for the first."""
        events: list[Event] = []
        with suppress(queue.Empty):
            events.append(self.events.get(timeout=STEP_S))
            while True:
                events.append(self.events.get_nowait())
        for event in events:
            self._count(event)
        return [event for event in events if event.ids or event.finish]

    def _count(self, event: Event) -> None:
        if event.cached is not None:
            self.hits += event.cached
        if event.finish:
            self.tasks.pop(event.request_id, None)

    # ------------------------------------------------------------------ scores

    def score(self, ids: list[int], top: int) -> Scores:
        answer = self._call(self._asked(self.words.GENERATE, self.words.score_body(ids, top)))
        scores: Scores = self.words.scores_of(answer, ids, top)
        return scores

    def score_pieces(self, ids: list[int], top: int) -> Iterator[Scores | None]:
        """Answers under way go on meanwhile."""
        body = self.words.score_body(ids, top)
        asked = asyncio.run_coroutine_threadsafe(self._asked(self.words.GENERATE, body), self.loop)
        while not asked.done():
            yield None
            time.sleep(STEP_S / 2)
        yield self.words.scores_of(asked.result(), ids, top)

    async def _asked(self, path: str, body: dict[str, Any]) -> Any:
        """One answer as JSON. Raises ValueError for what the server refuses."""
        response = await self.client.post(path, json=body)
        if response.status_code != 200:
            raise ValueError(_message(response))
        return (
            response.json()
            if response.headers.get("content-type", "").startswith("application/json")
            else None
        )

    def embed(self, batch: list[list[int]]) -> list[list[float]]:
        raise NotImplementedError("a model that generates has no embeddings; serve an encoder beside it")

    # ------------------------------------------------------------------ adapters and what else there is

    def load_adapter(self, name: str, folder: str) -> None:
        if not self.settings.adapters:
            raise ValueError(
                f"{self.name} reserves room for adapters at its start: name one there (--adapter)"
            )
        self._call(self._asked(self.words.LOAD_ADAPTER, self.words.adapter_body(name, folder)))
        self.adapters.add(name)

    def drop_adapter(self, name: str) -> None:
        self._call(self._asked(self.words.DROP_ADAPTER, self.words.adapter_body(name, None)))
        self.adapters.discard(name)

    def forget_grammars(self) -> None:
        """Its cache is its own affair."""

    def idle(self, seconds: float) -> None:
        """Nothing is given back: the cache is one block, taken at the start."""

    async def _look(self) -> None:
        """How full the cache is, by the server's own figures."""
        while True:
            with suppress(httpx.HTTPError, ValueError):
                text = (await self.client.get("/metrics")).text
                values = [
                    x.rpartition(" ")[2] for x in text.splitlines() if x.startswith(self.words.CACHE_USAGE)
                ]
                self.usage = max((float(value) for value in values), default=0.0)
            await asyncio.sleep(METRICS_S)

    def metrics(self) -> dict[str, float]:
        return {"cache_usage": self.usage, "prefix_cache_hits": float(self.hits)}

    def close(self) -> None:
        self.server.close()


def _client(server: ServerProcess) -> httpx.AsyncClient:
    """To that server alone, past any proxy; an answer takes as long as it takes."""
    door = server.door
    uds = None if door.port else door.socket
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    return httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{door.port}" if door.port else "http://engine",
        headers={"Authorization": f"Bearer {door.key}"},
        transport=httpx.AsyncHTTPTransport(verify=False, uds=uds, limits=limits, trust_env=False),
        timeout=httpx.Timeout(None, connect=10.0),
        trust_env=False,
    )


def _refused(request: GenRequest, message: str, status: Any) -> Event:
    """A 400 is the request's own fault, and says so."""
    own = str(status) in ("400", "404", "422")
    return Event(request.request_id, [], finish="error", why=message if own else None)


def _message(response: httpx.Response) -> str:
    with suppress(ValueError, AttributeError):
        document = response.json()
        return str(document.get("error", document).get("message") or document)
    return response.text[:500]
