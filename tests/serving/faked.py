"""The real application: guard, routes, queue and tokenizer, over an engine that makes what it is told."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from steelyard.model import Tokenizer
from steelyard.serving.api.app import app
from steelyard.serving.base.keys import KeyRing
from steelyard.serving.base.measures import Measures
from steelyard.serving.engines import EngineSettings, Event, Scores
from steelyard.serving.host.engine_process import EngineCrashed, EngineLost
from steelyard.serving.host.generation import Served
from steelyard.serving.host.settings import ServeSettings


class FakeEngine:
    """An engine process's methods without a process. `text_ids` are made again and again, one a step.

    `held`: cleared, nothing is made, and whoever leaves keeps its slot until it is set again.
    """

    def __init__(self, context: int = 512, slots: int = 4) -> None:
        self.settings = EngineSettings(
            folder="", engine="openvino", max_model_len=context, max_num_seqs=slots
        )
        self.state, self.stopped, self.pid, self.pids = "ready", False, 1, [1]
        self.load, self.metrics = {"load_s": 0.1}, {"cache_usage": 0.0}
        self.last_token_at, self.restarts, self.active = 0.0, 0, 0
        self.slots, self.adapters = slots, {}
        self.text_ids = [5, 6, 7]
        self.held = asyncio.Event()
        self.held.set()
        self.requests: list[dict[str, Any]] = []
        self.scored: list[list[int]] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.begins, self.crashes = True, 0  # what leaves had been begun; requests that end the engine
        self.noted = lambda: None

    async def until_ready(self, limit_s: float) -> bool:
        return self.state == "ready"

    async def submit(self, request, ended=lambda begun: None, generated=lambda prompt, ids: None):
        self.requests.append(request)
        self.noted()
        if self.crashes:
            self.crashes -= 1
            raise EngineCrashed("the engine process ended")
        finished, step = False, 0
        self.active += 1
        try:
            while not finished:
                await self.held.wait()
                await asyncio.sleep(0)
                finished = step == request["max_tokens"] - 1
                generated(0 if step else len(request["ids"]), 1)
                logprobs = [-0.5] if request.get("logprobs") else None
                token = self.text_ids[step % len(self.text_ids)]
                step += 1
                yield Event(1, [token], logprobs, "length" if finished else None)
        finally:
            letting_go = asyncio.create_task(
                self._let_go(ended, generated, 0 if step else len(request["ids"]))
            )
            self.tasks.append(letting_go)

    async def _let_go(self, ended, generated, prompt_tokens: int) -> None:
        await self.held.wait()
        self.active -= 1
        if self.begins and prompt_tokens:
            generated(prompt_tokens, 0)
        ended(self.begins)

    async def score(self, ids: list[int], top: int) -> Scores:
        self.scored.append(ids)
        await self.held.wait()
        places = len(ids) - 1
        return Scores([-1.0] * places, [[0] * top] * places, [[-1.0] * top] * places)

    async def embed(self, batch: list[list[int]]) -> list[list[float]]:
        raise EngineLost("a model that generates has no embeddings")


def served_app(
    folder: Path, engine: Any, keys: KeyRing | None = None, encoder: Any = None, **settings: Any
) -> tuple[Any, Served]:
    """The ASGI application, and the served model behind it."""
    own = ServeSettings(**{"name": "tiny", **settings})
    measures = Measures(own.name, "openvino")
    served = Served(engine, Tokenizer(folder), measures, keys, own.max_queue_s, encoder, own.clamp_max_tokens)
    return app(served, own, "0", folder), served


@asynccontextmanager
async def client_of(application: Any):
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=120) as client:
        yield client


def post_all(application: Any, path: str, bodies: list[Any], headers: dict[str, str] | None = None) -> list:
    """Answers to bodies (bytes as they are, else as JSON), one after another."""

    async def run():
        async with client_of(application) as client:
            more = {"content-type": "application/json", **(headers or {})}
            raw = [body if isinstance(body, bytes) else json.dumps(body).encode() for body in bodies]
            return [await client.post(path, content=data, headers=more) for data in raw]

    return asyncio.run(run())
