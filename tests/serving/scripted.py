"""The real application, in this process, over an engine that answers what a test tells it to."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from faked import served_app

from steelyard.model import Tokenizer
from steelyard.serving import EngineSettings, ServeSettings
from steelyard.serving.base.keys import KeyRing
from steelyard.serving.engines import Event
from steelyard.serving.host.generation import Served


@dataclass
class ScriptedEngine:
    """Says `text`, a token an event, and remembers what it was asked. `gate`: it says nothing before."""

    tokenizer: Tokenizer
    settings: EngineSettings
    text: str = "Hello."
    asked: list[dict[str, Any]] = field(default_factory=list)
    gate: asyncio.Event | None = None
    fault: Exception | None = None
    cached: int | None = None
    state: str = "ready"
    slots: int = 8
    adapters: dict[str, str] = field(default_factory=dict)
    load: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    restarts: int = 0
    pid: int = 0
    stopped: bool = False

    @property
    def last_token_at(self) -> float:
        return time.monotonic()

    async def until_ready(self, limit_s: float) -> bool:
        return True

    async def submit(self, request, ended=lambda begun: None, generated=lambda prompt, ids: None):
        self.asked.append(request)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.fault is not None:
                raise self.fault
            ids = self.tokenizer.encode(self.text)[: request["max_tokens"]]
            for at, token in enumerate(ids):
                generated(0 if at else len(request["ids"]), 1)
                last = at == len(ids) - 1
                finish = ("length" if len(ids) == request["max_tokens"] else "stop") if last else None
                cached = self.cached if at == 0 else None
                yield Event(0, [token], logprobs=[-0.5], finish=finish, cached=cached)
        finally:
            ended(True)

    @property
    def prompt(self) -> str:
        """What the model read last."""
        return self.tokenizer.decode(self.asked[-1]["ids"], skip_special=False)


@dataclass
class Scripted:
    """A served model whose answers are `say`; requests go through the guard and all routes."""

    app: Any
    engine: ScriptedEngine
    served: Served

    def say(self, text: str) -> None:
        self.engine.text = text

    def ask(self, path: str, body: Any = None, method: str | None = None, **headers: str) -> httpx.Response:
        """`headers` with _ for -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return asyncio.run(self._ask(method or ("GET" if body is None else "POST"), path, body, named))

    async def _ask(self, method: str, path: str, body: Any, headers: dict[str, str]) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, json=body, headers=headers)


def scripted(
    folder: Path, max_model_len: int = 4096, keys: KeyRing | None = None, **settings: Any
) -> Scripted:
    """Over the tokenizer in `folder`."""
    tokenizer = Tokenizer(folder)
    engine = ScriptedEngine(tokenizer, EngineSettings(folder=str(folder), max_model_len=max_model_len))
    application, served = served_app(folder, engine, keys, **{"name": ServeSettings().name, **settings})
    return Scripted(application, engine, served)


def with_template(folder: Path, out: Path, template: str) -> Path:
    """A copy of a tokenizer's files under another chat template."""
    out.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json"):
        if (folder / name).exists():
            shutil.copy(folder / name, out / name)
    config = json.loads((out / "tokenizer_config.json").read_text())
    (out / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    return out


def events_of(answer: httpx.Response) -> list[dict[str, Any]]:
    """The JSON of a stream's events."""
    lines = (line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: "))
    return [json.loads(line) for line in lines if line != "[DONE]"]
