"""The real application (guard, routes, queue, stores) over an engine that makes its tokens up at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from faked import served_app

from steelyard.serving.base.keys import KeyRing
from steelyard.serving.engines import EngineSettings, Event
from steelyard.serving.host.engine_process import EngineEnding, EngineProcess

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer_folder(folder: Path) -> Path:
    """A byte-level tokenizer and a template, as a model's folder has them."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Inner

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Inner(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(name, special=True) for name in ("<|im_start|>", "<|im_end|>")])
    folder.mkdir(parents=True, exist_ok=True)
    inner.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    (folder / "chat_template.jinja").write_text(CHATML)
    return folder


class FakeEngine(EngineProcess):
    """Answers with the letter x; waits while `going` is not set."""

    def __init__(self, folder: Path) -> None:
        super().__init__(EngineSettings(folder=str(folder)), lambda *_, **__: None)
        self.state = "ready"
        self.going = asyncio.Event()
        self.going.set()
        self.asked = 0
        self.ending: EngineEnding | None = None

    async def start(self) -> None:
        self.load = {"load_s": 0.1}

    def end_all(self, why: str) -> None:
        self.ending = EngineEnding(why)
        self.going.set()

    async def submit(self, request, ended=lambda: None, generated=lambda *_: None):
        self.asked += 1
        try:
            for i in range(request["max_tokens"]):
                await self.going.wait()
                if self.ending:
                    raise self.ending
                await asyncio.sleep(0)
                finish = "length" if i + 1 == request["max_tokens"] else None
                generated(0 if i else len(request["ids"]), 1)
                yield Event(0, [ord("x") - 33], [-0.1], finish, None, None if i else 0)
        finally:
            ended()


class Faked:
    """One service of the fake engine, asked in this process."""

    def __init__(self, folder: Path, keys: Path | None = None, **settings: Any) -> None:
        self.engine = FakeEngine(folder)
        self.app, self.served = served_app(folder, self.engine, KeyRing(None, keys), **settings)
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60)

    @property
    def stores(self) -> Any:
        return self.served.stores

    async def json(self, method: str, path: str, status: int = 200, **more: Any) -> Any:
        answer = await self.http.request(method, f"/v1/{path}", **more)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def upload(self, data: bytes, purpose: str = "batch", status: int = 200, **more: Any) -> Any:
        form = {"data": {"purpose": purpose}, "files": {"file": ("in.jsonl", data)}}
        return await self.json("POST", "files", status, **form, **more)

    async def batch(self, file_id: str, endpoint: str = "/v1/completions", **more: Any) -> Any:
        asked = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h"}
        return await self.json("POST", "batches", json=asked, **more)

    async def content(self, file_id: str) -> list[Any]:
        answer = await self.http.get(f"/v1/files/{file_id}/content")
        assert answer.status_code == 200, answer.text
        return [json.loads(line) for line in answer.text.splitlines()]

    async def until(self, path: str, wanted: Any, limit_s: float = 60) -> Any:
        async with asyncio.timeout(limit_s):
            while not wanted(document := await self.json("GET", path)):
                await asyncio.sleep(0.02)
        return document


@asynccontextmanager
async def faked(folder: Path, begin: bool = True, **more: Any) -> AsyncIterator[Faked]:
    """Begun as a service that is the user's; closed in peace."""
    service = Faked(folder, **more)
    if begin:
        service.stores.begin(service.app.inner)
    try:
        yield service
    finally:
        await service.stores.close()
        await service.http.aclose()


def completions(count: int, **more: Any) -> bytes:
    """Lines of a batch, each with an id of its own."""
    rows = (
        {
            "custom_id": f"r{i}", "method": "POST", "url": "/v1/completions",
            "body": {"model": "tiny", "prompt": f"say {i}", "max_tokens": 2, **more},
        }
        for i in range(count)
    )  # fmt: skip
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)
